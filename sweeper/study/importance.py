"""Hyperparameter importance."""

import math
from collections.abc import Iterable

import optuna
from optuna.trial import FrozenTrial, create_trial

from sweeper.store.database import Store
from sweeper.store.trials import StoredTrial, complete_trials, read_trials
from sweeper.study.trials import quiet

# With fewer finished trials, the estimate is too noisy.
MIN_TRIALS = 8
_TREES = 32
# If there are more finished trials, every second, third, … is used.
_MAX_TRIALS = 128


def importance(store: Store, name: str) -> dict[str, float]:
    """Return the importance of each dimension of a study; see `importance_of`.

    Empty if there are fewer than `MIN_TRIALS` finished trials.
    """
    ids = complete_trials(store, name)
    trials = read_trials(store, name, ids[:: -(-len(ids) // _MAX_TRIALS) or 1])
    return importance_of(trials)


def importance_of(trials: Iterable[FrozenTrial | StoredTrial]) -> dict[str, float]:
    """Return the fANOVA importance of each dimension, largest first; they sum to 1.

    The importance is a share of the variance of the metric over the whole search space, as
    predicted by a random forest. PED-ANOVA, Optuna's default, compares the distributions of the
    good trials and of all trials. A sampler that has settled on a good schedule makes them equal,
    so the schedule seems unimportant. A rate without effect keeps its sampled value: it is
    independent of the metric, so the forest gives it no importance. Empty if there are fewer than
    `MIN_TRIALS` finished trials, or if all have the same value. Source: Hutter et al. 2014, "An
    Efficient Approach for Assessing Hyperparameter Importance", as implemented by Optuna.
    """
    done = [
        create_trial(params=dict(t.params), distributions=dict(t.distributions), value=t.value)
        for t in trials
        if t.value is not None and math.isfinite(t.value)
    ]
    if len(done) < MIN_TRIALS or len({trial.value for trial in done}) == 1:
        return {}
    with quiet():
        study = optuna.create_study()
        study.add_trials(done)
        evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=_TREES, seed=0)
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in shares.items()}
