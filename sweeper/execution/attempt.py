"""One attempt at a ticket: its trial is found or born, trained, and told exactly once."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal

from optuna.trial import FrozenTrial

from sweeper.execution.files import Checkpoints
from sweeper.execution.lease import Vigil
from sweeper.execution.opened import OpenStudy
from sweeper.execution.stopping import StopRequest
from sweeper.store.database import Store
from sweeper.store.records import (
    EpochRow,
    Result,
    close_ticket,
    read_result,
    rewrite_epoch,
    start_attempt,
    write_epoch,
    write_result,
)
from sweeper.store.tickets import LeaseLost, Ticket
from sweeper.study.objective import Cause, Epoch, Failed, Outcome, metric_of, run_trial
from sweeper.study.sampler import propose
from sweeper.study.space import Point, canonical, hparams_of, smoothing_of
from sweeper.study.trials import (
    COPIED_FROM,
    TICKET,
    BornTrial,
    Reports,
    bear_trial,
    find_trial,
    finished_trials,
    read_anew,
    tell,
)
from sweeper.training.run import Evaluation, TrainingRun

MAX_ATTEMPTS: Final = 5
# What Optuna's own tools are shown of a trial; the rest is in our tables.
SHOWN: Final = ("nll", "accuracy", "ece", "nll_calibrated")


class Stopped(Exception):
    """The worker was asked to stop in the middle of a trial."""


@dataclass(frozen=True)
class Told:
    """How a trial ended: what Optuna is told, and what we keep beside it."""

    state: Literal["complete", "pruned", "failed"]
    value: float | None
    result: Result
    attributes: Mapping[str, Any] = field(default_factory=dict)


def run_ticket(study: OpenStudy, ticket: Ticket, stop: StopRequest, vigil: Vigil) -> None:
    """Bring a claimed ticket to its end.

    Raises `Stopped` where the worker is asked to stop before that, `LeaseLost` where another
    worker has the ticket by now.
    """
    trial = _trial_of(study, ticket)
    checkpoints = Checkpoints(study.files, ticket.number)
    if not trial.finished:
        told = _told(study, ticket, trial, stop, vigil, checkpoints)
        _record(study, ticket, trial, told)
    close_ticket(study.store, ticket)
    checkpoints.discard()
    _keep_the_best(study, ticket)


def _record(study: OpenStudy, ticket: Ticket, trial: BornTrial, told: Told) -> None:
    # Our row first: a worker that dies before Optuna is told leaves a trial to be run
    # again, one that dies after it leaves only a ticket to be closed.
    write_result(study.store, ticket, told.result)
    _tell(study, trial, told)


def _keep_the_best(study: OpenStudy, ticket: Ticket) -> None:
    """Of finished trials keep the best one's weights alone."""
    with_weights = study.files.with_weights()
    if ticket.number not in with_weights:
        return
    read_anew(study.optuna)
    ended = study.store.call(
        lambda: {t.user_attrs[TICKET]: t for t in finished_trials(study.optuna)}
    )
    best = min(ended, key=lambda n: (ended[n].values[0], ended[n].number), default=None)
    study.files.drop_weights(n for n in with_weights if n in ended and n != best)


def _tell(study: OpenStudy, trial: BornTrial, told: Told) -> None:
    # Finished already: by us, in a call whose answer was lost, or by who has the lease now.
    tell(study.store, trial.id, told.state, told.value, told.attributes)


def _trial_of(study: OpenStudy, ticket: Ticket) -> BornTrial:
    """Return the ticket's trial, born now if need be."""
    read_anew(study.optuna)
    # The launch bears trial 0; any other can only be there after an earlier claim.
    maybe_born = ticket.number == 0 or ticket.claims > 1

    def once() -> BornTrial:
        nonlocal maybe_born
        found = find_trial(study.optuna, ticket.number) if maybe_born else None
        if found is not None:
            return found
        spec, point = study.file.spec, ticket.point
        if point is None:
            point = propose(study.optuna, spec, ticket.number)
        maybe_born = True  # if the answer to this is lost
        return bear_trial(study.store, study.optuna, spec.space, ticket.number, point)

    return study.store.call(once)


def _told(
    study: OpenStudy,
    ticket: Ticket,
    trial: BornTrial,
    stop: StopRequest,
    vigil: Vigil,
    checkpoints: Checkpoints,
) -> Told:
    if ticket.attempts > MAX_ATTEMPTS:
        reason = f"its worker died or hung {MAX_ATTEMPTS} times in this trial; not tried again"
        return _failed(reason, "lost")
    twin = study.store.call(lambda: _finished_twin(study, ticket, trial.point))
    if twin is not None:
        return _copied(study, twin)
    again = ticket.claims > 1
    stored = start_attempt(study.store, ticket) if again else 0
    resumed = checkpoints.load() if again else None
    # ε = 0 is never pruned.
    reports = Reports(
        study.store, study.optuna, trial, study.file.spec, prunable=ticket.number != 0
    )
    _limit(study, ticket, trial, vigil, 0.0 if resumed is None else resumed.seconds)
    watch = _Watch(study, ticket, reports, stop, vigil, checkpoints, stored)
    run = _run(study, trial.point)
    vigil.epoch_begins()
    outcome = run_trial(study.file.task.trainer, run, watch, watch.in_full, resumed)
    vigil.rests()
    return _from_outcome(study, outcome, reports.last)


def _limit(study: OpenStudy, ticket: Ticket, trial: BornTrial, vigil: Vigil, before: float) -> None:
    """Let the trial be ended, from another thread if need be, when it has had its time."""
    limit = study.file.spec.budget.trial_timeout
    if limit is None:
        return

    def end(store: Store) -> None:
        here = replace(study, store=store)
        _record(here, ticket, trial, _failed(_took_too_long(limit), "timeout"))
        close_ticket(store, ticket)

    vigil.limit(limit - before, end)


def _took_too_long(limit: float) -> str:
    return f"it took longer than {limit:g} s (budget.trial_timeout)"


@dataclass(frozen=True)
class _Watch:
    """Stands beside a training: stores each epoch, reports, and says when to stop."""

    study: OpenStudy
    ticket: Ticket
    reports: Reports
    stop: StopRequest
    vigil: Vigil
    checkpoints: Checkpoints
    stored: int  # epochs that an earlier attempt has stored

    def __call__(self, epoch: Epoch) -> bool:
        """Store an epoch; return whether the trial is pruned. Raises `Stopped`."""
        self.vigil.epoch_ended()
        pruned = self._take(epoch)
        self.vigil.epoch_begins()
        return pruned

    def _take(self, epoch: Epoch) -> bool:
        write = rewrite_epoch if epoch.number <= self.stored else write_epoch
        write(self.study.store, self.ticket, _epoch_row(epoch))
        if epoch.evaluation.progress == 1.0:
            self._keep_if_best(epoch)
            return False
        if self.stop or self.vigil.interrupted:
            self.checkpoints.write(epoch)
            raise Stopped
        self._check_time()
        if self._falls_behind(epoch):
            return True
        self.checkpoints.keep(epoch)
        return False

    def _falls_behind(self, epoch: Epoch) -> bool:
        progress = epoch.evaluation.progress
        if not self.reports.due(progress):
            return False
        value = metric_of(epoch.scores, self._metric)
        return self.study.store.call(lambda: self.reports.report(progress, value))

    def _check_time(self) -> None:
        limit = self.study.file.spec.budget.trial_timeout
        if limit is None or not self.vigil.late:
            return
        if not self.vigil.first_to_end():
            raise LeaseLost
        raise Failed(_took_too_long(limit), "timeout")

    def _keep_if_best(self, epoch: Epoch) -> None:
        if self.study.lowest.improved_by(metric_of(epoch.scores, self._metric)):
            self.checkpoints.write_weights(epoch)

    def in_full(self, evaluation: Evaluation) -> bool:
        """Return whether an evaluation needs its scores in full: the last one, or its metric."""
        due = self._metric == "nll_calibrated" and self.reports.due(evaluation.progress)
        return due or evaluation.progress == 1.0

    @property
    def _metric(self) -> Literal["nll", "nll_calibrated"]:
        return self.study.file.spec.objective.metric


def _run(study: OpenStudy, point: Point) -> TrainingRun:
    spec = study.file.spec
    return TrainingRun(
        smoothing=smoothing_of(point),
        seed=spec.study.seed,
        data_seed=spec.study.seed,
        device=study.device,
        hparams=hparams_of(point),
        options=spec.task.options,
    )


def _epoch_row(epoch: Epoch) -> EpochRow:
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
    )


def _from_outcome(study: OpenStudy, outcome: Outcome, reported: float | None) -> Told:
    scores = {} if outcome.scores is None else asdict(outcome.scores)
    complete = outcome.state == "complete" and outcome.scores is not None
    metric = study.file.spec.objective.metric
    result = Result(
        scores=scores,
        extra=outcome.extra,
        environment=study.environment,
        classes=outcome.classes,
        epochs=outcome.epochs,
        seconds=outcome.seconds,
        failure=outcome.failure,
        cause=outcome.cause,
        log=outcome.log,
    )
    value = metric_of(outcome.scores, metric) if complete and outcome.scores else None
    if outcome.state == "pruned":
        value = reported
    return Told(outcome.state, value, result, _shown(scores) if complete else {})


def _shown(scores: Mapping[str, Any]) -> dict[str, Any]:
    # One attribute, since each is a commit.
    return {"scores": {name: scores[name] for name in SHOWN}}


def _failed(reason: str, cause: Cause) -> Told:
    return Told("failed", None, Result(failure=reason, cause=cause))


def _may_have_twin(study: OpenStudy, ticket: Ticket) -> bool:
    """Return whether a finished trial can equal this one: to look costs a reading of them all.

    What the sampler proposes comes after all that was laid, so a laid point that is claimed
    for the first time can only equal one laid before it.
    """
    return ticket.point is None or ticket.claims > 1 or ticket.number in study.repeated


def _finished_twin(study: OpenStudy, ticket: Ticket, point: Point) -> FrozenTrial | None:
    """Return a finished trial of ours that trained the same configuration, or None."""
    if not _may_have_twin(study, ticket):
        return None
    key = canonical(point)
    for trial in finished_trials(study.optuna):
        if trial.params["epsilon"] == point["epsilon"] and canonical(trial.params) == key:
            return trial
    return None


def _copied(study: OpenStudy, twin: FrozenTrial) -> Told:
    """Return the stored result of a trial that trained the same: nothing is trained twice."""
    number = twin.user_attrs[TICKET]
    stored = read_result(study.store, study.record, number) or Result()
    result = replace(stored, copied_from=number, epochs=0, seconds=0.0, log="")
    return Told(
        "complete",
        twin.value,
        result,
        {COPIED_FROM: twin.number, **_shown(stored.scores)},
    )
