"""Hyperparameter importance."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, create_trial

from sweeper.store.database import Store
from sweeper.store.trials import StoredTrial, complete_trials, read_trials
from sweeper.study.dimensions import Space
from sweeper.study.space import from_unit, inactive
from sweeper.study.trials import quiet

# With fewer finished trials, the estimate is too noisy.
MIN_TRIALS = 8
_TREES = 32
# If there are more finished trials, every second, third, … is used.
_MAX_TRIALS = 128


def importance(store: Store, name: str, space: Space) -> dict[str, float]:
    """Return the importance of each dimension of a study; see `importance_of`.

    Empty if there are fewer than `MIN_TRIALS` finished trials.
    """
    ids = complete_trials(store, name)
    trials = read_trials(store, name, ids[:: -(-len(ids) // _MAX_TRIALS) or 1])
    return importance_of(trials, space)


def importance_of(trials: Iterable[FrozenTrial | StoredTrial], space: Space) -> dict[str, float]:
    """Return the fANOVA importance of each dimension, largest first; they sum to 1.

    The importance is a share of the variance of the metric over the whole search space, as
    predicted by a random forest. PED-ANOVA, Optuna's default, compares the distributions of the
    good trials and of all trials. A sampler that has settled on a good schedule makes them equal,
    so the schedule seems unimportant. A rate without effect keeps its sampled value: it is
    independent of the metric, so the forest gives it no importance. An inactive hyperparameter gets
    a random value for the same reason: the values that a model sampled get better over time, and so
    do the metric's. Empty if there are fewer than
    `MIN_TRIALS` finished trials, or if all have the same value. Source: Hutter et al. 2014, "An
    Efficient Approach for Assessing Hyperparameter Importance", as implemented by Optuna.
    """
    done = [
        create_trial(
            params=_with_random_inactive(t, space),
            distributions=dict(t.distributions),
            value=t.value,
        )
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


def _with_random_inactive(trial: FrozenTrial | StoredTrial, space: Space) -> dict[str, Any]:
    point = dict(trial.params)
    names = inactive(point, space)
    if names:
        draws = np.random.default_rng(trial.number).random(len(space.dimensions))
        drawn = from_unit(space, dict(zip(space.dimensions, draws, strict=True)))
        point |= {name: drawn[name] for name in names}
    return point
