"""What is stored of a trial that has ended: what a replay of it is compared with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sweeper.errors import SweeperError
from sweeper.replaying.comparison import Given, Numbers
from sweeper.store.database import Store
from sweeper.store.records import EpochRow, Result, read_epochs_of, read_result
from sweeper.store.studies import StudyRecord
from sweeper.store.tickets import claims_of
from sweeper.store.trials import StoredTrial, read_trials
from sweeper.study.frames import STATE_WORDS, last_line
from sweeper.worker.trial_files import BAD_STATE

# Failures that a training comes to by itself, and so comes to again.
_BY_ITSELF: Final = ("raised", "diverged", "memory")


@dataclass(frozen=True)
class Ending:
    """How a training failed: its cause, and the line that says what went wrong; both "": not."""

    cause: str = ""
    failure: str = ""

    def same_as(self, other: "Ending") -> bool:
        """Return whether both are one; how much memory there was is no part of it."""
        alike = self.cause == "memory" or self.failure == other.failure
        return self.cause == other.cause and alike

    def __str__(self) -> str:
        return self.failure or "it did not fail"


@dataclass(frozen=True)
class Original:
    """What is stored of a trial; `claims` is how often a worker took it up.

    Of a trial that was given the result of another one it is that other one, with the number
    that was `asked` for and the scores of the `copy`.
    """

    asked: int
    trial: StoredTrial
    result: Result
    epochs: Sequence[EpochRow]
    claims: int
    copy: Numbers = field(default_factory=dict)

    @property
    def state(self) -> str:
        """How the trial ended, in a word."""
        return STATE_WORDS[self.trial.state]

    @property
    def length(self) -> int:
        """How many epochs are stored."""
        return max([self.result.epochs, *(row.epoch for row in self.epochs)])

    @property
    def ending(self) -> Ending:
        """How the training failed by itself; one that a worker ended is as one that did not."""
        result = self.result
        by_itself = result.cause in _BY_ITSELF and not result.failure.startswith(BAD_STATE)
        return Ending(result.cause, last_line(result.failure)) if by_itself else Ending()

    @property
    def enough(self) -> int:
        """How many epochs to train again at most.

        Where the training ended by itself one more shows that it does not end here.
        """
        by_itself = self.state == "complete" or self.ending != Ending()
        return self.length + 1 if by_itself else self.length

    def given(self) -> Given:
        """Return the numbers that are stored."""
        scores = {**_scores(self.trial, self.result), **self.copy}
        return Given(_known(by_epoch(self.epochs)), scores)


def read_original(store: Store, study: StudyRecord, number: int) -> Original:
    """Read a trial that has ended, or the one whose result it was given.

    Raises `SweeperError` where there is no such trial, it has not ended, or nothing of it is
    stored.
    """
    trials = {trial.number: trial for trial in read_trials(store, study.name)}
    if number not in trials:
        raise SweeperError(
            f"study {study.name!r} has no trial {number}; it has {len(trials)}, from 0"
        )
    if STATE_WORDS[trials[number].state] == "running":
        raise SweeperError(
            f"study {study.name!r}: trial {number} has not ended; replay it when it has"
        )
    original = _read(store, study, trials, number)
    _check_comparable(study.name, original)
    return original


def _read(
    store: Store, study: StudyRecord, trials: Mapping[int, StoredTrial], number: int
) -> Original:
    trial = trials[number]
    result, copy = _result_of(store, study, trial), {}
    if result.copied_from is not None:
        copy = of_copy(number, _scores(trial, result))
    by_ticket = {trial.ticket: trial for trial in trials.values()}
    while result.copied_from is not None:
        trial = by_ticket[result.copied_from]
        result = _result_of(store, study, trial)
    epochs = read_epochs_of(store, study, trial.ticket)
    return Original(number, trial, result, epochs, claims_of(store, study, trial.ticket), copy)


def _result_of(store: Store, study: StudyRecord, trial: StoredTrial) -> Result:
    return read_result(store, study, trial.ticket) or Result()


def _check_comparable(name: str, original: Original) -> None:
    if not original.length and original.ending == Ending():
        why = last_line(original.result.failure) or "its result is gone"
        raise SweeperError(
            f"study {name!r}: nothing is stored of trial {original.trial.number} that a replay "
            f"could be compared with: {why}"
        )


def _scores(trial: StoredTrial, result: Result) -> Numbers:
    value = {"value": trial.value} if STATE_WORDS[trial.state] == "complete" else {}
    return {**result.scores, **of_loop(result.extra), **value}


def by_epoch(rows: Sequence[EpochRow]) -> dict[int, Numbers]:
    """Return the numbers of each epoch."""
    return {
        row.epoch: {name: value for name, value in vars(row).items() if name != "epoch"}
        for row in rows
    }


def _known(epochs: Mapping[int, Numbers]) -> dict[int, Numbers]:
    # A column that came with a later version is empty in all epochs of an older trial.
    known = {name for row in epochs.values() for name, value in row.items() if value is not None}
    return {
        number: {name: value for name, value in row.items() if name in known}
        for number, row in epochs.items()
    }


def of_loop(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics of a loop's own under the names that a study's frame gives them."""
    return {f"extra_{name}": value for name, value in extra.items()}


def of_copy(number: int, scores: Numbers) -> dict[str, float | None]:
    """Return the scores of a trial that was given another's, under names of their own."""
    return {f"{name} of trial {number}": value for name, value in scores.items()}
