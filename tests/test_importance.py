"""The importance of hyperparameters: it must agree with what the other figures show."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import create_trial

from sweeper.smoothing.names import BUILT_IN
from sweeper.study.dimensions import Space
from sweeper.study.importance import importance_of
from sweeper.study.space import distributions, effective_smoothing

SPACE = Space()
DIMENSIONS = distributions(SPACE)
Value = Callable[[float, str, float | None], float]
# The lowest NLL of each schedule in the digits study.
LOWEST = dict(zip(BUILT_IN, (0.21, 0.067, 0.058, 0.065, 0.066, 0.21, 0.083), strict=True))


def only_the_schedule(epsilon: float, schedule: str, rate: float | None) -> float:
    """Return a value that depends on nothing but the schedule."""
    return LOWEST[schedule]


def only_epsilon(epsilon: float, schedule: str, rate: float | None) -> float:
    """Return a value that depends on nothing but ε: lowest at 0.15, whatever the schedule is."""
    return 0.06 + 8 * (epsilon - 0.15) ** 2


def only_an_active_rate(epsilon: float, schedule: str, rate: float | None) -> float:
    """Return a value that depends on the rate of the schedules that have one."""
    return 0.1 if rate is None else 0.1 + 0.02 * math.log(rate) ** 2


def searched(value: Value, seed: int, sampler: str) -> list[optuna.trial.FrozenTrial]:
    """Return 64 trials of a search; the values have 5% of noise."""
    samplers: dict[str, Any] = {
        "random": optuna.samplers.RandomSampler,
        "tpe": optuna.samplers.TPESampler,
    }
    noise = np.random.default_rng(seed)

    def objective(trial: optuna.Trial) -> float:
        point = {name: trial._suggest(name, DIMENSIONS[name]) for name in DIMENSIONS}
        return value(*effective_smoothing(point)) * math.exp(noise.normal(0, 0.05))

    study = optuna.create_study(sampler=samplers[sampler](seed=seed))
    study.optimize(objective, n_trials=64)
    return study.trials


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("sampler", ["random", "tpe"])
@pytest.mark.parametrize(
    ("value", "cause"),
    [(only_the_schedule, "schedule"), (only_epsilon, "epsilon")],
)
def test_the_only_hyperparameter_that_matters_gets_most_of_the_importance(
    value: Value, cause: str, sampler: str, seed: int
) -> None:
    shares = importance_of(searched(value, seed, sampler), Space())
    assert sum(shares.values()) == pytest.approx(1)
    assert shares[cause] > 0.6


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_epsilon_has_no_importance_if_only_the_rate_of_a_schedule_matters(sampler: str) -> None:
    """The schedule has some, because it decides whether the rate has an effect."""
    assert importance_of(searched(only_an_active_rate, 0, sampler), Space())["epsilon"] < 0.1


def test_the_schedule_matters_most_in_the_digits_study() -> None:
    """Its lowest NLL is 0.058 with the cosine schedule and 0.20 with a fixed ε."""
    rows = json.loads((Path(__file__).parent / "recorded" / "digits_trials.json").read_text())
    trials = [
        create_trial(
            params={"epsilon": epsilon, "schedule": schedule, "rate": rate},
            distributions=DIMENSIONS,
            value=value,
        )
        for epsilon, schedule, rate, value in rows
    ]
    shares = importance_of(trials, Space())
    assert next(iter(shares)) == "schedule"
    assert shares["schedule"] > 0.6


def test_values_that_are_not_finite_are_left_out() -> None:
    trials = searched(only_the_schedule, 0, "random")
    trials[0].value = math.inf
    assert importance_of(trials, Space())["schedule"] > 0.6


def test_a_study_whose_values_are_all_equal_has_no_importance() -> None:
    trials = searched(only_the_schedule, 0, "random")
    for trial in trials:
        trial.value = 0.1
    assert importance_of(trials, Space()) == {}
    assert importance_of(trials[:7], Space()) == {}
