"""The files of a study's trials: a checkpoint while one runs, the weights of the best after."""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sweeper.store.studies import StudyRecord
from sweeper.store.tickets import SEARCH, Ticket
from sweeper.study.objective import Epoch, Failed
from sweeper.training.checkpoints import (
    Checkpoint,
    discard,
    load,
    load_weights,
    save,
    save_weights,
)
from sweeper.training.plain import as_state, describe
from sweeper.training.run import Evaluation

# A checkpoint is written after an epoch, but not more often than this of its trial's training,
# nor than every so many times what the last one took: what a kill may cost, beside the epoch it
# falls into.
SECONDS: Final = 1.0
TIMES: Final = 20
# What the failure of a trial begins with whose state could not be kept.
BAD_STATE: Final = "Evaluation.state"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrialFiles:
    """Where the files of a study's trials lie: in a folder that its workers may share.

    `identity` tells the study from another one that had its name and its folder before.
    """

    folder: Path
    identity: str

    def checkpoint(self, ticket: Ticket) -> Path:
        """Return the file that a ticket's training goes on from."""
        name = "trial" if ticket.phase == SEARCH else ticket.phase
        return self.folder / "checkpoints" / f"{name}-{ticket.number}.pt"

    def weights(self, ticket: int) -> Path:
        """Return the file of a finished trial's weights."""
        return self.folder / "weights" / f"trial-{ticket}.pt"

    def key(self, ticket: int | str) -> str:
        """Return what a file of that ticket says it is of."""
        return f"{self.identity}:{ticket}"

    def read_weights(self, ticket: int) -> object:
        """Return a finished trial's weights, or None where they were not kept here."""
        return load_weights(self.weights(ticket), self.key(ticket))

    def with_weights(self) -> list[int]:
        """Return the tickets whose weights are here."""
        names = (path.stem.removeprefix("trial-") for path in self.weights(0).parent.glob("*.pt"))
        return [int(name) for name in names if name.isdigit()]

    def drop_weights(self, tickets: Iterable[int]) -> None:
        """Remove weights that are no longer the best's."""
        for ticket in tickets:
            discard(self.weights(ticket))


def files_of(record: StudyRecord, results: Path) -> TrialFiles:
    """Return where a study's files lie in the folder of results."""
    return TrialFiles(results / record.name, f"{record.spec_hash}:{record.created!r}")


class Checkpoints:
    """One trial's checkpoint: read at its start, written now and then, removed at its end."""

    def __init__(self, files: TrialFiles, ticket: Ticket) -> None:
        self._files, self._ticket = files, ticket
        self._due = SECONDS
        self._failing = False

    def load(self) -> Checkpoint | None:
        """Return where the trial was, or None: it begins."""
        found = load(self._files.checkpoint(self._ticket), self._key)
        if found is not None:
            self._due = found.seconds + SECONDS
        return found

    def check(self, epoch: Epoch) -> None:
        """Raise `Failed` if the state of the training loop could not be saved."""
        if epoch.evaluation.state is not None:
            _state_of(epoch.evaluation)

    def keep(self, epoch: Epoch) -> None:
        """Write a checkpoint if one is due."""
        if epoch.seconds >= self._due:
            self.write(epoch)

    def write(self, epoch: Epoch) -> None:
        """Write a checkpoint, where the loop yields its state.

        Where it cannot be written the trial goes on: it would only have to start again.
        """
        if epoch.evaluation.state is None:
            return
        began = time.monotonic()
        path, state = self._files.checkpoint(self._ticket), _state_of(epoch.evaluation)
        self._written(lambda: save(path, Checkpoint(self._key, epoch.number, epoch.seconds, state)))
        self._due = epoch.seconds + max(SECONDS, TIMES * (time.monotonic() - began))

    def write_weights(self, epoch: Epoch) -> None:
        """Keep the model of a trial's last evaluation, where the loop's state has one."""
        has_state = epoch.evaluation.state is not None
        model = _state_of(epoch.evaluation).get("model") if has_state else None
        if model is not None:
            path = self._files.weights(self._ticket.number)
            self._written(lambda: save_weights(path, self._files.key(self._ticket.number), model))

    def discard(self) -> None:
        """Remove the checkpoint: the trial has ended."""
        try:
            discard(self._files.checkpoint(self._ticket))
        except OSError as error:
            self._say(error)

    @property
    def _key(self) -> str:
        number, phase = self._ticket.number, self._ticket.phase
        return self._files.key(number if phase == SEARCH else f"{phase}:{number}")

    def _written(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            self._say(error)

    def _say(self, error: OSError) -> None:
        if not self._failing:
            _log.warning("%s cannot be written: %s", self._files.folder, error)
            self._failing = True


def _state_of(evaluation: Evaluation) -> dict[str, Any]:
    """Return what a checkpoint saves; raises `Failed`, naming what cannot be saved."""
    assert evaluation.state is not None
    try:
        state = evaluation.state()
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise Failed(f"{BAD_STATE} raised {what}") from error
    if not isinstance(state, dict):
        raise Failed(f"{BAD_STATE} returned {describe(state)}; it must return a dict")
    try:
        plain: dict[str, Any] = as_state(state, "state")
    except TypeError as error:
        raise Failed(f"{BAD_STATE}: {error}") from error
    return plain
