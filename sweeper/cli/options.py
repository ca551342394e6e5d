"""What several commands take, and how they print."""

import json
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from rich.console import Console

from sweeper.cli.password import with_password_file
from sweeper.errors import SweeperError

# As in sweeper.store.urls, which brings SQLAlchemy with it.
DEFAULT_STORAGE: Final = "sqlite:///sweeper.db"

Storage = Annotated[
    str,
    typer.Option(
        envvar="SWEEPER_STORAGE",
        show_default=False,
        callback=with_password_file,
        help="Database URL or SQLite file [sqlite:///sweeper.db]",
    ),
]
Name = Annotated[str, typer.Argument(help="A study in the database.")]
StudyArgument = Annotated[str, typer.Argument(help="A study file, or a ready study's name.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Form = Annotated[Literal["json", "yaml", "python"], typer.Option("--format")]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="Where to write.")]
Workers = Annotated[
    int | None,
    typer.Option(show_default=False, help="How many; 0: this process alone [2; inline: 1]"),
]
# As in sweeper.executors, which brings the engines' modules with it.
ExecutorName = Annotated[
    Literal["inline", "local", "ray", "slurm", "kubernetes"],
    typer.Option("--executor", help="Where the workers run."),
]
TemplateFile = Annotated[
    Path | None,
    typer.Option("--template", help="slurm, kubernetes: a file in place of the one that comes."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A value for the executor, or its template."),
]
Results = Annotated[Path, typer.Option(help="Folder for reports and exports.")]


def console(*, stderr: bool = False) -> Console:
    """Return a console that prints a path or a name as it is: no markup, no emoji."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def as_settings(given: list[str] | None) -> dict[str, str]:
    """Return KEY=VALUE options as a mapping; raises `SweeperError` for another form."""
    pairs = [one.partition("=") for one in given or []]
    for key, equals, _ in pairs:
        if not (key.isidentifier() and equals):
            raise SweeperError(f"--set {key}{equals}: allowed: KEY=VALUE, as in partition=gpu")
    return {key: value for key, _, value in pairs}


def print_json(value: Any) -> None:
    """Print plain data as JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))
