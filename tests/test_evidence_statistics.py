"""What the verdict promises, on simulated studies whose truth is known.

Each goes from its search to its verdict through the study's own code; benchmarks/evidence.py does
the same with more of them. The bounds leave room for what so few studies show by chance alone:
what keeps its promise exactly would break one of them once in a thousand times, and the seeds are
fixed.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.shared.simulated_study import Simulated, World, world
from sweeper.confirmation.intervals import two_way_interval

pytestmark = pytest.mark.slow

CHANCE = 0.001
RUN_SD = 0.015


def simulated(
    world: World, studies: int, counts: tuple[int, ...] = (10,), **settings: Any
) -> pd.DataFrame:
    """Return what studies say and what is true, one row for each number of replicates."""
    settings |= {"replicates": max(counts)}
    found = list[dict[str, Any]]()
    for seed in range(studies):
        study = Simulated(world, seed, settings)
        found += [{"count": count, **study.found(count)._asdict()} for count in counts]
    return pd.DataFrame(found)


@cache
def nothing() -> pd.DataFrame:
    """Return studies in which ε does nothing, with noise as on digits."""
    return simulated(World(), 160)


def assert_at_most(outcomes: Iterable[bool], share: float) -> None:
    values = np.array(list(outcomes))
    assert values.sum() <= stats.binom.ppf(1 - CHANCE, len(values), share), values.mean()


def assert_at_least(outcomes: Iterable[bool], share: float) -> None:
    values = np.array(list(outcomes))
    assert values.sum() >= stats.binom.ppf(CHANCE, len(values), share), values.mean()


def assert_covers(found: pd.DataFrame) -> None:
    """Check that from 93 to 97% of the intervals hold the truth."""
    holds = (found["low"] <= found["truth"]) & (found["truth"] <= found["high"])
    assert_at_least(holds, 0.93)
    assert_at_most(holds, 0.97)


# Where ε does nothing


def test_false_positive_rate_without_effect() -> None:
    found = nothing()
    assert_at_most(found["word"] == "helps", 0.05)
    assert_at_most(found["word"] == "hurts", 0.05)
    assert_covers(found)


def test_interval_from_seeds_alone_has_too_many_false_positives() -> None:
    assert_at_least(nothing()["alone"] == "helps", 0.2)


@pytest.mark.parametrize("tail", ["left", "right"])
def test_false_positive_rate_with_influential_examples(tail: Any) -> None:
    found = simulated(World(tail=tail), 60)
    assert_at_most(found["word"] == "helps", 0.05)
    assert_at_most(found["word"] == "hurts", 0.05)
    assert_covers(found)


def test_false_positive_rate_with_resplit_and_constraint() -> None:
    # Noise of the examples alone, which the splits share.
    world = World(seed_sd=0.001, rest_sd=0.02)
    found = simulated(world, 60, resplit=True, constraint="accuracy >= baseline - 0.03")
    assert_at_most(found["word"] == "helps", 0.05)
    assert_at_least((found["low"] <= 0) & (found["high"] >= 0), 0.93)


# Where it does something


def test_effect_of_two_standard_deviations_is_detected() -> None:
    found = simulated(world(RUN_SD, example_share=0.25, effects=2.0), 50)
    assert_at_least(found["word"] == "helps", 0.8)
    assert_covers(found)
    assert found["truth"].mean() < -1.8 * RUN_SD  # the search finds it nearly whole


def test_more_seeds_do_not_reduce_example_noise() -> None:
    found = simulated(world(RUN_SD, example_share=0.9, effects=2.0), 50, counts=(10, 40))
    few, many = (found[found["count"] == count] for count in (10, 40))
    width = (many["high"] - many["low"]).mean() / (few["high"] - few["low"]).mean()
    assert 0.93 < width < 1.0
    assert_covers(many)
    # As Student's power says: 2 sd against an error of √(0.9 + 0.1/40) of them.
    expected = stats.norm.cdf(2 / np.sqrt(0.9 + 0.1 / 40) - stats.norm.ppf(0.975))
    assert_at_most(many["word"] == "helps", expected)
    assert_at_least(many["word"] == "helps", expected - 0.05)


# The pick


def test_smoothed_value_has_less_optimistic_bias() -> None:
    found = nothing()
    selected, smoothed = found["selected_curse"], found["smoothed_curse"]
    assert selected.mean() > 2 * smoothed.mean()
    assert selected.mean() > 5 * selected.std() / np.sqrt(len(selected))


# The interval by itself


@pytest.mark.parametrize("seeds", [3, 10])
@pytest.mark.parametrize(
    ("seed_sd", "example_sd", "rest_sd"), [(1, 0, 0), (1, 8, 1), (1, 1, 8), (0, 8, 8), (0.3, 8, 2)]
)
def test_interval_coverage_for_all_noise_levels(
    seeds: int, seed_sd: float, example_sd: float, rest_sd: float
) -> None:
    rng = np.random.default_rng(0)
    tables = (
        seed_sd * rng.standard_normal((1500, seeds, 1))
        + example_sd * rng.standard_normal((1500, 1, 60))
        + rest_sd * rng.standard_normal((1500, seeds, 60))
    )
    found = [two_way_interval(table) for table in tables]
    holds = [one.low <= 0 <= one.high for one in found]
    assert_at_least(holds, 0.94)
    assert_at_most(holds, 0.97)
