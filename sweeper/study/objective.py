"""One trial, from its configuration to its outcome; knows neither Optuna nor SQL.

The metric is ours, not the task's: a loop yields logits and labels, and they are scored here,
unsmoothed, so that trials of different ε compare.
"""

import math
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from io import StringIO
from typing import Literal, TypeVar

import torch

from sweeper.errors import SweeperError
from sweeper.scoring import Scores, score
from sweeper.study.spec import Metric
from sweeper.training.checkpoints import Checkpoint
from sweeper.training.device import is_out_of_memory, memory_at_hand
from sweeper.training.packed.pack import is_packed
from sweeper.training.packed.stacking import Unstackable
from sweeper.training.plain import describe, looks_like_probabilities
from sweeper.training.run import Evaluation, Trainer, TrainingRun

# The end of what a loop printed; a runaway loop must not fill the database.
LOG_CHARACTERS = 64_000

# Why a trial failed. Only what is lost (its worker died or hung) is tried again; a trial that
# failed of itself would do so again.
Cause = Literal["", "raised", "diverged", "memory", "timeout", "lost"]


@dataclass(frozen=True)
class Epoch:
    """One evaluation, scored; `seconds` is how long its trial has been trained by then."""

    number: int
    evaluation: Evaluation
    scores: Scores
    epsilon: float
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """How a trial ended; `scores` are its last evaluation's, in full where it is complete.

    `splits` are those that the loop gives beside validation; `packed` says that its bits are a
    pack's.
    """

    state: Literal["complete", "pruned", "failed"]
    scores: Scores | None = None
    extra: dict[str, float] = field(default_factory=dict)
    classes: int | None = None
    epochs: int = 0
    seconds: float = 0.0
    failure: str = ""
    cause: Cause = ""
    splits: tuple[str, ...] = ()
    log: str = ""
    packed: bool = False
    notes: tuple[str, ...] = ()


# Called after each epoch; True stops the training: the trial is pruned.
OnEpoch = Callable[[Epoch], bool]
# Whether an epoch needs its scores in full.
InFull = Callable[[Evaluation], bool]


T = TypeVar("T")


class Failed(Exception):
    """A trial that cannot have a value; the text is recorded with it."""

    def __init__(self, text: str, cause: Cause = "raised") -> None:
        super().__init__(text)
        self.cause = cause


@dataclass
class Training:
    """A run under way: what it printed so far, and for how many seconds it was trained.

    `packed` says that its bits are a pack's, whoever trains it on.
    """

    run: TrainingRun
    log: StringIO = field(default_factory=StringIO)
    seconds: float = 0.0
    packed: bool = False

    def fence(self) -> "_Fence":
        """Return what the user's code is entered in."""
        return _Fence(self.log, self.run.device)


# A trial as whoever trains it sees it: it gives the run to be trained, once and again, is sent
# the run's evaluations, None at their end, or thrown `Failed`, and returns when it has enough.
Followed = Generator[Training, Evaluation | None, T]


def run_trial(
    trainer: Trainer,
    run: TrainingRun,
    on_epoch: OnEpoch,
    in_full: InFull,
) -> Outcome:
    """Train one configuration by itself and score every evaluation; `followed` says the rest."""
    return train_alone(trainer, followed(run, on_epoch, in_full))


def train_alone(trainer: Trainer, trial: Followed[T]) -> T:
    """Train what a trial asks for by itself, and return what the trial does."""
    try:
        training = next(trial)
    except StopIteration as ended:
        result: T = ended.value
        return result
    return go_on_alone(trainer, trial, training)


def go_on_alone(trainer: Trainer, trial: Followed[T], training: Training) -> T:
    """Train by itself what a trial has asked for, and return what the trial does."""
    evaluations = None
    clock = time.perf_counter() - training.seconds
    try:
        while True:
            try:
                with training.fence():
                    evaluations = evaluations or _iterator(trainer(training.run))
                    given = next(evaluations, None)
            except Failed as error:
                trial.throw(error)
            else:
                training.seconds = time.perf_counter() - clock
                trial.send(given)
    except StopIteration as ended:
        result: T = ended.value
        return result
    finally:
        close = getattr(evaluations, "close", None)
        if close is not None:
            close()


def _iterator(returned: object) -> Iterator[Evaluation]:
    if not isinstance(returned, Iterable):
        raise Failed(
            f"the training loop returned {describe(returned)}; it must yield Evaluation, or return "
            "an iterator that does"
        )
    return iter(returned)


def followed(
    run: TrainingRun,
    on_epoch: OnEpoch,
    in_full: InFull,
    resumed: Checkpoint | None = None,
) -> Followed[Outcome]:
    """Follow one training and score its every evaluation, from a checkpoint if there is one.

    What the loop raises, and a training that diverges, is an outcome and not an error. What
    `on_epoch` raises passes through, but for `Failed`: it belongs to the worker.
    """
    training, number, notes = Training(run), 0, _Notes()
    if resumed is not None:
        run = replace(run, state=resumed.state)
        training = Training(run, seconds=resumed.seconds, packed=is_packed(run))
        number = resumed.epochs
    state: Literal["complete", "pruned", "failed"] = "complete"
    failure, last = "", None
    cause: Cause = ""
    try:
        while (evaluation := (yield training)) is not None:
            number += 1
            last = _scored(number, evaluation, training, in_full)
            notes.add(last.evaluation)
            if on_epoch(last):
                state = "pruned"
                break
        if last is None:
            raise Failed("the training loop yielded no Evaluation; yield one after each epoch")
        if state == "complete":
            last = _completed(last)
            notes.end(last.evaluation)
    except Failed as error:
        state, failure, cause = "failed", str(error), error.cause
    return Outcome(
        state,
        scores=last.scores if last else None,
        extra=dict(last.evaluation.extra) if last else {},
        classes=last.evaluation.logits.shape[1] if last else None,
        epochs=last.number if last else 0,
        seconds=training.seconds,
        failure=failure,
        cause=cause,
        splits=tuple(last.evaluation.splits) if last else (),
        log=training.log.getvalue()[-LOG_CHARACTERS:],
        packed=training.packed,
        notes=tuple(notes.texts),
    )


class _Notes:
    """What is unusual about the reports of a training run; each kind is noted once."""

    def __init__(self) -> None:
        self.texts = list[str]()
        self._progress = 0.0
        self._repeated = False

    def add(self, evaluation: Evaluation) -> None:
        """Look at a report: at its logits if it is the first, at its progress if it is not."""
        if self._progress == 0.0 and looks_like_probabilities(evaluation.logits):
            self.texts.append(
                "the logits look like probabilities: no value is negative and each row sums to 1; "
                "report logits, from before the softmax, or their logarithms"
            )
        if evaluation.progress <= self._progress and not self._repeated:
            self._repeated = True
            self.texts.append(
                f"progress {evaluation.progress:g} was reported after {self._progress:g}; "
                "it must increase"
            )
        self._progress = max(self._progress, evaluation.progress)

    def end(self, last: Evaluation) -> None:
        """Look at the last report of a training loop that ended by itself."""
        if last.progress < 1.0:
            self.texts.append(
                f"the training loop ended at progress {last.progress:g}; "
                "its last report counts as the final one"
            )


def metric_of(scores: Scores, metric: Metric) -> float:
    """Return the study's metric; raises `ValueError` where it was not worked out."""
    value = scores.nll if metric == "nll" else scores.nll_calibrated
    if value is None:
        raise ValueError("nll_calibrated was not worked out for these scores")
    return value


def _checked(evaluation: object) -> Evaluation:
    if not isinstance(evaluation, Evaluation):
        raise Failed(
            f"the training loop yielded {type(evaluation).__name__}; "
            "yield sweeper.Evaluation(logits, labels, progress)"
        )
    return evaluation


def _scored(number: int, evaluation: Evaluation, training: Training, in_full: InFull) -> Epoch:
    with training.fence():
        full = in_full(_checked(evaluation))
        scores = score(evaluation.logits, evaluation.labels, full=full)
        epsilon = training.run.smoothing.at(evaluation.progress)
        if not math.isfinite(scores.nll):
            reason = f"the training diverged: validation NLL is {scores.nll} at epoch {number}"
            raise Failed(reason, "diverged")
    return Epoch(number, evaluation, scores, epsilon, training.seconds)


def _completed(epoch: Epoch) -> Epoch:
    if epoch.scores.nll_calibrated is not None:
        return epoch
    evaluation = epoch.evaluation
    return replace(epoch, scores=score(evaluation.logits, evaluation.labels))


class _Fence:
    """Keeps what the user's code prints, and makes what it raises the outcome of its trial.

    Entered once an epoch: a class, since nested generators cost as much as a row in the database.
    """

    def __init__(self, log: StringIO, device: torch.device) -> None:
        self._log = log
        self._device = device

    def __enter__(self) -> None:
        self._streams = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = self._log

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        sys.stdout, sys.stderr = self._streams
        if isinstance(error, Failed | Unstackable) or not isinstance(error, Exception):
            return
        if isinstance(error, SweeperError):
            raise Failed(str(error)) from error
        if is_out_of_memory(error):
            raise Failed(_memory(error, self._device), "memory") from error
        raise Failed("".join(traceback.format_exception(error))) from error


def _memory(error: BaseException, device: torch.device) -> str:
    asked = " ".join(str(error).split()) or type(error).__name__
    return f"out of memory: {asked}; {memory_at_hand(device)}"
