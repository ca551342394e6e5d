"""One trial trained again, beside what is stored of it; nothing is written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

from sweeper.replaying.comparison import Difference, Given, Numbers, compare, unlike
from sweeper.replaying.stored_trial import Ending, Original, by_epoch, of_copy, of_loop
from sweeper.store.records import EpochRow, Result
from sweeper.store.studies import StudyRecord
from sweeper.study.frames import last_line
from sweeper.study.load import StudyFile, read_stored, stored_study
from sweeper.study.objective import Epoch, Outcome, metric_of, run_trial
from sweeper.study.space import Point
from sweeper.study.spec import Metric, StudySpec
from sweeper.training.device import device_named, environment, pick_device, torch_threads
from sweeper.training.packed.pack import train_packed
from sweeper.training.packed.stack import PACKED
from sweeper.training.run import Evaluation, Trainer
from sweeper.worker.watched import epoch_row, training_run

# Called after each epoch with its numbers, and how many epochs are stored.
OnReplayed = Callable[[EpochRow, int], None]
# Scores that are there only where an epoch was scored in full.
_FULL: Final = ("temperature", "nll_calibrated")


@dataclass(frozen=True)
class Replay:
    """A trial trained again: `differences` from what is stored, and of the `environment`.

    `there` is where it was trained first, `here` this process. `asked` is the trial that was
    asked for: another one than `trial` where it was given that one's result. `epochs` and
    `scores` count what is stored; `reason` is the likely one where not all is the same.
    """

    study: str
    asked: int
    trial: int
    state: str
    point: Point
    epochs: int
    scores: int
    differences: Sequence[Difference]
    environment: Sequence[Difference]
    failed_there: Ending
    failed_here: Ending
    reason: str

    @property
    def same(self) -> bool:
        """Whether all that is stored came out again, to the last bit."""
        return not self.differences and self.failed_there.same_as(self.failed_here)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
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
    study: StudyRecord, original: Original, folder: Path | None, on_epoch: OnReplayed
) -> Replay:
    """Train a stored trial again as it was trained, and compare.

    `folder` is where the study's files lie here, if not where the launch read them. Other
    versions of packages are named, not refused. Raises `SweeperError` where the study's code
    is not what it was launched with.
    """
    with torch_threads(_threads(original.result, read_stored(study.spec).spec)):
        file = stored_study(study.spec, folder or Path(study.folder), any_versions=True)
        device = _device(original.result, file.spec)
        here = environment(device, file.folder)
        given, ending = _trained(file, original, device, on_epoch)
    there = {key: of for key, of in original.result.environment.items() if key != PACKED}
    return _replay(file, original, given, ending, unlike(there, here) if there else [])


def _threads(result: Result, spec: StudySpec) -> int:
    stored = result.environment.get("threads", "")
    return int(stored) if stored.isdecimal() and int(stored) else spec.task.threads


def _device(result: Result, spec: StudySpec) -> torch.device:
    stored = result.environment.get("device")
    return pick_device(spec.task.device) if stored is None else device_named(stored)


def _trained(
    file: StudyFile, original: Original, device: torch.device, on_epoch: OnReplayed
) -> tuple[Given, Ending]:
    watch = _Watch(original, on_epoch)
    run = training_run(file.spec, original.trial.params, device)
    outcome = run_trial(_trainer(file, original.result), run, watch, watch.in_full)
    ending = Ending(outcome.cause, last_line(outcome.failure))
    scores = watch.scores(outcome, file.spec.objective.metric)
    if original.copy:
        scores = {**scores, **of_copy(original.asked, scores)}
    return Given(by_epoch(watch.rows), scores), ending


def _trainer(file: StudyFile, result: Result) -> Trainer:
    """Return what trains with the bits of the first time: a pack's are a pack of one's."""
    task = file.task.task
    return (
        partial(train_packed, task) if task and PACKED in result.environment else file.task.trainer
    )


class _Watch:
    """Takes down what a training gives, and ends it where no more of it is stored."""

    def __init__(self, original: Original, on_epoch: OnReplayed) -> None:
        self._original, self._on_epoch = original, on_epoch
        self._scored: dict[str, Any] = {}
        self.rows: list[EpochRow] = []

    def __call__(self, epoch: Epoch) -> bool:
        """Take an epoch; return whether it is enough."""
        row = epoch_row(epoch)
        self.rows.append(row)
        if epoch.number == self._original.result.epochs:
            self._scored = {**epoch.scores.to_dict(), **of_loop(epoch.evaluation.extra)}
        self._on_epoch(row, self._original.length)
        return epoch.number >= self._original.enough

    def in_full(self, _: Evaluation) -> bool:
        """Return whether the coming epoch is scored in full: as that of a pruned trial was."""
        result = self._original.result
        full = any(result.scores.get(name) is not None for name in _FULL)
        return full and len(self.rows) + 1 == result.epochs

    def scores(self, outcome: Outcome, metric: Metric) -> Numbers:
        """Return what is compared with the trial's scores: those of its last stored epoch."""
        if outcome.scores is None or outcome.state != "complete":
            return self._scored
        scores = {**outcome.scores.to_dict(), **of_loop(outcome.extra)}
        return {**scores, "value": metric_of(outcome.scores, metric)}


def _replay(
    file: StudyFile,
    original: Original,
    here: Given,
    ending: Ending,
    environment: Sequence[Difference],
) -> Replay:
    there = original.given()
    differences = compare(there, here)
    same = not differences and original.ending.same_as(ending)
    return Replay(
        study=file.name,
        asked=original.asked,
        trial=original.trial.number,
        state=original.state,
        point=original.trial.params,
        epochs=len(there.epochs),
        scores=sum(value is not None for value in there.scores.values()),
        differences=differences,
        environment=environment,
        failed_there=original.ending,
        failed_here=ending,
        reason="" if same else _reason(file.spec.task.use, original, differences, environment),
    )


def _reason(
    use: str,
    original: Original,
    differences: Sequence[Difference],
    environment: Sequence[Difference],
) -> str:
    if environment:
        return "bits are the same only for the same packages, processor type, threads and device"
    if not original.result.environment:
        return "with which packages and on what it was trained is not stored"
    if original.claims > 1:
        return (
            f"it was taken up {original.claims} times, and what is stored of packages and "
            "processor is the last worker's: the beginning may come from another machine"
        )
    if differences and all(line.name.startswith("extra_") for line in differences):
        return "only metrics of the loop's own differ; a time, say, is never the same"
    return (
        f"packages, processor type, threads and device are the same, so {use} is likely not "
        "deterministic: it draws what does not follow from run.seed, or reads what has changed"
    )
