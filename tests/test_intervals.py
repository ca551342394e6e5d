"""Intervals of paired differences, against scipy, by hand, and at their edges."""

import math

import numpy as np
import pytest
from scipy import stats

from sweeper.confirmation.intervals import (
    LEVEL,
    POWER,
    Floats,
    Interval,
    bootstrap_interval,
    interval,
    resplit_interval,
    two_way_interval,
)


def differences(seeds: int = 6, examples: int = 40, seed: int = 0) -> Floats:
    """Return differences (seeds, examples) with noise of seeds, of examples, and of neither."""
    rng = np.random.default_rng(seed)
    by_seed, by_example = rng.normal(0.1, 1.0, (seeds, 1)), rng.normal(0.0, 3.0, examples)
    return np.asarray(by_seed + by_example + rng.normal(0.0, 2.0, (seeds, examples)))


def bounds(found: Interval) -> tuple[float, float]:
    return found.low, found.high


# two_way_interval


def test_interval_without_example_noise_is_paired_t() -> None:
    rng = np.random.default_rng(1)
    smoothed, baseline = rng.normal(0.2, 0.1, 7), rng.normal(0.1, 0.1, 7)
    found = two_way_interval(np.repeat((smoothed - baseline)[:, None], 50, axis=1))
    reference = stats.ttest_rel(smoothed, baseline).confidence_interval(LEVEL)
    assert bounds(found) == pytest.approx((reference.low, reference.high))
    assert found.freedom == pytest.approx(6)


def test_interval_without_seed_noise_is_t_over_examples() -> None:
    half = np.random.default_rng(2).normal(0.0, 1.0, 15)
    row = 0.2 + np.concatenate([half, -half])  # no skewness
    found = two_way_interval(np.tile(row, (5, 1)))
    reference = stats.ttest_1samp(row, 0.0).confidence_interval(LEVEL)
    assert bounds(found) == pytest.approx((reference.low, reference.high))
    assert found.freedom == pytest.approx(29)


def test_two_by_two_table_by_hand() -> None:
    # rows' means 2, 4: variance 2, over 2 seeds 1. Columns' 1.5, 4.5: 4.5, over 2 examples 2.25.
    # What is left is ±0.5 in all four: 1 with one degree of freedom, over 4 cells 0.25.
    found = two_way_interval(np.array([[1.0, 3.0], [2.0, 6.0]]))
    assert found.estimate == 3.0
    assert found.error**2 == pytest.approx(1.0 + 2.25 - 0.25)
    assert found.freedom == pytest.approx(3.0**2 / (1.0**2 + 2.25**2))
    reach = stats.t.ppf(0.975, found.freedom) * math.sqrt(3.0)
    assert bounds(found) == pytest.approx((3.0 - reach, 3.0 + reach))


def test_variance_equals_sum_of_components() -> None:
    rng, seeds, examples, of = np.random.default_rng(3), 8, 30, (0.5, 2.0, 3.0)
    shapes = (1500, seeds, 1), (1500, 1, examples), (1500, seeds, examples)
    tables = sum(rng.normal(0.0, sd, shape) for sd, shape in zip(of, shapes, strict=True))
    found = np.mean([two_way_interval(table).error ** 2 for table in np.asarray(tables)])
    true = 0.5**2 / seeds + 2.0**2 / examples + 3.0**2 / (seeds * examples)
    # Taking the larger of the two adds a little.
    assert found == pytest.approx(true, rel=0.05)
    assert np.var(np.mean(tables, axis=(1, 2))) == pytest.approx(true, rel=0.15)


def test_interval_is_at_least_as_wide_as_each_component() -> None:
    for seed in range(200):
        table = np.random.default_rng(seed).normal(0.0, 1.0, (4, 9))
        of_seeds, of_examples = table.mean(1).var(ddof=1) / 4, table.mean(0).var(ddof=1) / 9
        assert two_way_interval(table).error ** 2 >= max(of_seeds, of_examples) - 1e-15


def test_interval_is_permutation_invariant_and_equivariant() -> None:
    table, rng = differences(), np.random.default_rng(0)
    found = two_way_interval(table)
    mixed = two_way_interval(rng.permutation(rng.permutation(table, axis=0), axis=1))
    assert bounds(mixed) == pytest.approx(bounds(found))
    assert bounds(two_way_interval(-1000.0 * table)) == pytest.approx(
        (-1000.0 * found.high, -1000.0 * found.low)
    )


def test_more_seeds_reduce_only_seed_noise() -> None:
    of_examples = np.random.default_rng(4).normal(0.0, 1.0, 50)

    def error(seeds: int) -> float:
        by_seed = np.resize([-1.0, 1.0], (seeds, 1))
        return two_way_interval(by_seed + of_examples).error

    floor = of_examples.std(ddof=1) / math.sqrt(50)
    assert error(4) > error(16) > error(400) > floor
    assert error(40_000) == pytest.approx(floor, rel=0.01)


def test_equal_differences_give_zero_width() -> None:
    found = two_way_interval(np.full((3, 5), 0.25))
    assert bounds(found) == (0.25, 0.25)
    assert (found.error, found.freedom, found.detectable) == (0.0, 2, 0.0)


@pytest.mark.parametrize("shape", [(1, 10), (10, 1), (1, 1)])
def test_interval_requires_two_seeds_and_examples(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"{shape[0]} seeds and {shape[1]} examples"):
        two_way_interval(np.zeros(shape))


def test_nan_differences_give_nan_interval() -> None:
    table = differences()
    table[2, 3] = math.nan
    found = two_way_interval(table)
    assert all(math.isnan(value) for value in (found.estimate, found.low, found.high))


# redrawn


def test_disjoint_splits_give_t_interval() -> None:
    values = np.random.default_rng(5).normal(0.3, 1.0, 8)
    reference = stats.ttest_1samp(values, 0.0).confidence_interval(LEVEL)
    assert bounds(resplit_interval(values, 0.0)) == pytest.approx((reference.low, reference.high))


def test_overlapping_splits_use_nadeau_bengio_correction() -> None:
    values = np.array([1.0, 2.0, 3.0, 6.0])
    found = resplit_interval(values, 1 / 3)
    assert found.error**2 == pytest.approx((1 / 4 + 1 / 3) * np.var(values, ddof=1))
    assert (found.estimate, found.freedom) == (3.0, 3)


def test_resplit_interval_requires_two_splits() -> None:
    found = resplit_interval(np.array([0.0, 2.0]), 0.0)
    # Student's with one degree of freedom is Cauchy's: tan(0.475π) standard errors, each 1.
    assert found.high == pytest.approx(1.0 + math.tan(0.475 * math.pi))
    with pytest.raises(ValueError, match="1 replicate"):
        resplit_interval(np.array([0.5]), 0.0)


# seeds_and_resamples


def test_bootstrap_interval_of_a_mean() -> None:
    table = differences(seeds=6, examples=200)
    weights = np.random.default_rng(6).multinomial(200, np.full(200, 1 / 200), 20_000) / 200
    found = bootstrap_interval(table.mean(1), weights @ table.mean(0), 200)
    of_seeds, of_examples = table.mean(1).var(ddof=1) / 6, table.mean(0).var(ddof=1) / 200
    assert found.estimate == pytest.approx(table.mean())
    assert found.error**2 == pytest.approx(of_seeds + of_examples, rel=0.02)
    assert found.error > two_way_interval(table).error


# skewness


def skewed(examples: int, seed: int = 0) -> Floats:
    """Return differences (4, N) of mean 0, of which a few are large and below 0."""
    rng = np.random.default_rng(seed)
    columns = math.exp(0.5) - np.exp(rng.standard_normal(examples))
    return np.asarray(columns + 0.05 * rng.standard_normal((4, 1)))


def test_skewed_examples_widen_one_side() -> None:
    found = two_way_interval(skewed(200))
    assert found.estimate - found.low > 1.1 * (found.high - found.estimate)
    mirrored = two_way_interval(-skewed(200))
    assert bounds(mirrored) == pytest.approx((-found.high, -found.low))


def test_the_skewness_is_that_of_the_mean() -> None:
    table = skewed(50)
    columns = table.mean(0)
    third = stats.skew(columns) / math.sqrt(50) * (columns.std() / math.sqrt(50)) ** 3
    found = two_way_interval(table)
    same = interval(found.estimate, found.error, found.freedom, third / found.error**3)
    assert bounds(found) == pytest.approx(bounds(same))


def test_interval_ends_match_bca_bootstrap() -> None:
    values = skewed(150, 5)[0]
    found = two_way_interval(np.tile(values, (3, 1)))
    drawn = stats.bootstrap((values,), np.mean, n_resamples=40_000, rng=np.random.default_rng(0))
    reference = drawn.confidence_interval
    width = reference.high - reference.low
    assert bounds(found) == pytest.approx((reference.low, reference.high), abs=0.04 * width)
    # Which the symmetric one is not.
    assert abs(2 * found.estimate - found.high - reference.low) > 0.1 * width


def test_small_skewness_is_continuous() -> None:
    straight = interval(1.0, 0.5, 9.0)
    assert bounds(interval(1.0, 0.5, 9.0, 1e-5)) == pytest.approx(bounds(straight), abs=1e-4)
    assert bounds(straight) == pytest.approx((1 - 0.5 * 2.262157, 1 + 0.5 * 2.262157))


def test_skewness_is_bounded() -> None:
    assert bounds(interval(0.0, 1.0, 50.0, 7.0)) == bounds(interval(0.0, 1.0, 50.0, 1.0))
    assert bounds(interval(0.0, 1.0, 50.0, -7.0)) == bounds(interval(0.0, 1.0, 50.0, -1.0))


def test_single_example_is_not_significant() -> None:
    for seeds, examples in ((2, 10), (10, 50), (10, 5000)):
        table = np.zeros((seeds, examples))
        table[:, 0] = -8.0
        found = two_way_interval(table)
        assert found.low < 0 < found.high


def test_skewed_interval_has_equal_tail_errors() -> None:
    found = [two_way_interval(skewed(360, seed)) for seed in range(1500)]
    above, below = (sum(of) for of in ([f.low > 0 for f in found], [f.high < 0 for f in found]))
    # 2.5% are 38; Student's interval alone gives about 90 and 12.
    assert 20 < below < 60
    assert 20 < above < 65


# interval


@pytest.mark.parametrize("freedom", [4.0, 9.0, 30.0, 400.0])
def test_detectable_difference_has_stated_power(freedom: float) -> None:
    found = interval(0.0, 0.01, freedom)
    bar = stats.t.ppf((1 + LEVEL) / 2, freedom)
    power = stats.nct.sf(bar, freedom, found.detectable / found.error)
    assert power == pytest.approx(POWER, abs=0.015)


def test_an_interval_as_plain_data_has_its_fields() -> None:
    found = interval(1.0, 0.5, 9.0)
    assert found.to_dict() == {
        "estimate": 1.0,
        "low": found.low,
        "high": found.high,
        "error": 0.5,
        "freedom": 9.0,
    }
