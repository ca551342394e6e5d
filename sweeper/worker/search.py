"""A trial of the search: create it, report to the pruner, and store the result."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from optuna.trial import FrozenTrial

from sweeper.store.records import Result, read_result, write_result, write_result_if_equal
from sweeper.store.tickets import SEARCH, Ticket
from sweeper.store.trials import write_warnings
from sweeper.study.metric import metric_of
from sweeper.study.sampler import REPORTS, propose
from sweeper.study.space import Point, canonical
from sweeper.study.trials import (
    COPIED_FROM,
    TICKET,
    OptunaTrial,
    PrunerReports,
    clear_trial_cache,
    create_optuna_trial,
    find_trial,
    finished_trials,
    tell,
)
from sweeper.training.messages import EVIDENCE, NO_TEST_YET, FullScores, Reply, Report
from sweeper.worker.attempt import run_fields
from sweeper.worker.open_study import OpenStudy

# The scores that Optuna's own tools show. All scores are in sweeper's tables.
SHOWN: Final = ("nll", "accuracy", "ece", "nll_calibrated")

_log = logging.getLogger(__name__)


class SearchTrial:
    """The trial of a ticket of the search."""

    def __init__(self, study: OpenStudy, ticket: Ticket) -> None:
        self._study, self._ticket = study, ticket
        self._metric = study.spec.objective.metric
        self._trial: OptunaTrial
        self._reports: PrunerReports
        self._may_be_best = True

    @property
    def number(self) -> int:
        """The number of the trial."""
        return self._trial.number

    def begin(self) -> bool:
        """Find or create the trial; copy the result if the configuration was already trained."""
        study, ticket = self._study, self._ticket
        self._trial = _trial_of(study, ticket)
        if self._trial.finished:
            return False
        # Ticket 0 is the baseline (ε = 0), which is never pruned.
        self._reports = PrunerReports(
            study.store, study.optuna, self._trial, study.spec, prunable=ticket.number != 0
        )
        duplicate = study.store.retry(lambda: _finished_duplicate(study, ticket, self._trial.point))
        if duplicate is None:
            return True
        self._copy(duplicate)
        return False

    def start(self) -> Mapping[str, Any]:
        """Return the configuration, which reports need all scores, and the file for weights."""
        study, number = self._study, self._ticket.number
        self._may_be_best = False  # until it is finished
        if self._ticket.claims == 1:
            study.files.drop_weights([number])  # see Attempt.begin
        first = self._reports.first_due if self._metric == "nll_calibrated" else None
        return {
            **run_fields(study.spec, self._trial.point),
            "full": FullScores() if first is None else FullScores(steps=REPORTS, first=first),
            "weights": str(study.files.weights(number)),
            "weights_identity": study.files.key(number),
        }

    def on_report(self, report: Report) -> Reply:
        """Report the value to the pruner if due; save the weights of the best final report."""
        if report.number == 1 and self._ticket.number == 0:
            self._warn(report)
        last, progress = report.progress == 1.0, report.progress
        if not (last or self._reports.due(progress)):
            return Reply()
        value = metric_of(report.scores, self._metric)
        if last:
            return Reply(weights=self._study.best_so_far.improved_by(value))
        pruned = self._study.store.retry(lambda: self._reports.report(progress, value))
        return Reply("prune" if pruned else "continue")

    def _warn(self, report: Report) -> None:
        """Log and store warnings about the first report of the first trial.

        All trials report in the same way, so the user can stop the study now and fix the loop.
        """
        no_test = (
            self._study.spec.confirm.enabled
            and "test" not in report.splits
            and report.environment.get(EVIDENCE) != "self-reported"  # never confirmed
        )
        warnings = [*report.notes, *([NO_TEST_YET] if no_test else [])]
        store, name = self._study.store, self._study.record.name
        for warning in warnings:
            _log.warning("study %r, trial 0: %s", name, warning)
        if warnings:
            write_warnings(store, self._trial.id, warnings, self._ticket)

    def write(self, state: str, last: Report | None, result: Result) -> None:
        """Store the result, then tell Optuna.

        The order matters: if the worker dies in between, the trial is run again. If it dies after
        Optuna is told, only the ticket has to be closed.
        """
        state = self._write_result(state, result)
        value, attributes = None, dict[str, Any]()
        if state == "complete" and last is not None:
            value = metric_of(last.scores, self._metric)
            self._may_be_best = self._study.best_so_far.improved_by(value)
            self._study.best_so_far.update(value)
            attributes = _displayed_scores(result.scores)
        elif state == "pruned":
            value = self._reports.last
        # The trial may already be finished: by this worker, in a call whose answer was lost, or by
        # the worker that holds the lease now. `tell` accepts that.
        tell(self._study.store, self._trial.id, state, value, attributes, self._ticket)

    def _write_result(self, state: str, result: Result) -> str:
        """Store the result; return the state, "failed" if it is not comparable with others."""
        study, ticket = self._study, self._ticket
        compared = {} if state == "failed" else study.compared(result.environment)
        if any(study.agreed.get(key) != value for key, value in compared.items()):
            different = write_result_if_equal(study.store, study.record, ticket, result, compared)
            if different is None:
                study.agreed.update(compared)
                return state
            key, study.agreed[different[0]] = different
            failure = study.difference_in(key, compared[key])
            result = replace(result, failure=failure, problem=failure, cause="raised")
            state = "failed"
        write_result(study.store, ticket, result)
        return state

    def on_close(self) -> None:
        """Delete the weights and the folders of all finished trials except the best one."""
        study, number = self._study, self._ticket.number
        files, with_weights = study.files, study.files.with_weights()
        keeps_folder = self._may_be_best and files.uses_directory(self.number)
        if not keeps_folder:
            files.drop_directory(SEARCH, self.number)
        if number not in with_weights and not keeps_folder:
            return
        clear_trial_cache(study.optuna)
        ended = study.store.retry(
            lambda: {t.user_attrs[TICKET]: t for t in finished_trials(study.optuna)}
        )
        best = min(ended, key=lambda n: (ended[n].values[0], ended[n].number), default=None)
        files.drop_weights(n for n in with_weights if n in ended and n != best)
        others = {trial.number for number, trial in ended.items() if number != best}
        for other in others.intersection(files.with_directories()):
            files.drop_directory(SEARCH, other)

    def _copy(self, duplicate: FrozenTrial) -> None:
        """Store the result of a finished trial with the same configuration for this trial."""
        study, number = self._study, duplicate.user_attrs[TICKET]
        stored = read_result(study.store, study.record, number) or Result()
        result = replace(stored, copied_from=number, epochs=0, seconds=0.0)
        write_result(study.store, self._ticket, result)
        attributes = {COPIED_FROM: duplicate.number, **_displayed_scores(stored.scores)}
        tell(study.store, self._trial.id, "complete", duplicate.value, attributes, self._ticket)


def _displayed_scores(scores: Mapping[str, Any]) -> dict[str, Any]:
    # A single attribute, because each attribute takes one commit.
    return {"scores": {name: scores[name] for name in SHOWN}}


def _trial_of(study: OpenStudy, ticket: Ticket) -> OptunaTrial:
    """Return the trial of the ticket; create it if it does not exist."""
    clear_trial_cache(study.optuna)
    # The launch creates trial 0. Any other trial exists only after an earlier claim.
    may_exist = ticket.number == 0 or ticket.claims > 1

    def find_or_create() -> OptunaTrial:
        nonlocal may_exist
        existing = find_trial(study.optuna, ticket.number) if may_exist else None
        if existing is not None:
            return existing
        point = ticket.point
        if point is None:
            point = propose(study.optuna, study.spec, ticket.number, study.earlier)
        may_exist = True  # if the database creates it but its answer is lost
        space = study.spec.space
        return create_optuna_trial(study.store, study.optuna, space, ticket.number, point, ticket)

    return study.store.retry(find_or_create)


def _may_have_duplicate(study: OpenStudy, ticket: Ticket) -> bool:
    """Return whether a finished trial may have the same configuration.

    This avoids reading all trials. Sampled points come after all planned points, so a planned
    point that is claimed for the first time can only equal an earlier planned point.
    """
    return ticket.point is None or ticket.claims > 1 or ticket.number in study.repeated


def _finished_duplicate(study: OpenStudy, ticket: Ticket, point: Point) -> FrozenTrial | None:
    """Return a finished trial with the same configuration and code revision, or None."""
    if not _may_have_duplicate(study, ticket):
        return None
    key = canonical(point, study.spec.space)
    for trial in finished_trials(study.optuna):
        if (
            trial.params["epsilon"] == point["epsilon"]
            and canonical(trial.params, study.spec.space) == key
        ):
            result = read_result(study.store, study.record, trial.user_attrs[TICKET])
            if result is None or result.code == study.record.code:
                return trial
    return None
