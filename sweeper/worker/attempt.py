"""One attempt at a ticket of the search: its trial is found or born, trained, and told once."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from optuna.trial import FrozenTrial

from sweeper.store.database import Store
from sweeper.store.records import Result, close_ticket, read_result, write_result
from sweeper.store.tickets import Ticket
from sweeper.study.objective import Cause, Epoch, Followed, Outcome, metric_of
from sweeper.study.sampler import propose
from sweeper.study.space import Point, canonical
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
from sweeper.training.run import Evaluation
from sweeper.worker.leases import Vigil
from sweeper.worker.open_study import OpenStudy
from sweeper.worker.stopping import StopRequest
from sweeper.worker.trial_files import Checkpoints
from sweeper.worker.watched import Attempt, Course, result_of, train, training_run

# What Optuna's own tools are shown of a trial; the rest is in our tables.
SHOWN: Final = ("nll", "accuracy", "ece", "nll_calibrated")


@dataclass(frozen=True)
class Told:
    """How a trial ended: what Optuna is told, and what we keep beside it."""

    state: Literal["complete", "pruned", "failed"]
    value: float | None
    result: Result
    attributes: Mapping[str, Any] = field(default_factory=dict)


def run_ticket(study: OpenStudy, ticket: Ticket, stop: StopRequest, vigil: Vigil) -> Followed[None]:
    """Bring a claimed ticket to its end, by a training that somebody else does.

    Raises `Stopped` where the worker is asked to stop before that, `LeaseLost` where another
    worker has the ticket by now.
    """
    trial = _trial_of(study, ticket)
    checkpoints = Checkpoints(study.files, ticket)
    if not trial.finished:
        attempt = Attempt(study, ticket, stop, vigil, checkpoints)
        told = yield from _told(attempt, trial)
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


def _told(attempt: Attempt, trial: BornTrial) -> Followed[Told]:
    if attempt.lost:
        return _failed(attempt.lost, "lost")
    study, ticket = attempt.study, attempt.ticket
    twin = study.store.call(lambda: _finished_twin(study, ticket, trial.point))
    if twin is not None:
        return _copied(study, twin)
    search = _Search(attempt, trial)
    course = Course(search.in_full, search.pruned, search.keep_if_best, search.failed)
    run = training_run(study.file.spec, trial.point, study.device)
    outcome = yield from train(attempt, run, course)
    return _from_outcome(study, outcome, search.reports.last)


class _Search:
    """What the search makes of a trial's epochs: reports, pruning, the weights of the best."""

    def __init__(self, attempt: Attempt, trial: BornTrial) -> None:
        study, spec = attempt.study, attempt.study.file.spec
        self._attempt, self._trial, self._metric = attempt, trial, spec.objective.metric
        # ε = 0 is never pruned.
        prunable = attempt.ticket.number != 0
        self.reports = Reports(study.store, study.optuna, trial, spec, prunable=prunable)

    def in_full(self, evaluation: Evaluation) -> bool:
        return self._metric == "nll_calibrated" and self.reports.due(evaluation.progress)

    def pruned(self, epoch: Epoch) -> bool:
        progress = epoch.evaluation.progress
        if not self.reports.due(progress):
            return False
        value = metric_of(epoch.scores, self._metric)
        return self._attempt.study.store.call(lambda: self.reports.report(progress, value))

    def keep_if_best(self, epoch: Epoch) -> None:
        if self._attempt.study.lowest.improved_by(metric_of(epoch.scores, self._metric)):
            self._attempt.checkpoints.write_weights(epoch)

    def failed(self, store: Store, result: Result) -> None:
        study, ticket = replace(self._attempt.study, store=store), self._attempt.ticket
        _record(study, ticket, self._trial, Told("failed", None, result))
        close_ticket(store, ticket)


def _from_outcome(study: OpenStudy, outcome: Outcome, reported: float | None) -> Told:
    result = result_of(study, outcome)
    if outcome.state != "complete" or outcome.scores is None:
        return Told(outcome.state, reported if outcome.state == "pruned" else None, result)
    value = metric_of(outcome.scores, study.file.spec.objective.metric)
    return Told("complete", value, result, _shown(result.scores))


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
