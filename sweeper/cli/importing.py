"""The commands that convert the files of other programs to study files."""

from pathlib import Path
from typing import Annotated

import typer

from sweeper import limits
from sweeper.cli.options import echo, path_argument
from sweeper.errors import SweeperError

importing = typer.Typer(help="Convert files of other programs to study files.")


@importing.callback()
def _group() -> None:
    """Keep `import` a group although it has one command."""


@importing.command("wandb")
def wandb(
    file: Annotated[Path, path_argument(help="YAML file of a W&B sweep.", metavar="FILE")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Study file; default: FILE.toml.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the study; default: that of the sweep or file.")
    ] = None,
    epsilon: Annotated[
        str | None,
        typer.Option(
            help="Parameter that is ε, the mass taken from the true class, or none; default: "
            "epsilon.",
            metavar="NAME",
        ),
    ] = None,
    label_smoothing: Annotated[
        str | None,
        typer.Option(
            help="Parameter that is ε in torch's convention; default: label_smoothing or "
            "smoothing.",
            metavar="NAME",
        ),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(min=2, max=limits.CLASSES, help="Number of classes, for --label-smoothing."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing study file.")] = False,
) -> None:
    """Convert a W&B sweep to a study file; print what differs."""
    from sweeper import api

    target = output or file.with_suffix(".toml")
    if target.exists() and not force:
        raise SweeperError(f"{target} already exists; choose another file with -o, or use --force")
    for note in api.import_wandb(
        file,
        target,
        name=name,
        epsilon=epsilon,
        label_smoothing=label_smoothing,
        classes=classes,
    ):
        echo(f"note: {note}")
    echo(f"wrote {target}; to run it: sweeper launch {target}")
