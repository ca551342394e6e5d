"""The stored results of an ended trial, with which its replay is compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sweeper.errors import SweeperError
from sweeper.replaying.comparison import Numbers, RunValues
from sweeper.store.code import CodeRevision, read_revisions
from sweeper.store.database import Store
from sweeper.store.records import EpochRow, Result, read_epochs_of, read_result
from sweeper.store.studies import StudyRecord
from sweeper.store.tickets import claims_of
from sweeper.store.trials import StoredTrial, read_trials
from sweeper.study.frames import STATE_WORDS, failure_summary
from sweeper.training.reporting import BAD_STATE

# Causes of failures in the training run itself, which a replay reproduces. A worker causes others.
_REPRODUCIBLE_CAUSES: Final = ("raised", "diverged", "memory")


@dataclass(frozen=True)
class Outcome:
    """How a training run failed: the cause and a one-line message; both "" if it did not fail."""

    cause: str = ""
    failure: str = ""

    def same_as(self, other: "Outcome") -> bool:
        """Return whether both failed alike; out-of-memory messages may differ."""
        alike = self.cause == "memory" or self.failure == other.failure
        return self.cause == other.cause and alike

    def __str__(self) -> str:
        return self.failure or "it did not fail"


@dataclass(frozen=True)
class StoredRun:
    """The stored results of a trial, its code revision and the number of its claims.

    `requested` is the requested trial. If its result was copied from another trial, the other
    fields belong to that trial, and `copy` has the scores stored for the requested one.
    """

    requested: int
    trial: StoredTrial
    result: Result
    epochs: Sequence[EpochRow]
    claims: int
    code: CodeRevision
    copy: Numbers = field(default_factory=dict)

    @property
    def state(self) -> str:
        """State of the trial as a word."""
        return STATE_WORDS[self.trial.state]

    @property
    def length(self) -> int:
        """Number of stored epochs."""
        return max([self.result.epochs, *(row.epoch for row in self.epochs)])

    @property
    def failure(self) -> Outcome:
        """Failure of the training run itself; empty if it did not fail or a worker ended it."""
        result = self.result
        # A replay saves no checkpoints and requests the state only at the first report, so it
        # cannot reproduce later failures of a checkpoint.
        from_checkpoint = result.failure.startswith(BAD_STATE) and result.epochs > 0
        reproducible = result.cause in _REPRODUCIBLE_CAUSES and not from_checkpoint
        return Outcome(result.cause, failure_summary(result.failure)) if reproducible else Outcome()

    @property
    def max_epochs(self) -> int:
        """Maximum number of epochs to replay.

        If the training run ended by itself, one more epoch is allowed, to detect a replay that
        does not end there.
        """
        ended_by_itself = self.state == "complete" or self.failure != Outcome()
        return self.length + 1 if ended_by_itself else self.length

    def values(self) -> RunValues:
        """Return the stored results for comparison."""
        scores = {**_scores(self.trial, self.result), **self.copy}
        return RunValues(_without_empty_columns(by_epoch(self.epochs)), scores)


def read_stored_run(store: Store, study: StudyRecord, number: int) -> StoredRun:
    """Read an ended trial; if its result is a copy, read the trial it was copied from.

    Raises `SweeperError` if the trial does not exist, has not ended, or has no stored results.
    """
    trials = {trial.number: trial for trial in read_trials(store, study.name)}
    if number not in trials:
        existing = f"trials 0-{len(trials) - 1}" if trials else "no trials yet"
        raise SweeperError(f"study {study.name!r}: trial {number} does not exist ({existing})")
    if STATE_WORDS[trials[number].state] == "running":
        raise SweeperError(
            f"study {study.name!r}: trial {number} has not ended; replay it after it has ended"
        )
    stored_run = _read(store, study, trials, number)
    _check_comparable(study.name, stored_run)
    return stored_run


def _read(
    store: Store, study: StudyRecord, trials: Mapping[int, StoredTrial], number: int
) -> StoredRun:
    trial = trials[number]
    result, copy = _result_of(store, study, trial), {}
    if result.copied_from is not None:
        copy = copied_scores(number, _scores(trial, result))
    by_ticket = {trial.ticket: trial for trial in trials.values()}
    while result.copied_from is not None:
        trial = by_ticket[result.copied_from]
        result = _result_of(store, study, trial)
    epochs = read_epochs_of(store, study, trial.ticket)
    revisions = {revision.revision: revision for revision in read_revisions(store, study)}
    claims, code = claims_of(store, study, trial.ticket), revisions[result.code]
    return StoredRun(number, trial, result, epochs, claims, code, copy)


def _result_of(store: Store, study: StudyRecord, trial: StoredTrial) -> Result:
    return read_result(store, study, trial.ticket) or Result()


def _check_comparable(name: str, stored_run: StoredRun) -> None:
    if not stored_run.length and stored_run.failure == Outcome():
        why = failure_summary(stored_run.result.failure) or "its result is missing"
        raise SweeperError(
            f"study {name!r}: trial {stored_run.trial.number} has no stored results to compare a "
            f"replay with: {why}"
        )


def _scores(trial: StoredTrial, result: Result) -> Numbers:
    value = {"value": trial.value} if STATE_WORDS[trial.state] == "complete" else {}
    return {**result.scores, **extra_scores(result.extra), **value}


def by_epoch(rows: Sequence[EpochRow]) -> dict[int, Numbers]:
    """Return the values of each row by epoch number, without the number itself."""
    return {
        row.epoch: {name: value for name, value in vars(row).items() if name != "epoch"}
        for row in rows
    }


def _without_empty_columns(epochs: Mapping[int, Numbers]) -> dict[int, Numbers]:
    # Trials of an older version have no values in columns that were added later.
    used = {name for row in epochs.values() for name, value in row.items() if value is not None}
    return {
        number: {name: value for name, value in row.items() if name in used}
        for number, row in epochs.items()
    }


def extra_scores(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return the extra metrics of a training function under their names in a study's frame."""
    return {f"extra_{name}": value for name, value in extra.items()}


def copied_scores(number: int, scores: Numbers) -> dict[str, float | None]:
    """Return the scores of a copied trial under names that contain its number."""
    return {f"{name} of trial {number}": value for name, value in scores.items()}
