"""Training a stored trial again and comparing the results; nothing is written."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from sweeper.errors import SweeperError
from sweeper.replaying.comparison import (
    Difference,
    Numbers,
    RunValues,
    compare,
    environment_differences,
)
from sweeper.replaying.stored_trial import Outcome, StoredRun, by_epoch, copied_scores, extra_scores
from sweeper.store.records import EpochRow, Result
from sweeper.store.studies import StudyRecord
from sweeper.study.frames import failure_summary
from sweeper.study.load import read_stored
from sweeper.study.metric import metric_of
from sweeper.study.sources import changed_sources, check_present
from sweeper.study.space import Point, active_point
from sweeper.study.spec import Metric, StudySpec
from sweeper.tasks.given import given_again
from sweeper.training.device import device_named
from sweeper.training.messages import PACKED, FullScores, Reply, Report, Start, TrainingEnd
from sweeper.worker.attempt import epoch_row, run_fields
from sweeper.worker.code import loaded_code, train_once

# Called after each epoch with its results and the number of stored epochs.
OnEpoch = Callable[[EpochRow, int], None]
# Scores that exist only if an epoch was scored in full.
_FULL: Final = ("temperature", "nll_calibrated")


@dataclass(frozen=True)
class Replay:
    """The result of a replay.

    `requested` is the requested trial, and `trial` the replayed one; they differ if the result of
    the requested trial was copied. `epochs` and `scores` are the numbers of stored epochs and
    scores. `differences` are between stored and replayed results, `environment` those between
    the environments. `failed_there` is the stored failure, and `failed_here` that of the replay.
    `reason` is the likely reason for differences, or "".
    """

    study: str
    requested: int
    trial: int
    state: str
    point: Point
    epochs: int
    scores: int
    differences: Sequence[Difference]
    environment: Sequence[Difference]
    failed_there: Outcome
    failed_here: Outcome
    reason: str

    @property
    def same(self) -> bool:
        """Whether all stored results were reproduced bit by bit."""
        return not self.differences and self.failed_there.same_as(self.failed_here)

    def to_dict(self) -> dict[str, Any]:
        return {
            "same": self.same,
            **vars(self),
            "point": dict(self.point),
            "differences": [line.to_dict() for line in self.differences],
            "environment": [line.to_dict() for line in self.environment],
            "failed_there": vars(self.failed_there),
            "failed_here": vars(self.failed_here),
        }


def replay_trial(
    study: StudyRecord, stored_run: StoredRun, folder: Path | None, on_epoch: OnEpoch
) -> Replay:
    """Train a stored trial again in the same way, and compare the results.

    `folder` contains the study's files; None means the folder at launch. Other package versions
    are reported as differences of the environment. Raises `SweeperError` if the study's code has
    changed since the trial.
    """
    stored, folder = read_stored(study), folder or Path(study.folder)
    _check_code(study.name, stored_run, folder)
    threads = _threads(stored_run.result, stored.spec)
    task = stored.spec.task.model_copy(update={"threads": threads})
    spec = stored.spec.model_copy(update={"task": task})
    recorder = _Recorder(stored_run, on_epoch)
    given = given_again(spec.task.use, stored_run.code.sources)
    with loaded_code(replace(stored, spec=spec), folder, given) as code:
        end = train_once(code, _start(spec, stored_run), recorder, spec)
    environment = stored_run.result.environment
    known = {key: value for key, value in environment.items() if key != PACKED}
    differences = environment_differences(known, recorder.environment) if known else []
    scores = recorder.scores(end, spec.objective.metric)
    if stored_run.copy:
        scores = {**scores, **copied_scores(stored_run.requested, scores)}
    replayed = RunValues(by_epoch(recorder.rows), scores)
    outcome = Outcome(end.cause, failure_summary(end.failure))
    return _replay(stored.spec, stored_run, replayed, outcome, differences)


def _check_code(name: str, stored_run: StoredRun, folder: Path) -> None:
    known = stored_run.code
    changed = changed_sources(known.sources, folder)
    check_present(name, changed, folder)
    if changed:
        raise SweeperError(
            f"study {name!r}: trial {stored_run.trial.number} was trained with revision "
            f"{known.revision} of the study's code, and {folder / changed[0]} has changed since; "
            "restore the file, or give the folder that contains it with --folder FOLDER"
        )


def _threads(result: Result, spec: StudySpec) -> int:
    stored = result.environment.get("threads", "")
    return int(stored) if stored.isdecimal() and int(stored) else spec.task.threads


def _start(spec: StudySpec, stored_run: StoredRun) -> Start:
    """Return the run that should reproduce the bits of the trial.

    A trial that was trained in a pack is replayed in a pack of one.
    """
    result = stored_run.result
    full = any(result.scores.get(name) is not None for name in _FULL)
    stored = result.environment.get("device")
    device = spec.task.device if stored is None else str(device_named(stored))
    return Start(
        "replay",
        **run_fields(spec, stored_run.trial.params),
        device=device,
        packed=PACKED in result.environment,
        number=stored_run.trial.number,
        # If the stored scores are full, the last report was scored in full, also when pruned.
        full=FullScores(number=result.epochs if full else None),
    )


class _Recorder:
    """Records the reports of a training run, and ends it when there are no more stored epochs."""

    def __init__(self, stored_run: StoredRun, on_epoch: OnEpoch) -> None:
        self._stored_run, self._on_epoch = stored_run, on_epoch
        self._scores: dict[str, Any] = {}
        self.rows: list[EpochRow] = []
        self.environment: Mapping[str, str] = {}

    def __call__(self, report: Report) -> Reply:
        """Record a report; return whether to continue."""
        row = epoch_row(report)
        self.rows.append(row)
        self.environment = report.environment or self.environment
        if report.number == self._stored_run.result.epochs:
            self._scores = {**report.scores, **extra_scores(report.extra)}
        self._on_epoch(row, self._stored_run.length)
        return Reply("prune" if report.number >= self._stored_run.max_epochs else "continue")

    def scores(self, end: TrainingEnd, metric: Metric) -> Numbers:
        """Return the scores to compare: final ones if complete, else those of the last epoch."""
        if end.last is None or end.state != "complete":
            return self._scores
        scores = {**end.last.scores, **extra_scores(end.last.extra)}
        return {**scores, "value": metric_of(end.last.scores, metric)}


def _replay(
    spec: StudySpec,
    stored_run: StoredRun,
    replayed: RunValues,
    outcome: Outcome,
    environment: Sequence[Difference],
) -> Replay:
    stored = stored_run.values()
    differences = compare(stored, replayed)
    same = not differences and stored_run.failure.same_as(outcome)
    return Replay(
        study=spec.study.name,
        requested=stored_run.requested,
        trial=stored_run.trial.number,
        state=stored_run.state,
        point=active_point(stored_run.trial.params, spec.space),
        epochs=len(stored.epochs),
        scores=sum(value is not None for value in stored.scores.values()),
        differences=differences,
        environment=environment,
        failed_there=stored_run.failure,
        failed_here=outcome,
        reason="" if same else _reason(spec.task.use, stored_run, differences, environment),
    )


def _reason(
    use: str,
    stored_run: StoredRun,
    differences: Sequence[Difference],
    environment: Sequence[Difference],
) -> str:
    if environment:
        return (
            "results are bitwise reproducible only with the same packages, processor type, "
            "threads and device"
        )
    if not stored_run.result.environment:
        return "the packages and the machine of the trial are not stored"
    if stored_run.claims > 1:
        return (
            f"the trial was started or resumed {stored_run.claims} times, and the stored "
            "environment "
            "is that of the last worker; earlier epochs may come from another machine"
        )
    if differences and all(difference.name.startswith("extra_") for difference in differences):
        return "only extra metrics of the training function differ, for example a measured time"
    return (
        f"packages, processor type, threads and device are the same, so {use} is likely not "
        "deterministic: it uses random numbers that do not depend on run.seed, or reads data that "
        "has changed"
    )
