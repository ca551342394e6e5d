"""The files of a study's trials: checkpoints, weights and output."""

import errno
import json
import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sweeper.errors import SweeperError
from sweeper.files import atomic_write, kind_of
from sweeper.store.studies import StudyRecord
from sweeper.store.tickets import SEARCH, Ticket
from sweeper.training.checkpoints import discard, discard_checkpoints, load_weights
from sweeper.training.directory import remove_directory

# Name of the file in a results folder that records the database of its study.
_OWNER: Final = ".study.json"
# Names of the files that a launch writes to the results folder of a study.
REPORT: Final = "report.html"
EXPORT: Final = "best.json"
_FOLDERS: Final = ("checkpoints", "weights", "logs", "trials")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrialFiles:
    """The files of a study's trials, in a folder that its workers may share.

    `identity` distinguishes the study from an earlier study with the same name and folder.
    """

    folder: Path
    identity: str

    def checkpoint(self, ticket: Ticket) -> Path:
        """Return the path of a ticket's checkpoints without the ending (claim number and .pt)."""
        return self.folder / "checkpoints" / self._name(ticket)

    def output(self, ticket: Ticket) -> Path:
        """Return the path of the output of a ticket's current claim."""
        return self.folder / "logs" / "trials" / f"{self._name(ticket)}.{ticket.claims}.log"

    def directory(self, phase: str, number: int) -> Path:
        """Return the absolute path of `run.directory` of a training run."""
        name = str(number) if phase == SEARCH else f"{phase}-{number}"
        return (self.folder / "trials" / name).absolute()

    def weights(self, ticket: int) -> Path:
        """Return the path of a finished trial's weights."""
        return self.folder / "weights" / f"trial-{ticket}.pt"

    def key(self, ticket: int | str) -> str:
        """Return the key that is stored in the files of a ticket."""
        return f"{self.identity}:{ticket}"

    def checkpoint_key(self, ticket: Ticket, code: int = 1) -> str:
        """Return the key that is stored in checkpoints: of a ticket and a code revision."""
        number, phase = ticket.number, ticket.phase
        key = self.key(number if phase == SEARCH else f"{phase}:{number}")
        return key if code == 1 else f"{key}:{code}"

    def discard_checkpoints(self, ticket: Ticket) -> None:
        """Remove the checkpoints of a ticket whose trial has ended."""
        try:
            discard_checkpoints(self.checkpoint(ticket))
        except OSError as error:
            _log.warning("cannot remove a checkpoint: %s", error)

    def read_weights(self, ticket: int) -> object:
        """Return a finished trial's weights, or None if they are not in this folder."""
        return load_weights(self.weights(ticket), self.key(ticket))

    def with_weights(self) -> list[int]:
        """Return the tickets whose weights are in this folder."""
        names = (path.stem.removeprefix("trial-") for path in self.weights(0).parent.glob("*.pt"))
        return [int(name) for name in names if name.isdigit()]

    def drop_weights(self, tickets: Iterable[int]) -> None:
        """Remove the weights of the given tickets."""
        for ticket in tickets:
            try:
                discard(self.weights(ticket))
            except OSError as error:
                _log.warning("cannot remove the weights of a trial: %s", error)

    def uses_directory(self, number: int) -> bool:
        """Return whether a trial has files in its folder."""
        with suppress(OSError):
            return any(self.directory(SEARCH, number).iterdir())
        return False

    def with_directories(self) -> list[int]:
        """Return the numbers of the trials that have a folder."""
        names = (path.name for path in self.directory(SEARCH, 0).parent.glob("*"))
        return [int(name) for name in names if name.isdigit()]

    def drop_directory(self, phase: str, number: int) -> None:
        """Remove the folder of a training run."""
        try:
            remove_directory(self.directory(phase, number))
        except OSError as error:
            _log.warning("cannot remove the folder of a trial: %s", error)

    def _name(self, ticket: Ticket) -> str:
        name = "trial" if ticket.phase == SEARCH else ticket.phase
        return f"{name}-{ticket.number}"


def check_owner(name: str, created: float | None, place: str, results: Path) -> None:
    """Raise `SweeperError` if RESULTS/NAME contains the files of a study in another database.

    `location` is the location of the database. `created` is the creation time of the study, None if
    it does not exist yet. A database that was moved, a database that was copied together with its
    results, and a study that was deleted and launched again may use the folder; a copy of the
    database alone may not. Also raises `SweeperError` if the results cannot be written, because
    there is a file in place of a folder or the reverse.
    """
    folder = results / name
    try:
        if folder.exists() and not folder.is_dir():
            raise SweeperError(f"results: {folder} is not a directory")
        for path in (folder / REPORT, folder / EXPORT, folder / _OWNER):
            # Opening a pipe would wait for its other end.
            if path.exists() and not path.is_file():
                raise SweeperError(f"results: {path} is {kind_of(path)}; remove it")
        for path in (folder / name for name in _FOLDERS):
            if path.exists() and not path.is_dir():
                raise SweeperError(f"results: {path} is not a directory; remove it")
        owner = json.loads((folder / _OWNER).read_text(encoding="utf-8"))
        storage, owner_created = owner["storage"], owner["created"]
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise SweeperError(f"results: the path {folder} is too long") from None
        return
    except (ValueError, TypeError, KeyError, RecursionError):
        return
    database_moved = not os.path.isfile(storage.removeprefix("sqlite:///"))
    results_moved = "folder" in owner and owner["folder"] != os.path.realpath(folder)
    same_study = created == owner_created and (database_moved or results_moved)
    if place != storage and not same_study:
        raise SweeperError(
            f"results: {folder} already contains the results of study {name!r} in {storage}; "
            "choose another folder with --results FOLDER (sweeper report: -o FILE)"
        )


def claim_folder(record: StudyRecord, place: str, results: Path) -> None:
    """Mark RESULTS/NAME as the folder of this study; raises as `check_owner` does."""
    check_owner(record.name, record.created, place, results)
    folder = results / record.name
    owner = {"storage": place, "created": record.created, "folder": os.path.realpath(folder)}
    content = json.dumps(owner).encode()
    # A folder that is not writable is reported when a trial file is written.
    with suppress(OSError):
        atomic_write(folder / _OWNER, lambda stream: stream.write(content))


def files_of(record: StudyRecord, results: Path) -> TrialFiles:
    """Return the files of a study in the results folder."""
    return TrialFiles(results / record.name, f"{record.spec_hash}:{record.created!r}")
