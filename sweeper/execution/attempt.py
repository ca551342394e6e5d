"""One attempt at a ticket: its trial is found or born, trained, and told exactly once."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import optuna
import torch
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial

from sweeper.execution.stopping import StopRequest
from sweeper.store.database import Store
from sweeper.store.records import (
    EpochRow,
    Result,
    close_ticket,
    read_results,
    start_attempt,
    write_epoch,
    write_result,
)
from sweeper.store.studies import StudyRecord
from sweeper.store.tickets import Ticket, laid_points
from sweeper.study.load import StudyFile, stored_study
from sweeper.study.objective import Epoch, Outcome, metric_of, run_trial
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
    open_optuna_study,
    read_anew,
    tell,
)
from sweeper.training.device import environment, pick_device
from sweeper.training.run import Evaluation, TrainingRun

MAX_ATTEMPTS: Final = 5
# What Optuna's own tools are shown of a trial; the rest is in our tables.
SHOWN: Final = ("nll", "accuracy", "ece", "nll_calibrated")


class Stopped(Exception):
    """The worker was asked to stop in the middle of a trial."""


@dataclass(frozen=True)
class OpenStudy:
    """A study opened for work in this process."""

    store: Store
    record: StudyRecord
    file: StudyFile
    optuna: optuna.Study
    device: torch.device
    environment: Mapping[str, str]
    # Tickets whose point was laid into an earlier one too.
    repeated: frozenset[int]


@dataclass(frozen=True)
class Told:
    """How a trial ended: what Optuna is told, and what we keep beside it."""

    state: Literal["complete", "pruned", "failed"]
    value: float | None
    result: Result
    attributes: Mapping[str, Any] = field(default_factory=dict)


def open_for_work(store: Store, record: StudyRecord) -> OpenStudy:
    """Load the study's code as it was launched, and choose the device."""
    file = stored_study(record.spec, Path(record.folder))
    device = pick_device(file.spec.task.device)
    return OpenStudy(
        store,
        record,
        file,
        open_optuna_study(store, file.spec),
        device,
        environment(device, file.folder),
        _repeated(laid_points(store, record)),
    )


def _repeated(points: Mapping[int, Point]) -> frozenset[int]:
    """Return the tickets whose configuration an earlier one has already."""
    first: dict[Any, int] = {}
    return frozenset(n for n, point in points.items() if first.setdefault(canonical(point), n) != n)


def run_ticket(study: OpenStudy, ticket: Ticket, stop: StopRequest) -> None:
    """Bring a claimed ticket to its end.

    Raises `Stopped` where the worker is asked to stop before that, `LeaseLost` where another
    worker has the ticket by now.
    """
    trial = _trial_of(study, ticket)
    if not trial.finished:
        told = _told(study, ticket, trial, stop)
        # Our row first: a worker that dies before Optuna is told leaves a trial to be run
        # again, one that dies after it leaves only a ticket to be closed.
        write_result(study.store, ticket, told.result)
        _tell(study, trial, told)
    close_ticket(study.store, ticket)


def _tell(study: OpenStudy, trial: BornTrial, told: Told) -> None:
    args = (study.optuna, trial.id, told.state, told.value, told.attributes)
    # Finished already: by us, in a call whose answer was lost, or by who has the lease now.
    with suppress(UpdateFinishedTrialError):
        study.store.call(lambda: tell(*args))


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
        return bear_trial(study.optuna, spec.space, ticket.number, point)

    return study.store.call(once)


def _told(study: OpenStudy, ticket: Ticket, trial: BornTrial, stop: StopRequest) -> Told:
    if ticket.attempts > MAX_ATTEMPTS:
        return _failed(f"its worker died {MAX_ATTEMPTS} times in this trial; not tried again")
    twin = study.store.call(lambda: _finished_twin(study, ticket, trial.point))
    if twin is not None:
        return _copied(study, twin)
    if ticket.claims > 1:
        start_attempt(study.store, ticket)
    # ε = 0 is never pruned.
    reports = Reports(study.optuna, trial, study.file.spec, prunable=ticket.number != 0)
    watch = _Watch(study, ticket, reports, stop)
    run = _run(study, trial.point)
    outcome = run_trial(study.file.task.trainer, run, watch, watch.in_full)
    return _from_outcome(study, outcome, reports.last)


@dataclass(frozen=True)
class _Watch:
    """Stands beside a training: stores each epoch, reports, and says when to stop."""

    study: OpenStudy
    ticket: Ticket
    reports: Reports
    stop: StopRequest

    def __call__(self, epoch: Epoch) -> bool:
        """Store an epoch; return whether the trial is pruned. Raises `Stopped`."""
        write_epoch(self.study.store, self.ticket, _epoch_row(epoch))
        if self.stop:
            raise Stopped
        progress = epoch.evaluation.progress
        if not self.reports.due(progress):
            return False
        value = metric_of(epoch.scores, self._metric)
        return self.study.store.call(lambda: self.reports.report(progress, value))

    def in_full(self, evaluation: Evaluation) -> bool:
        """Return whether the metric of an evaluation needs its scores in full."""
        return self._metric == "nll_calibrated" and self.reports.due(evaluation.progress)

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
        log=outcome.log,
    )
    value = metric_of(outcome.scores, metric) if complete and outcome.scores else None
    if outcome.state == "pruned":
        value = reported
    return Told(outcome.state, value, result, _shown(scores) if complete else {})


def _shown(scores: Mapping[str, Any]) -> dict[str, Any]:
    # One attribute, since each is a commit.
    return {"scores": {name: scores[name] for name in SHOWN}}


def _failed(reason: str) -> Told:
    return Told("failed", None, Result(failure=reason))


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
    stored = read_results(study.store, study.record)[number]
    result = replace(stored, copied_from=number, epochs=0, seconds=0.0, log="")
    return Told(
        "complete",
        twin.value,
        result,
        {COPIED_FROM: twin.number, **_shown(stored.scores)},
    )
