"""Optuna's side of a study: trials born with their ticket, reported, pruned and told."""

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
from sweeper.store.trials import TICKET as TICKET
from sweeper.store.trials import bear, finish
from sweeper.study.sampler import REPORTS, make_pruner, warmup_steps
from sweeper.study.space import Point, distributions
from sweeper.study.spec import Space, StudySpec

COPIED_FROM: Final = "copied_from"

STATES: Final = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


def create_optuna_study(store: Store, name: str) -> None:
    """Create the Optuna study; no-op where it is there."""
    with quiet():
        optuna.create_study(
            study_name=name, storage=store.storage, direction="minimize", load_if_exists=True
        )


def delete_optuna_study(store: Store, name: str) -> None:
    """Delete the Optuna study with its trials; no-op where it is not there."""
    if has_optuna_study(store, name):
        optuna.delete_study(study_name=name, storage=store.storage)


def has_optuna_study(store: Store, name: str) -> bool:
    """Return whether the database holds an Optuna study of that name."""
    return name in optuna.get_all_study_names(store.storage)


def open_optuna_study(store: Store, spec: StudySpec) -> optuna.Study:
    """Open the Optuna study with the pruner of the spec."""
    with quiet():
        return optuna.load_study(
            study_name=spec.study.name, storage=store.reading, pruner=make_pruner(spec.pruner)
        )


def read_anew(study: optuna.Study) -> None:
    """Let the next look at the study see what others finished, as `Study.ask` does."""
    study._thread_local.cached_all_trials = None


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return our trials that ran to the end, as of the first look since `read_anew`."""
    states = (TrialState.COMPLETE,)
    trials = study._get_trials(deepcopy=False, states=states, use_cache=True)
    return [trial for trial in trials if TICKET in trial.user_attrs]


@dataclass(frozen=True)
class BornTrial:
    """A trial in Optuna's tables; `reported` are the values stored so far, by step."""

    id: int
    point: Point
    reported: Mapping[int, float] = field(default_factory=dict)
    finished: bool = False


def find_trial(study: optuna.Study, ticket: int) -> BornTrial | None:
    """Return the trial that was born with a ticket, or None."""
    for trial in study.get_trials(deepcopy=False):
        if trial.user_attrs.get(TICKET) == ticket:
            reported, finished = trial.intermediate_values, trial.state.is_finished()
            return BornTrial(trial._trial_id, trial.params, reported, finished)
    return None


def bear_trial(
    store: Store, study: optuna.Study, space: Space, ticket: int, point: Point
) -> BornTrial:
    """Create a running trial in one commit with its ticket and its point.

    So a worker that dies at any moment leaves either no trial or one that is found again.
    """
    return BornTrial(bear(store, study._study_id, ticket, point, distributions(space)), point)


class Reports:
    """Reports one trial to Optuna, fewer than `REPORTS` times, and asks whether to prune it.

    Only what a pruner reads is reported, since each report is a commit: nothing without a
    pruner, nothing before its warm-up is over, and nothing at the end, when all of the training
    is paid for. Every epoch is in our own table.
    A trial that starts again after its worker died is reported only past its last stored
    step: what others were compared with stays as it was.
    """

    def __init__(
        self,
        store: Store,
        study: optuna.Study,
        trial: BornTrial,
        spec: StudySpec,
        *,
        prunable: bool,
    ) -> None:
        self._store = store
        self._study = study
        self._id = trial.id
        self._values = dict(trial.reported)
        self._warmup = warmup_steps(spec.pruner)
        self._read = spec.pruner.name != "none"
        self._prunable = prunable

    @property
    def last(self) -> float | None:
        """The value reported last: what Optuna takes for that of a pruned trial."""
        return self._values[max(self._values)] if self._values else None

    def due(self, progress: float) -> bool:
        """Return whether an evaluation at that progress will be reported."""
        step = _step(progress)
        new = step > max(self._values, default=0)
        return self._read and new and self._warmup <= step < REPORTS

    def report(self, progress: float, value: float) -> bool:
        """Report a value where one is due; return whether the trial should be pruned.

        A call that the database failed may be made again.
        """
        if not self.due(progress):
            return False
        step = _step(progress)
        values = {**self._values, step: value}
        self._store.storage.set_trial_intermediate_value(self._id, step, value)
        behind = self._prunable and self._falls_behind(values)
        self._values = values
        return behind

    def _falls_behind(self, values: dict[int, float]) -> bool:
        trial = create_trial(state=TrialState.RUNNING, intermediate_values=values)
        trial._trial_id = self._id  # for pruners that rank it among those that run too
        return self._study.pruner.prune(self._study, trial)


def _step(progress: float) -> int:
    return math.floor(progress * REPORTS + 1e-9)


def tell(
    store: Store,
    trial_id: int,
    state: str,
    value: float | None,
    attributes: Mapping[str, Any],
) -> None:
    """Finish a running trial; no-op where it is finished."""
    finish(store, trial_id, STATES[state], value, attributes)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna's log lines and experimental warnings from the terminal, and nobody else's."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def check_not_foreign(store: Store, name: str) -> None:
    """Raise `Conflict` where an Optuna study that is not ours has the name."""
    if has_optuna_study(store, name):
        raise Conflict(
            f"study {name!r}: {store} holds an Optuna study of that name that sweeper did not "
            "launch; give this one another name"
        )
