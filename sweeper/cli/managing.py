"""The commands that change studies and databases without training."""

from pathlib import Path
from typing import Annotated

import typer

from sweeper.cli.options import DEFAULT_STORAGE, Name, Storage, echo, path_argument


def pause(name: Name, storage: Storage = DEFAULT_STORAGE) -> None:
    """Pause a study: running trials return to the queue, and workers wait."""
    from sweeper import api

    api.pause(name, storage)
    echo(f"study {name} is paused; to resume it: sweeper resume {name}")


def resume(name: Name, storage: Storage = DEFAULT_STORAGE) -> None:
    """Resume a paused or stopped study."""
    from sweeper import api

    api.resume(name, storage)
    echo(f"study {name} is resumed; to start a worker: sweeper worker {name}")


def stop(name: Name, storage: Storage = DEFAULT_STORAGE) -> None:
    """Stop a study: running trials return to the queue, and workers exit."""
    from sweeper import api

    api.stop(name, storage)
    echo(f"study {name} is stopped; to resume it: sweeper resume {name}, or launch it again")


def init(storage: Storage = DEFAULT_STORAGE) -> None:
    """Create the tables of a database, or upgrade them to this version."""
    from sweeper import api

    api.prepare(storage)
    echo("the database is ready")


def delete(
    name: Name,
    storage: Storage = DEFAULT_STORAGE,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without confirmation.")] = False,
) -> None:
    """Delete a study and all its results from the database."""
    from sweeper import api
    from sweeper.cli.watching import StudyLine

    line = StudyLine.of(api.open_study(name, storage))
    if not yes:
        counts = line.progress
        details = f"({line.problem})" if counts is None else f"with {counts.ended} trials"
        typer.confirm(f"Delete study {name!r} {details}?", abort=True)
    api.delete(name, storage)
    echo(f"deleted {name}")


def backup(
    file: Annotated[Path, path_argument(help="Where to write the copy.", metavar="FILE")],
    storage: Storage = DEFAULT_STORAGE,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
) -> None:
    """Copy an SQLite database; workers may be using it.

    The copy contains the studies with all trials, scores and output, and the
    tokens. It does not contain study files, task files or the results folder
    (checkpoints, weights, reports, exports). For a database server, use its own
    tool: pg_dump or mysqldump.
    """
    from sweeper import api

    echo(api.backup(file, storage, force=force))
