"""Confidence intervals for paired differences, with seed and test-set variation.

An interval from seeds alone is too narrow, because the test split is a sample too: if ε has no
effect, it would lead to "helps" in 16% to 41% of the cases.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

LEVEL: Final = 0.95
POWER: Final = 0.8
# A larger skewness is due to a few extreme examples; the correction is unreliable there.
MAX_SKEWNESS: Final = 1.0


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval.

    `low` and `high` are its ends at `LEVEL`, `error` is the standard error and `freedom` the
    degrees of freedom.
    """

    estimate: float
    low: float
    high: float
    error: float
    freedom: float

    @property
    def detectable(self) -> float:
        """The smallest true difference that the test detects with power `POWER`."""
        critical, power = special.stdtrit(self.freedom, [(1 + LEVEL) / 2, POWER])
        return float((critical + power) * self.error)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def interval(estimate: float, error: float, freedom: float, skewness: float = 0.0) -> Interval:
    """Return Student's t interval, adjusted for the `skewness` of the estimate.

    The adjustment is that of the bias-corrected and accelerated bootstrap (Efron 1987). For a
    mean, its quantiles follow from the skewness (Cornish and Fisher 1938), so no resampling is
    needed. If `error` is 0, both ends are the estimate.
    """
    half = float(special.stdtrit(freedom, (1 + LEVEL) / 2)) * error
    below, above = (half * factor for factor in _reach_factors(skewness))
    return Interval(estimate, estimate - below, estimate + above, error, freedom)


def _reach_factors(skewness: float) -> tuple[float, float]:
    """Return the factors by which skewness scales the lower and upper half of the interval.

    They are computed at normal quantiles, so the t quantile widens both halves alike.
    """
    reach = float(special.ndtri((1 + LEVEL) / 2))
    sixth = min(max(skewness, -MAX_SKEWNESS), MAX_SKEWNESS) / 6
    return -_end(-reach, sixth) / reach, _end(reach, sixth) / reach


def _end(normal: float, sixth: float) -> float:
    moved = sixth + (sixth + normal) / (1 - sixth * (sixth + normal))
    return moved + sixth * (moved**2 - 1)


def two_way_interval(differences: Floats) -> Interval:
    """Return the interval of the mean of paired differences of shape (n seeds, N examples).

    Seeds and examples are both random samples. The variance is S²_seeds/n + S²_examples/N -
    S²_rest/(nN). S²_seeds and S²_examples are the variances of the row and column means; S²_rest
    is the residual variance, which both of them contain (Cameron, Gelbach and Miller 2011). The
    result is at least the larger of the first two terms. Degrees of freedom follow Satterthwaite
    (1946). The interval is adjusted for the skewness over examples, because a few examples often
    make up most of a difference in NLL. Raises ValueError for fewer than two seeds or examples.
    """
    seeds, examples = differences.shape
    if seeds < 2 or examples < 2:
        raise ValueError(
            f"{seeds} seeds and {examples} examples; an interval needs at least two of each"
        )
    rows, columns, mean = differences.mean(1), differences.mean(0), differences.mean()
    of_seeds, of_examples = rows.var(ddof=1) / seeds, columns.var(ddof=1) / examples
    rest = differences - rows[:, None] - columns[None, :] + mean
    left = np.square(rest).sum() / ((seeds - 1) * (examples - 1))
    variance = max(of_seeds + of_examples - left / differences.size, of_seeds, of_examples)
    third = np.power(columns - mean, 3).mean() / examples**2
    parts = (of_seeds, seeds - 1), (of_examples, examples - 1)
    return _combine(float(mean), variance, *parts, third=float(third))


def group_values(differences: Floats, groups: Integers) -> Floats:
    """Return one value per group, (n seeds, G), that `two_way_interval` takes like examples.

    `differences` has shape (n, N). `groups` (N,) are the numbers 0 to G - 1; examples of a group
    may depend on each other. With m the mean of all differences, the value of a group is
    m + (G/N)·Σ (d - m) over its examples. The row means are those of the differences, and the
    variance over groups is G/(G - 1)·Σ (Σ (d - m))²/N², which is robust to any dependence within
    groups (Liang and Zeger 1986).
    """
    mean, count = differences.mean(), differences.shape[1]
    sums = np.stack([np.bincount(groups, row - mean) for row in differences])
    values: Floats = mean + sums * (sums.shape[1] / count)
    return values


def bootstrap_interval(differences: Floats, resampled: Floats, examples: int) -> Interval:
    """Return the interval for a score that is not a mean over examples, such as ECE.

    `differences` (n,) are the differences by seed. `resampled` (B,) are the mean differences on
    bootstrap resamples of the test set, which has `examples` examples or groups. The two variances
    are added, which is conservative: both contain the residual variance.
    """
    seeds = len(differences)
    of_seeds, of_examples = differences.var(ddof=1) / seeds, resampled.var(ddof=1)
    parts = (of_seeds, seeds - 1), (of_examples, examples - 1)
    return _combine(float(differences.mean()), of_seeds + of_examples, *parts)


def resplit_interval(differences: Floats, test_share: float) -> Interval:
    """Return the interval for differences (n,), each computed on another random split.

    The splits overlap, so the variance is (1/n + test_share)·S², where `test_share` is the number
    of test rows divided by the number of training rows (Nadeau and Bengio 2003). Raises
    ValueError for fewer than two differences.
    """
    count = len(differences)
    if count < 2:
        raise ValueError(f"{count} replicate; an interval needs at least two")
    variance = (1 / count + test_share) * differences.var(ddof=1)
    return interval(float(differences.mean()), math.sqrt(variance), count - 1)


def _combine(
    estimate: float, variance: float, *parts: tuple[float, int], third: float = 0.0
) -> Interval:
    """Return the interval of an estimate with third cumulant `third`.

    `parts` are the terms of the variance with their degrees of freedom.
    """
    weights = sum(part**2 / freedom for part, freedom in parts)
    # `variance` is not the sum of the parts: in `two_way_interval` the residual term is subtracted.
    # It has so many degrees of freedom that the weights can ignore it.
    freedom = variance**2 / weights if weights else parts[0][1]
    error = math.sqrt(variance)
    return interval(estimate, error, float(freedom), third / error**3 if error else 0.0)
