"""Options shared by several commands, and how the commands print."""

import codecs
import json
import math
import sys
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from rich.console import Console

from sweeper import limits
from sweeper.cli.password import with_password_file
from sweeper.errors import SweeperError

# Same as in sweeper.store.urls, whose import would load SQLAlchemy.
DEFAULT_STORAGE: Final = "sqlite:///sweeper.db"


def _as_path(text: str) -> Path:
    """Return the path; an empty one would be the current folder."""
    if not text:
        raise typer.BadParameter("must not be empty.")
    return Path(text)


def path_option(*names: str, help: str, metavar: str = "PATH") -> Any:
    return typer.Option(*names, parser=_as_path, metavar=metavar, help=help)


def path_argument(*, help: str, metavar: str) -> Any:
    return typer.Argument(parser=_as_path, metavar=metavar, help=help)


Storage = Annotated[
    str,
    typer.Option(
        envvar="SWEEPER_STORAGE",
        show_default=False,
        callback=with_password_file,
        help="Database URL or SQLite file; by default sweeper.db.",
    ),
]
Name = Annotated[str, typer.Argument(help="Name of a study in the database.")]
StudyArgument = Annotated[str, typer.Argument(help="A study file, or the name of an example.")]
Timeout = Annotated[float | None, typer.Option(help="Time limit in seconds.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Csv = Annotated[bool, typer.Option("--csv", help="Print CSV.")]
Form = Annotated[Literal["json", "yaml", "python"], typer.Option("--format", help="File format.")]
Output = Annotated[Path | None, path_option("-o", "--output", help="File to write.")]
Folder = Annotated[
    Path | None, path_option("--folder", help="Folder of the task files on this machine.")
]
Workers = Annotated[
    int | None,
    typer.Option(
        show_default=False,
        help="Slots of the local worker, or number of workers of another executor; 0 trains in "
        "this process; by default one slot per GPU, or 2 without GPUs (inline: 1).",
    ),
]
# Same as in sweeper.executors, whose import would load the modules of all executors.
ExecutorName = Annotated[
    Literal["inline", "local", "ray", "slurm", "kubernetes"],
    typer.Option(
        "--executor",
        metavar="NAME",
        help="Where the workers run: inline, local, ray, slurm or kubernetes.",
    ),
]
TemplateFile = Annotated[
    Path | None,
    path_option(
        "--template", help="slurm, kubernetes: template to use instead of the bundled one."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Setting of the executor or its template; repeatable."
    ),
]
Results = Annotated[
    Path, path_option("--results", help="Folder for reports, exports, checkpoints and weights.")
]


def seconds(description: str) -> Any:
    """Return an option that takes a number of seconds."""
    return typer.Option(min=0, max=limits.SECONDS, callback=_refuse_nan, help=description)


def _refuse_nan(value: float | None) -> float | None:
    if value is not None and math.isnan(value):  # NaN passes the check of min and max
        raise typer.BadParameter(f"{value} is not in the range 0<=x<={limits.SECONDS}.")
    return value


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise the exception again: `main` handles it for all ways to print."""
        raise


def console(*, stderr: bool = False) -> Console:
    """Return a console that prints text unchanged: no markup, no emoji, no highlighting."""
    return _Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def as_settings(options: list[str] | None) -> dict[str, str]:
    """Return KEY=VALUE options as a mapping; raises `SweeperError` if one has another form."""
    pairs = [option.partition("=") for option in options or []]
    for key, equals, _ in pairs:
        if not (key.isidentifier() and equals):
            raise SweeperError(f"--set {key}{equals}: must be KEY=VALUE, for example partition=gpu")
    return {key: value for key, _, value in pairs}


def echo(text: object, *, nl: bool = True, err: bool = False) -> None:
    """Print text in the encoding of the stream; `typer.echo` alone would print UTF-8 to ASCII."""
    typer.echo(str(text), file=sys.stderr if err else sys.stdout, nl=nl)


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """Print plain data as JSON; NaN and infinity raise `ValueError`."""
    escaped = not takes_unicode()
    echo(json.dumps(value, indent=indent, ensure_ascii=escaped, allow_nan=False))


def takes_unicode() -> bool:
    """Return whether stdout can print all of Unicode; otherwise data has to be escaped."""
    return codecs.lookup(sys.stdout.encoding or "utf-8").name.startswith("utf")
