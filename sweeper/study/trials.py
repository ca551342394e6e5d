"""The Optuna trials of a study: creation, reports, pruning and results."""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweeper.errors import Conflict
from sweeper.store.database import Store
from sweeper.store.tickets import Ticket
from sweeper.store.trials import TICKET as TICKET
from sweeper.store.trials import end_trial, has_optuna_study, insert_trial
from sweeper.study.baseline_search import group_of
from sweeper.study.dimensions import Space
from sweeper.study.sampler import REPORTS, AfterStartup, make_pruner, warmup_steps
from sweeper.study.space import Point, distributions
from sweeper.study.spec import StudySpec

COPIED_FROM: Final = "copied_from"

STATES: Final = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


def create_optuna_study(store: Store, name: str) -> None:
    """Create the Optuna study; no-op if it exists."""
    with quiet():
        optuna.create_study(
            study_name=name, storage=store.storage, direction="minimize", load_if_exists=True
        )


def delete_optuna_study(store: Store, name: str) -> None:
    """Delete the Optuna study with its trials; no-op if it does not exist."""
    if has_optuna_study(store, name):
        optuna.delete_study(study_name=name, storage=store.storage)


def open_optuna_study(store: Store, spec: StudySpec) -> optuna.Study:
    """Open the Optuna study with the pruner of the spec."""
    with quiet():
        pruner = make_pruner(spec.pruner)
        writes = isinstance(pruner, AfterStartup)
        storage = store.optuna_writer() if writes else store.optuna_reader
        name = spec.study.name
        return store.retry(
            lambda: optuna.load_study(study_name=name, storage=storage, pruner=pruner)
        )


def clear_trial_cache(study: optuna.Study) -> None:
    """Clear the cached trials, so that the next read includes those that others finished.

    `Study.ask` does the same.
    """
    study._thread_local.cached_all_trials = None


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the complete trials that sweeper created; cached until `clear_trial_cache`."""
    states = (TrialState.COMPLETE,)
    trials = study._get_trials(deepcopy=False, states=states, use_cache=True)
    return [trial for trial in trials if TICKET in trial.user_attrs]


@dataclass(frozen=True)
class OptunaTrial:
    """A trial in Optuna's tables; `reported` are its intermediate values by step."""

    id: int
    number: int
    point: Point
    reported: Mapping[int, float] = field(default_factory=dict)
    finished: bool = False


def find_trial(study: optuna.Study, ticket: int) -> OptunaTrial | None:
    """Return the trial of a ticket, or None."""
    for trial in study.get_trials(deepcopy=False):
        if trial.user_attrs.get(TICKET) == ticket:
            reported, finished = trial.intermediate_values, trial.state.is_finished()
            return OptunaTrial(trial._trial_id, trial.number, trial.params, reported, finished)
    return None


def create_optuna_trial(
    store: Store,
    study: optuna.Study,
    space: Space,
    ticket: int,
    point: Point,
    claimed: Ticket | None = None,
) -> OptunaTrial:
    """Create a running trial with its ticket and its point, in one commit.

    If a worker dies, there is either no trial or a complete one that is found again. Raises
    `LeaseLost` if the ticket was `claimed` and another worker has it now.
    """
    space_of_point = distributions(space)
    created, number = insert_trial(store, study._study_id, ticket, point, space_of_point, claimed)
    return OptunaTrial(created, number, point)


class PrunerReports:
    """Report the values of one trial to Optuna and decide whether to prune it.

    There are fewer than `REPORTS` reports per trial. Because each report is a commit, only values
    that the pruner reads are reported: none without a pruner, none during warm-up, and none at the
    end, when pruning saves nothing. sweeper's own table has every epoch. If a trial restarts after
    its worker died, only steps after the last stored one are reported, so that the values other
    trials were compared with do not change.
    """

    def __init__(
        self,
        store: Store,
        study: optuna.Study,
        trial: OptunaTrial,
        spec: StudySpec,
        *,
        prunable: bool,
    ) -> None:
        self._store = store
        self._study = group_of(study, spec, trial.point)
        self._id = trial.id
        self._values = dict(trial.reported)
        self._warmup = warmup_steps(spec.pruner)
        self._read = spec.pruner.name != "none"
        self._prunable = prunable

    @property
    def last(self) -> float | None:
        """The last reported value, which is the value of a pruned trial; None without reports."""
        return self._values[max(self._values)] if self._values else None

    @property
    def first_due(self) -> int | None:
        """The first step that will be reported, None if there is no pruner."""
        return max(self._warmup, max(self._values, default=0) + 1) if self._read else None

    def due(self, progress: float) -> bool:
        """Return whether an evaluation at this progress will be reported."""
        step = _step(progress)
        is_new = step > max(self._values, default=0)
        return self._read and is_new and self._warmup <= step < REPORTS

    def report(self, progress: float, value: float) -> bool:
        """Report a value if one is due; return whether the trial should be pruned.

        The call can be repeated after a database error. If the pruner had already recorded the
        rung, the trial continues to the next one.
        """
        if not self.due(progress):
            return False
        step = _step(progress)
        values = {**self._values, step: value}
        self._store.storage.set_trial_intermediate_value(self._id, step, value)
        # Pruners that record the values at rungs must also see ε = 0, which is never pruned.
        records_rungs = isinstance(self._study.pruner, AfterStartup)
        should_prune = (self._prunable or records_rungs) and self._pruner_decision(values)
        self._values = values
        return should_prune and self._prunable

    def _pruner_decision(self, values: dict[int, float]) -> bool:
        if isinstance(self._study.pruner, AfterStartup):
            trial = self._study._storage.get_trial(self._id)  # with its attributes
        else:
            trial = create_trial(state=TrialState.RUNNING, intermediate_values=values)
        return self._study.pruner.prune(self._study, trial)


def _step(progress: float) -> int:
    return math.floor(progress * REPORTS + 1e-9)


def tell(
    store: Store,
    trial_id: int,
    state: str,
    value: float | None,
    attributes: Mapping[str, Any],
    claimed: Ticket | None = None,
) -> None:
    """Finish a running trial; no-op if it is finished.

    Raises `LeaseLost` if its ticket was `claimed` and another worker has it now.
    """
    end_trial(store, trial_id, STATES[state], value, attributes, claimed)


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress Optuna's log messages and experimental warnings."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def check_created_by_sweeper(store: Store, name: str) -> None:
    """Raise `Conflict` if an Optuna study with this name was not created by sweeper."""
    if has_optuna_study(store, name):
        raise Conflict(
            f"study {name!r}: {store} already contains an Optuna study with this name that sweeper "
            "did not create; choose another name"
        )
