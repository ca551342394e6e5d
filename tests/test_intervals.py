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
    interval,
    redrawn,
    seeds_and_resamples,
    two_way,
)


def differences(seeds: int = 6, examples: int = 40, seed: int = 0) -> Floats:
    """Return differences (seeds, examples) with noise of seeds, of examples, and of neither."""
    rng = np.random.default_rng(seed)
    by_seed, by_example = rng.normal(0.1, 1.0, (seeds, 1)), rng.normal(0.0, 3.0, examples)
    return np.asarray(by_seed + by_example + rng.normal(0.0, 2.0, (seeds, examples)))


def bounds(found: Interval) -> tuple[float, float]:
    return found.low, found.high


# two_way


def test_without_noise_of_examples_it_is_the_paired_t_test() -> None:
    rng = np.random.default_rng(1)
    smoothed, baseline = rng.normal(0.2, 0.1, 7), rng.normal(0.1, 0.1, 7)
    found = two_way(np.repeat((smoothed - baseline)[:, None], 50, axis=1))
    told = stats.ttest_rel(smoothed, baseline).confidence_interval(LEVEL)
    assert bounds(found) == pytest.approx((told.low, told.high))
    assert found.freedom == pytest.approx(6)


def test_without_noise_of_seeds_it_is_the_t_test_over_examples() -> None:
    half = np.random.default_rng(2).normal(0.0, 1.0, 15)
    row = 0.2 + np.concatenate([half, -half])  # no skewness
    found = two_way(np.tile(row, (5, 1)))
    told = stats.ttest_1samp(row, 0.0).confidence_interval(LEVEL)
    assert bounds(found) == pytest.approx((told.low, told.high))
    assert found.freedom == pytest.approx(29)


def test_a_table_of_two_seeds_and_two_examples_by_hand() -> None:
    # rows' means 2, 4: variance 2, over 2 seeds 1. Columns' 1.5, 4.5: 4.5, over 2 examples 2.25.
    # What is left is ±0.5 in all four: 1 with one degree of freedom, over 4 cells 0.25.
    found = two_way(np.array([[1.0, 3.0], [2.0, 6.0]]))
    assert found.estimate == 3.0
    assert found.error**2 == pytest.approx(1.0 + 2.25 - 0.25)
    assert found.freedom == pytest.approx(3.0**2 / (1.0**2 + 2.25**2))
    reach = stats.t.ppf(0.975, found.freedom) * math.sqrt(3.0)
    assert bounds(found) == pytest.approx((3.0 - reach, 3.0 + reach))


def test_the_variance_has_the_value_that_its_parts_give() -> None:
    rng, seeds, examples, of = np.random.default_rng(3), 8, 30, (0.5, 2.0, 3.0)
    shapes = (1500, seeds, 1), (1500, 1, examples), (1500, seeds, examples)
    tables = sum(rng.normal(0.0, sd, shape) for sd, shape in zip(of, shapes, strict=True))
    found = np.mean([two_way(table).error ** 2 for table in np.asarray(tables)])
    true = 0.5**2 / seeds + 2.0**2 / examples + 3.0**2 / (seeds * examples)
    # Taking the larger of the two adds a little.
    assert found == pytest.approx(true, rel=0.05)
    assert np.var(np.mean(tables, axis=(1, 2))) == pytest.approx(true, rel=0.15)


def test_it_is_no_narrower_than_seeds_or_examples_alone() -> None:
    for seed in range(200):
        table = np.random.default_rng(seed).normal(0.0, 1.0, (4, 9))
        of_seeds, of_examples = table.mean(1).var(ddof=1) / 4, table.mean(0).var(ddof=1) / 9
        assert two_way(table).error ** 2 >= max(of_seeds, of_examples) - 1e-15


def test_order_does_not_matter_and_a_change_of_sign_or_unit_only_changes_those() -> None:
    table, rng = differences(), np.random.default_rng(0)
    found = two_way(table)
    mixed = two_way(rng.permutation(rng.permutation(table, axis=0), axis=1))
    assert bounds(mixed) == pytest.approx(bounds(found))
    assert bounds(two_way(-1000.0 * table)) == pytest.approx(
        (-1000.0 * found.high, -1000.0 * found.low)
    )


def test_more_seeds_help_against_their_own_noise_alone() -> None:
    of_examples = np.random.default_rng(4).normal(0.0, 1.0, 50)

    def error(seeds: int) -> float:
        by_seed = np.resize([-1.0, 1.0], (seeds, 1))
        return two_way(by_seed + of_examples).error

    floor = of_examples.std(ddof=1) / math.sqrt(50)
    assert error(4) > error(16) > error(400) > floor
    assert error(40_000) == pytest.approx(floor, rel=0.01)


def test_equal_differences_leave_no_width() -> None:
    found = two_way(np.full((3, 5), 0.25))
    assert bounds(found) == (0.25, 0.25)
    assert (found.error, found.freedom, found.detectable) == (0.0, 2, 0.0)


@pytest.mark.parametrize("shape", [(1, 10), (10, 1), (1, 1)])
def test_one_seed_or_one_example_gives_no_interval(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"{shape[0]} seeds and {shape[1]} examples"):
        two_way(np.zeros(shape))


def test_what_is_no_number_gives_none() -> None:
    table = differences()
    table[2, 3] = math.nan
    found = two_way(table)
    assert all(math.isnan(value) for value in (found.estimate, found.low, found.high))


# redrawn


def test_splits_that_share_nothing_give_the_t_test() -> None:
    values = np.random.default_rng(5).normal(0.3, 1.0, 8)
    told = stats.ttest_1samp(values, 0.0).confidence_interval(LEVEL)
    assert bounds(redrawn(values, 0.0)) == pytest.approx((told.low, told.high))


def test_splits_that_overlap_widen_it_as_nadeau_and_bengio_do() -> None:
    values = np.array([1.0, 2.0, 3.0, 6.0])
    found = redrawn(values, 1 / 3)
    assert found.error**2 == pytest.approx((1 / 4 + 1 / 3) * np.var(values, ddof=1))
    assert (found.estimate, found.freedom) == (3.0, 3)


def test_two_splits_give_an_interval_and_one_none() -> None:
    found = redrawn(np.array([0.0, 2.0]), 0.0)
    # Student's with one degree of freedom is Cauchy's: tan(0.475π) standard errors, each 1.
    assert found.high == pytest.approx(1.0 + math.tan(0.475 * math.pi))
    with pytest.raises(ValueError, match="1 replicate"):
        redrawn(np.array([0.5]), 0.0)


# seeds_and_resamples


def test_on_a_mean_it_is_the_two_way_interval_with_the_rest_left_in() -> None:
    table = differences(seeds=6, examples=200)
    weights = np.random.default_rng(6).multinomial(200, np.full(200, 1 / 200), 20_000) / 200
    found = seeds_and_resamples(table.mean(1), weights @ table.mean(0), 200)
    of_seeds, of_examples = table.mean(1).var(ddof=1) / 6, table.mean(0).var(ddof=1) / 200
    assert found.estimate == pytest.approx(table.mean())
    assert found.error**2 == pytest.approx(of_seeds + of_examples, rel=0.02)
    assert found.error > two_way(table).error


# skewness


def skewed(examples: int, seed: int = 0) -> Floats:
    """Return differences (4, N) of mean 0, of which a few are large and below 0."""
    rng = np.random.default_rng(seed)
    columns = math.exp(0.5) - np.exp(rng.standard_normal(examples))
    return np.asarray(columns + 0.05 * rng.standard_normal((4, 1)))


def test_what_a_few_examples_make_reaches_further_on_their_side() -> None:
    found = two_way(skewed(200))
    assert found.estimate - found.low > 1.1 * (found.high - found.estimate)
    mirrored = two_way(-skewed(200))
    assert bounds(mirrored) == pytest.approx((-found.high, -found.low))


def test_the_skewness_is_that_of_the_mean() -> None:
    table = skewed(50)
    columns = table.mean(0)
    third = stats.skew(columns) / math.sqrt(50) * (columns.std() / math.sqrt(50)) ** 3
    found = two_way(table)
    same = interval(found.estimate, found.error, found.freedom, third / found.error**3)
    assert bounds(found) == pytest.approx(bounds(same))


def test_the_ends_are_those_of_the_accelerated_bootstrap() -> None:
    values = skewed(150, 5)[0]
    found = two_way(np.tile(values, (3, 1)))
    drawn = stats.bootstrap((values,), np.mean, n_resamples=40_000, rng=np.random.default_rng(0))
    told = drawn.confidence_interval
    width = told.high - told.low
    assert bounds(found) == pytest.approx((told.low, told.high), abs=0.04 * width)
    # Which the symmetric one is not.
    assert abs(2 * found.estimate - found.high - told.low) > 0.1 * width


def test_hardly_any_skewness_is_as_none() -> None:
    straight = interval(1.0, 0.5, 9.0)
    assert bounds(interval(1.0, 0.5, 9.0, 1e-5)) == pytest.approx(bounds(straight), abs=1e-4)
    assert bounds(straight) == pytest.approx((1 - 0.5 * 2.262157, 1 + 0.5 * 2.262157))


def test_the_skewness_of_a_handful_of_examples_is_bounded() -> None:
    assert bounds(interval(0.0, 1.0, 50.0, 7.0)) == bounds(interval(0.0, 1.0, 50.0, 1.0))
    assert bounds(interval(0.0, 1.0, 50.0, -7.0)) == bounds(interval(0.0, 1.0, 50.0, -1.0))


def test_one_example_alone_makes_no_finding() -> None:
    for seeds, examples in ((2, 10), (10, 50), (10, 5000)):
        table = np.zeros((seeds, examples))
        table[:, 0] = -8.0
        found = two_way(table)
        assert found.low < 0 < found.high


def test_both_tails_of_skewed_examples_are_missed_about_alike() -> None:
    found = [two_way(skewed(360, seed)) for seed in range(1500)]
    above, below = (sum(of) for of in ([f.low > 0 for f in found], [f.high < 0 for f in found]))
    # 2.5 % are 38; Student's interval alone gives about 90 and 12.
    assert 20 < below < 60
    assert 20 < above < 65


# interval


@pytest.mark.parametrize("freedom", [4.0, 9.0, 30.0, 400.0])
def test_what_is_detectable_is_told_from_none_with_the_power_that_it_says(freedom: float) -> None:
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
