"""A training run in its trainer: score its reports, send them and follow the replies."""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from sweeper.errors import TrialPruned, TrialReleased
from sweeper.scoring import Scores, score
from sweeper.smoothing import Smoothing, SmoothingLoss
from sweeper.training.checkpoints import CheckpointWriter, save_weights
from sweeper.training.conversion import as_state, describe, in_one_line, looks_like_probabilities
from sweeper.training.device import pick_device
from sweeper.training.failures import TrainingFailed, training_failure
from sweeper.training.labels import Integers, digest_of
from sweeper.training.messages import (
    LABELS,
    PACKED,
    ROUNDING,
    Action,
    FromTrainer,
    Reply,
    Report,
    Start,
    ToTrainer,
    TrainingEnd,
)
from sweeper.training.observation.observer import Observer
from sweeper.training.replicate_scores import replicate_result
from sweeper.training.run import Evaluation, TrainingRun

# Sends a message to the worker and returns its answer.
Exchange = Callable[[FromTrainer], ToTrainer]

# The actions of a reply that stop the training run.
STOPS: Final = ("prune", "release", "drop")

# Prefix of the failures of trials whose state cannot be saved.
BAD_STATE = "Evaluation.state"


class Reporter:
    """The reports, the checkpoints and the end of one training run.

    If `checks_state` is true, the state is checked at the first report, so that a state that cannot
    be saved fails the run early. `environment` is sent with the first report.
    """

    def __init__(
        self,
        start: Start,
        options: Mapping[str, Any],
        environment: Callable[[torch.device], Mapping[str, str]],
        exchange: Exchange,
        *,
        checks_state: bool,
    ) -> None:
        self.start = start
        self._exchange = exchange
        self._checks_state = checks_state
        self._environment = environment
        self._files = CheckpointWriter(start)
        device = pick_device(start.device)
        resumed = self._files.load()
        self._number = 0 if resumed is None else resumed.epochs
        self._trained = 0.0 if resumed is None else resumed.seconds
        self._clock: float | None = None
        self.packed = resumed is not None and bool(resumed.state.get(PACKED))
        self.run = TrainingRun(
            smoothing=Smoothing(*start.smoothing),
            seed=start.seed,
            data_seed=start.data_seed,
            device=device,
            hparams=start.hparams,
            options=options,
            state=None if resumed is None else resumed.state,
            number=start.number,
            directory=Path(start.directory or ""),
            reporter=self,
        )
        self.losses: list[SmoothingLoss] = []
        self._notes = _Notes()
        self._last: Report | None = None
        self._evaluation: Evaluation | None = None
        self._stopped: TrialPruned | TrialReleased | TrainingFailed | None = None
        self._lock = threading.RLock()
        self._reporting = self._over = False
        self._observer = None if start.observed is None else Observer(start.observed)
        if self._observer is not None:
            self._observer.begin()

    # ---- time ----------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """Seconds of training so far over all attempts, without the time spent on replies."""
        running = 0.0 if self._clock is None else time.perf_counter() - self._clock
        return self._trained + running

    def add_seconds(self, seconds: float) -> None:
        """Add seconds of training that were measured by the caller."""
        self._trained += seconds

    def begin(self) -> None:
        """Start the clock."""
        self._clock = time.perf_counter()

    def pause(self) -> None:
        """Stop the clock."""
        self._trained, self._clock = self.seconds, None

    @property
    def reported(self) -> bool:
        """Whether the run has reported in this process."""
        return self._last is not None

    @property
    def failed(self) -> bool:
        """Whether a report could not be scored."""
        return isinstance(self._stopped, TrainingFailed)

    @property
    def progress(self) -> float:
        """The progress of the last report, 0 before the first report."""
        return 0.0 if self._last is None else self._last.progress

    # ---- reports -------------------------------------------------------------------------

    def report(self, evaluation: Evaluation) -> None:
        """Score an evaluation, send the report and follow the reply.

        Raises `TrialPruned` or `TrialReleased` if the run must stop, and `TrainingFailed` if the
        evaluation cannot be scored. Later calls raise the same exception again. Thread-safe.
        """
        with self._lock:
            if self._reporting:
                raise TrainingFailed(
                    "run.report was called recursively; the functions `state` and `splits` of an "
                    "Evaluation must not call it"
                )
            self._reporting = True
            try:
                self._report(evaluation)
            finally:
                self._reporting = False

    def _report(self, evaluation: Evaluation) -> None:
        if self._over:
            raise TrialReleased("the training run has ended and cannot report anymore")
        if self._stopped is not None:
            raise self._stopped
        try:
            report = self.make_report(evaluation)
        except Exception as error:
            self._stopped = training_failure(error, self.run.device)
            raise self._stopped from error
        self.pause()
        answer = self._exchange(FromTrainer([report]))
        self.begin()
        self.follow(answer.replies.get(self.start.key, Reply("drop")))

    def make_report(self, evaluation: object) -> Report:
        """Return the report of an evaluation.

        Raises `TrainingFailed` if it is not an `Evaluation` or the NLL is not finite, and the
        exceptions of `sweeper.scoring.score`.
        """
        if not isinstance(evaluation, Evaluation):
            raise TrainingFailed(
                f"the training function yielded or returned {describe(evaluation)}; call "
                "run.report(logits, labels, progress=...) or yield "
                "sweeper.Evaluation(logits, labels, progress)"
            )
        number, progress = self.next_number(evaluation.progress), evaluation.progress
        before = None if self._last is None else self._last.progress
        scores = _score(evaluation, full=self.start.full.includes(number, progress, before))
        if not math.isfinite(scores.nll):
            raise TrainingFailed(
                f"training diverged: validation NLL is {scores.nll} at epoch {number}",
                "diverged",
            )
        if self._checks_state and self._last is None and evaluation.state is not None:
            state_of(evaluation)
        self._notes.add(evaluation)
        if self._observer is not None:
            self._observer.record(evaluation, number)
        if not self.packed and (number > 1 or progress == 1.0):
            self._notes.add_losses(self.run.smoothing, self.losses)
        report = Report(
            key=self.start.key,
            number=number,
            progress=progress,
            epsilon=self.run.smoothing.at(progress),
            scores=scores.to_dict(),
            classes=evaluation.logits.shape[1],
            seconds=self.seconds,
            mean_epsilon=evaluation.mean_epsilon,
            train_loss=evaluation.train_loss,
            extra=dict(evaluation.extra),
            splits=tuple(evaluation.splits),
            packed=self.packed,
            notes=tuple(self._notes.texts),
            replicate_result=self._replicate_result(evaluation, scores)
            if progress == 1.0
            else None,
            environment=self._environment(self.run.device) if self._last is None else {},
        )
        self._number, self._last, self._evaluation = number, report, evaluation
        return report

    def next_number(self, progress: float) -> int:
        """Return the number of the next report."""
        if self._number or self._last is not None:
            return self._number + 1
        return first_number(self.start, progress)

    def follow(self, reply: Reply) -> None:
        """Save weights and checkpoints as requested by a reply.

        Raises `TrialPruned` or `TrialReleased` if the reply says to stop.
        """
        assert self._last is not None
        assert self._evaluation is not None
        evaluation, number = self._evaluation, self._last.number
        if reply.weights:
            self._save_weights(evaluation)
        if reply.action == "release":
            self._files.write(evaluation_state(evaluation), number, self.seconds)
        elif reply.action == "continue" and evaluation.progress < 1.0:
            self._files.write_if_due(evaluation_state(evaluation), number, self.seconds)
        self._stopped = stop_exception(reply.action)
        if self._stopped is not None:
            raise self._stopped

    def training_end(self, error: BaseException | None = None) -> TrainingEnd:
        """Return the end of the run; `error` is the exception that ended it, if any.

        Waits until reports in other threads are done; later reports raise `TrialReleased`.
        """
        with self._lock:
            self._over = True
            if self._observer is not None:
                self._observer.end()
            return self._training_end(error)

    def _training_end(self, error: BaseException | None) -> TrainingEnd:
        if isinstance(self._stopped, TrialPruned | TrialReleased):
            return self._ended("stopped")
        error = self._stopped or error
        try:
            if error is None:
                return self._completed()
        except Exception as late:
            error = late
        failed = training_failure(error, self.run.device)
        return replace(
            self._ended("failed"), failure=str(failed), cause=failed.cause, problem=failed.problem
        )

    def _completed(self) -> TrainingEnd:
        if self._last is None or self._evaluation is None:
            raise TrainingFailed(
                "the training function reported nothing; yield an Evaluation or call run.report "
                "after each epoch"
            )
        self._notes.end(self._evaluation)
        if self._last.progress < 1.0:
            scores = _score(self._evaluation, full=True)
            result = self._replicate_result(self._evaluation, scores)
            self._last = replace(self._last, scores=scores.to_dict(), replicate_result=result)
        return self._ended("complete")

    def _ended(self, state: Any) -> TrainingEnd:
        return TrainingEnd(
            self.start.key, state, self._last, self.seconds, notes=tuple(self._notes.texts)
        )

    # ---- details -------------------------------------------------------------------------

    def _replicate_result(self, evaluation: Evaluation, scores: Scores) -> Mapping[str, Any] | None:
        if self.start.arrays is None:
            return None
        return replicate_result(evaluation, scores).save(Path(self.start.arrays))

    def _save_weights(self, evaluation: Evaluation) -> None:
        model = None if evaluation.state is None else state_of(evaluation).get("model")
        if model is not None and self.start.weights is not None:
            path = Path(self.start.weights)
            self._files.try_write(lambda: save_weights(path, self.start.weights_identity, model))


class FunctionReporter(Reporter):
    """The reports of a training function: the first one has a digest of the validation labels."""

    def make_report(self, evaluation: object) -> Report:
        report = super().make_report(evaluation)
        if not report.environment or not isinstance(evaluation, Evaluation):
            return report
        key = LABELS.format(self.start.data_seed)
        digest = self.digest_of(evaluation.labels.cpu().numpy())
        return replace(report, environment={**report.environment, key: digest})

    def digest_of(self, labels: Integers) -> str:
        """Return a digest of the labels; their order does not matter for the scores."""
        return digest_of(np.sort(labels))


def _score(evaluation: Evaluation, *, full: bool) -> Scores:
    return score(evaluation.logits, evaluation.labels, full=full, groups=evaluation.groups)


def first_number(start: Start, progress: float) -> int:
    """Return the number of the first report of a run that starts without a checkpoint of sweeper.

    If it resumed from files of its own, it continues the numbers of the reports with less progress.
    """
    return 1 + sum(earlier < progress - ROUNDING for earlier in start.reported)


def stop_exception(action: Action) -> TrialPruned | TrialReleased | None:
    """Return the exception that a training run raises after a reply; None if it continues."""
    match action:
        case "prune":
            return TrialPruned("the trial was pruned; stop training")
        case "release":
            return TrialReleased(
                "the trial was interrupted and will be resumed later; stop training now"
            )
        case "drop":
            return TrialReleased(
                "sweeper has ended this attempt at the trial; stop training now (if the trial "
                "failed, sweeper logs shows why)"
            )
    return None


def evaluation_state(evaluation: Evaluation) -> Callable[[], Mapping[str, Any]] | None:
    """Return a function that returns the state of an evaluation, or None if it has no state."""
    return None if evaluation.state is None else lambda: state_of(evaluation)


def state_of(evaluation: Evaluation) -> dict[str, Any]:
    """Return the state to save in a checkpoint. Raises `TrainingFailed` if it cannot be saved."""
    assert evaluation.state is not None
    try:
        state = evaluation.state()
    except Exception as error:
        what = in_one_line(error)
        raise TrainingFailed(f"{BAD_STATE} raised {what}") from error
    if not isinstance(state, dict):
        raise TrainingFailed(f"{BAD_STATE} returned {describe(state)}; it must return a dict")
    try:
        plain: dict[str, Any] = as_state(state, "state")
    except TypeError as error:
        raise TrainingFailed(f"{BAD_STATE}: {error}") from error
    return plain


class _Notes:
    """Notes about suspicious reports of a training run; each kind is noted once."""

    def __init__(self) -> None:
        self.texts = list[str]()
        self._progress = 0.0
        self._repeated = self._no_annealing = False

    def add(self, evaluation: Evaluation) -> None:
        """Check the logits of the first report and the progress of all later reports."""
        if self._progress == 0.0 and looks_like_probabilities(evaluation.logits):
            self.texts.append(
                "the logits look like probabilities: no value is negative and each row sums to 1; "
                "report the logits before the softmax, or log-probabilities"
            )
        if evaluation.progress <= self._progress and not self._repeated:
            self._repeated = True
            self.texts.append(
                f"progress {evaluation.progress:g} was reported after {self._progress:g}; "
                "it must increase"
            )
        self._progress = max(self._progress, evaluation.progress)

    def add_losses(self, smoothing: Smoothing, losses: Sequence[SmoothingLoss]) -> None:
        """Check that the loop has set the progress of its losses, if ε depends on it."""
        never_set = bool(losses) and not any(loss.get_buffer("progress").item() for loss in losses)
        if never_set and smoothing.at(0.0) != smoothing.at(1.0) and not self._no_annealing:
            self._no_annealing = True
            self.texts.append(
                "loss.progress was never set, so ε did not anneal; set it before each step to the "
                "fraction of training done"
            )

    def end(self, last: Evaluation) -> None:
        """Check the last report of a training function that returned normally."""
        if last.progress < 1.0:
            self.texts.append(
                f"the training function ended at progress {last.progress:g}, not 1; "
                "its last report is used as the result"
            )
