"""When to stop early: nothing has improved for a while."""

import optuna
from optuna.trial import TrialState

from sweeper.study.trials import TICKET


def out_of_patience(study: optuna.Study, patience: int | None) -> bool:
    """Return whether the last `patience` ended trials brought no better one."""
    if patience is None:
        return False
    ended = [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state.is_finished() and TICKET in trial.user_attrs
    ]
    ended.sort(key=lambda trial: (trial.datetime_complete, trial.number))
    best, since = float("inf"), 0
    for trial in ended:
        value = trial.value if trial.state == TrialState.COMPLETE else None
        if value is not None and value < best:
            best, since = value, 0
        else:
            since += 1
    return since >= patience
