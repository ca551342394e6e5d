"""The commands that train again and compare with stored results: verify and replay."""

from pathlib import Path
from typing import Annotated

import typer

from sweeper import limits
from sweeper.cli.exit_codes import ExitCode
from sweeper.cli.options import (
    DEFAULT_STORAGE,
    Folder,
    Json,
    Name,
    Storage,
    console,
    echo,
    path_argument,
    print_json,
)


def verify(
    file: Annotated[Path, path_argument(help="A best.json with a verdict.", metavar="FILE")],
    replicates: Annotated[
        int, typer.Option(min=2, max=limits.REPLICATES, help="Number of new seeds.")
    ] = 5,
    storage: Storage = DEFAULT_STORAGE,
    folder: Folder = None,
    as_json: Json = False,
) -> None:
    """Retrain an export's pick and ε = 0 on new seeds and check its interval; store nothing.

    The exit code is 0 if the new difference lies in the exported interval, and 1 if it does not.
    """
    from sweeper import api

    stderr = console(stderr=True)

    def print_count(done: int, total: int) -> None:
        stderr.print(f"{done}/{total} training runs", soft_wrap=True)

    verification = api.verify(
        file, storage, replicates=replicates, folder=folder, on_training=print_count
    )
    if as_json:
        print_json(verification.to_dict())
    else:
        echo(verification.sentence)
    if not verification.holds:
        raise typer.Exit(ExitCode.NEGATIVE)


def replay(
    name: Name,
    trial: Annotated[int, typer.Argument(help="The trial's number.")],
    storage: Storage = DEFAULT_STORAGE,
    folder: Folder = None,
    as_json: Json = False,
) -> None:
    """Train one trial again and compare it bit for bit with the stored one; store nothing.

    The exit code is 0 if everything is identical and 1 if it is not.
    """
    from sweeper import api
    from sweeper.cli.replay_output import lines, on_epoch

    replayed = api.replay(
        name, trial, storage, folder=folder, on_epoch=on_epoch(console(stderr=True))
    )
    if as_json:
        print_json(replayed.to_dict())
    else:
        for line in lines(replayed):
            echo(line)
    if not replayed.same:
        raise typer.Exit(ExitCode.NEGATIVE)
