"""The folder of a training run for files of its own, `run.directory`."""

import logging
import shutil
from pathlib import Path

_log = logging.getLogger(__name__)


def prepare_directory(directory: Path, identity: str, *, first_claim: bool) -> None:
    """Create the folder of a training run; one that an earlier claim has used keeps its files.

    `identity` identifies the trial and its code. Files of another trial are removed: they come from
    a deleted study, from older code or, at the first claim, from a history of the database that was
    replaced by a backup. If the folder cannot be created, a warning is logged, because most
    training functions do not use it.
    """
    owner = _owner_file(directory)
    try:
        if first_claim or not _is(owner, identity):
            remove_directory(directory)
        directory.mkdir(parents=True, exist_ok=True)
        owner.write_bytes(identity.encode())
    except OSError as error:
        _log.warning("cannot create the folder of the trial: %s", error)


def remove_directory(directory: Path) -> None:
    """Remove the folder of a training run with its files; no-op if it does not exist."""
    if directory.is_dir() and not directory.is_symlink():
        shutil.rmtree(directory)
    else:
        directory.unlink(missing_ok=True)
    _owner_file(directory).unlink(missing_ok=True)


def _owner_file(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.owner")


def _is(file: Path, identity: str) -> bool:
    try:
        return file.read_bytes() == identity.encode()
    except FileNotFoundError:
        return False
