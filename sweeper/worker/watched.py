"""A ticket's training under watch: each epoch stored, stopped where it has to, never for ever."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import torch

from sweeper.confirmation.design import Assignment
from sweeper.store.database import Store
from sweeper.store.records import EpochRow, Result, rewrite_epoch, start_attempt, write_epoch
from sweeper.store.schema import LONGEST_NOTES
from sweeper.store.tickets import LeaseLost, Ticket
from sweeper.study.objective import Epoch, Failed, Followed, Outcome, followed
from sweeper.study.space import Point, hparams_of, smoothing_of
from sweeper.study.spec import StudySpec
from sweeper.training.packed.stack import PACKED
from sweeper.training.run import Evaluation, TrainingRun
from sweeper.worker.leases import Vigil
from sweeper.worker.open_study import OpenStudy
from sweeper.worker.stopping import StopRequest
from sweeper.worker.trial_files import Checkpoints

MAX_ATTEMPTS: Final = 5


class Stopped(Exception):
    """The worker was asked to stop in the middle of a trial."""


@dataclass(frozen=True)
class Attempt:
    """A claimed ticket, with what stands beside its training."""

    study: OpenStudy
    ticket: Ticket
    stop: StopRequest
    vigil: Vigil
    checkpoints: Checkpoints

    @property
    def lost(self) -> str:
        """Why the ticket is not tried again, "" where it is."""
        if self.ticket.attempts <= MAX_ATTEMPTS:
            return ""
        return f"its worker died or hung {MAX_ATTEMPTS} times in this trial; not tried again"


@dataclass(frozen=True)
class Course:
    """What becomes of a training's epochs, beside being stored.

    `in_full` says whether an evaluation before the last needs its scores in full, `pruned`
    whether it is the last, `ended` is called with the one at the end, and `failed` records,
    perhaps from another thread, that there will be none.
    """

    in_full: Callable[[Evaluation], bool]
    pruned: Callable[[Epoch], bool]
    ended: Callable[[Epoch], None]
    failed: Callable[[Store, Result], None]


def train(attempt: Attempt, run: TrainingRun, course: Course) -> Followed[Outcome]:
    """Follow a ticket's run to its end, from its checkpoint if an earlier attempt left one.

    Raises `Stopped` where the worker is asked to stop before that, `LeaseLost` where another
    worker has the ticket by now.
    """
    again = attempt.ticket.claims > 1
    stored = start_attempt(attempt.study.store, attempt.ticket) if again else 0
    resumed = attempt.checkpoints.load() if again else None
    _limit(attempt, course, 0.0 if resumed is None else resumed.seconds)
    first = 1 if resumed is None else resumed.epochs + 1
    watch = _Watch(attempt, course, stored, first)
    attempt.vigil.epoch_begins()
    outcome = yield from followed(run, watch, watch.in_full, resumed)
    attempt.vigil.rests()
    return outcome


def training_run(spec: StudySpec, point: Point, device: torch.device) -> TrainingRun:
    """Return a point of the space as a training loop is given it."""
    return TrainingRun(
        smoothing=smoothing_of(point),
        seed=spec.study.seed,
        data_seed=spec.study.seed,
        device=device,
        hparams=hparams_of(point),
        options=spec.task.options,
    )


def replicate_run(spec: StudySpec, one: Assignment, device: torch.device) -> TrainingRun:
    """Return a training of a confirmation as a training loop is given it."""
    run = training_run(spec, one.point, device)
    return replace(run, seed=one.seed, data_seed=one.data_seed)


def epoch_row(epoch: Epoch) -> EpochRow:
    """Return an evaluation as it is stored."""
    scores, evaluation = epoch.scores, epoch.evaluation
    return EpochRow(
        epoch=epoch.number,
        progress=evaluation.progress,
        epsilon=epoch.epsilon,
        train_loss=evaluation.train_loss,
        nll=scores.nll,
        accuracy=scores.accuracy,
        brier=scores.brier,
        ece=scores.ece,
        mean_epsilon=evaluation.mean_epsilon,
    )


def result_of(study: OpenStudy, outcome: Outcome) -> Result:
    """Return what is kept of a training, however it ended."""
    return Result(
        scores={} if outcome.scores is None else outcome.scores.to_dict(),
        extra=outcome.extra,
        environment={**study.environment, **({PACKED: "yes"} if outcome.packed else {})},
        classes=outcome.classes,
        epochs=outcome.epochs,
        seconds=outcome.seconds,
        failure=outcome.failure,
        cause=outcome.cause,
        splits=",".join(outcome.splits),
        log=outcome.log,
        notes="\n".join(outcome.notes)[:LONGEST_NOTES],
    )


def _limit(attempt: Attempt, course: Course, before: float) -> None:
    """Let the training be ended, from another thread if need be, when it has had its time."""
    limit = attempt.study.file.spec.budget.trial_timeout
    if limit is None:
        return
    failure = Result(failure=_took_too_long(limit), cause="timeout")
    attempt.vigil.limit(limit - before, lambda store: course.failed(store, failure))


def _took_too_long(limit: float) -> str:
    return f"it took longer than {limit:g} s (budget.trial_timeout)"


@dataclass(frozen=True)
class _Watch:
    """Stands beside a training: stores each epoch, and says when to stop."""

    attempt: Attempt
    course: Course
    stored: int  # epochs that an earlier attempt has stored
    first: int  # number of the first epoch of this attempt

    def __call__(self, epoch: Epoch) -> bool:
        """Store an epoch; return whether the trial is pruned. Raises `Stopped`."""
        self.attempt.vigil.epoch_ended()
        pruned = self._take(epoch)
        self.attempt.vigil.epoch_begins()
        return pruned

    def in_full(self, evaluation: Evaluation) -> bool:
        """Return whether an evaluation needs its scores in full."""
        return evaluation.progress == 1.0 or self.course.in_full(evaluation)

    def _take(self, epoch: Epoch) -> bool:
        attempt = self.attempt
        write = rewrite_epoch if epoch.number <= self.stored else write_epoch
        write(attempt.study.store, attempt.ticket, epoch_row(epoch))
        if epoch.number == self.first and attempt.study.file.task.task is None:
            attempt.checkpoints.check(epoch)
        if epoch.evaluation.progress == 1.0:
            self.course.ended(epoch)
            return False
        if attempt.stop or attempt.vigil.interrupted:
            attempt.checkpoints.write(epoch)
            raise Stopped
        self._check_time()
        if self.course.pruned(epoch):
            return True
        attempt.checkpoints.keep(epoch)
        return False

    def _check_time(self) -> None:
        limit = self.attempt.study.file.spec.budget.trial_timeout
        if limit is None or not self.attempt.vigil.late:
            return
        if not self.attempt.vigil.first_to_end():
            raise LeaseLost
        raise Failed(_took_too_long(limit), "timeout")
