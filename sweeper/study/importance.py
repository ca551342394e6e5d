"""Which dimension of the space the metric depends on most."""

import optuna
from optuna.trial import create_trial

from sweeper.store.database import Store
from sweeper.store.trials import complete_trials, read_trials
from sweeper.study.trials import quiet

# Below this many finished trials the estimate is noise.
ENOUGH = 8
# Of more finished trials, every second, third, … is taken.
_MOST = 2000


def importance(store: Store, name: str) -> dict[str, float]:
    """Return each dimension's share of the variance that PED-ANOVA finds, largest first.

    Empty where there are too few finished trials, or all have one value.
    Source: Watanabe et al. 2023, "PED-ANOVA", as Optuna implements it.
    """
    ids = complete_trials(store, name)
    some = ids[:: -(-len(ids) // _MOST) or 1]
    done = [
        create_trial(params=dict(t.params), distributions=dict(t.distributions), value=t.value)
        for t in read_trials(store, name, some)
    ]
    if len(done) < ENOUGH or len({trial.value for trial in done}) == 1:
        return {}
    with quiet():
        study = optuna.create_study()
        study.add_trials(done)
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
