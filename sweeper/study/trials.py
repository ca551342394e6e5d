"""Optuna's side of a study: trials born with their ticket, reported, pruned and told."""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from sweeper.errors import SweeperError
from sweeper.store.database import Store
from sweeper.study.sampler import REPORTS, make_pruner, make_sampler, warmup_steps
from sweeper.study.space import Point, distributions, suggest
from sweeper.study.spec import Space, StudySpec

# The attribute that makes a trial ours. Trials without it are foreign: shown, never counted.
TICKET: Final = "ticket"
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
            study_name=spec.study.name, storage=store.storage, pruner=make_pruner(spec.pruner)
        )


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return our trials that ran to the end, as of when the open trial was opened."""
    states = (TrialState.COMPLETE,)
    trials = study._get_trials(deepcopy=False, states=states, use_cache=True)
    return [trial for trial in trials if TICKET in trial.user_attrs]


def find_trial(study: optuna.Study, ticket: int) -> FrozenTrial | None:
    """Return the trial that was born with a ticket, or None."""
    for trial in study.get_trials(deepcopy=False):
        if trial.user_attrs.get(TICKET) == ticket:
            return trial
    return None


def bear_trial(study: optuna.Study, space: Space, ticket: int, point: Point | None) -> int:
    """Create a running trial in one commit with its ticket and its point; return its id.

    So a worker that dies at any moment leaves either no trial or one that is found again.
    Without a point the sampler is asked later.
    """
    template = create_trial(
        state=TrialState.RUNNING,
        user_attrs={TICKET: ticket},
        params={} if point is None else dict(point),
        distributions={} if point is None else distributions(space),
    )
    return study._storage.create_new_trial(study._study_id, template_trial=template)


def open_trial(study: optuna.Study, spec: StudySpec, ticket: int, trial_id: int) -> Trial:
    """Open a running trial in this process, with the sampler of its ticket."""
    study.sampler = make_sampler(spec, ticket)
    study._thread_local.cached_all_trials = None  # as Study.ask does: see what others finished
    return Trial(study, trial_id)


def point_of(trial: Trial, spec: StudySpec) -> dict[str, Any]:
    """Return the trial's point, asking the sampler for what is still open."""
    return suggest(trial, spec.space)


class Reports:
    """Reports one trial to Optuna at most `REPORTS` times and asks whether to prune it.

    Nothing is reported before the pruner's warm-up is over: each report is a commit, and no
    pruner reads those. Every epoch is in our own table.
    A trial that starts again after its worker died is reported only past its last stored
    step: Optuna ignores a step that it has.
    """

    def __init__(self, trial: Trial, spec: StudySpec, *, prunable: bool) -> None:
        stored = trial.storage.get_trial(trial._trial_id).last_step
        self._trial = trial
        self._last = stored or 0
        self._warmup = warmup_steps(spec.pruner)
        self._prunable = prunable and spec.pruner.name != "none"

    def due(self, progress: float) -> bool:
        """Return whether an evaluation at that progress will be reported."""
        step = _step(progress)
        return step > self._last and step >= self._warmup

    def report(self, progress: float, value: float) -> bool:
        """Report a value where one is due; return whether the trial should be pruned.

        The last step is not asked about: all of the training is paid for by then.
        """
        if not self.due(progress):
            return False
        self._last = _step(progress)
        self._trial.report(value, self._last)
        asked = self._prunable and self._last < REPORTS
        return asked and self._trial.should_prune()


def _step(progress: float) -> int:
    return math.floor(progress * REPORTS + 1e-9)


def tell(
    study: optuna.Study,
    trial_id: int,
    state: str,
    value: float | None,
    attributes: Mapping[str, Any],
) -> None:
    """Finish a running trial; raises Optuna's `UpdateFinishedTrialError` for a finished one."""
    for key, attribute in attributes.items():
        study._storage.set_trial_user_attr(trial_id, key, attribute)
    values = None if state != "complete" or value is None else value
    with quiet():
        number = study._storage.get_trial_number_from_id(trial_id)
        study.tell(number, values, state=STATES[state], skip_if_finished=True)


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
    """Raise `SweeperError` where an Optuna study that is not ours has the name."""
    if has_optuna_study(store, name):
        raise SweeperError(
            f"study {name!r}: {store} holds an Optuna study of that name that sweeper did not "
            "launch; give this one another name"
        )
