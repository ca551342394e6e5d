"""Intervals for a paired difference that carries the noise of seeds and of examples.

An interval from seeds alone is false precision: the test split is a sample too, and where
nothing acts it would say "helps" in 16 to 41 % of the cases.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]

LEVEL: Final = 0.95
POWER: Final = 0.8
# A larger skewness is that of a handful of examples, which no formula makes up for.
MOST_SKEWED: Final = 1.0


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval at `LEVEL`, its standard error and degrees of freedom."""

    estimate: float
    low: float
    high: float
    error: float
    freedom: float

    @property
    def detectable(self) -> float:
        """The smallest true difference that would have been told from 0 with `POWER`."""
        ask, reach = special.stdtrit(self.freedom, [(1 + LEVEL) / 2, POWER])
        return float((ask + reach) * self.error)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)


def interval(estimate: float, error: float, freedom: float, skewness: float = 0.0) -> Interval:
    """Return Student's interval, moved by the `skewness` of the estimate.

    Its ends are those of the bias-corrected and accelerated bootstrap (Efron 1987), whose
    quantiles follow for a mean from the skewness (Cornish and Fisher 1938); nothing is drawn.
    Without error it is the estimate itself.
    """
    half = float(special.stdtrit(freedom, (1 + LEVEL) / 2)) * error
    below, above = (half * part for part in _parts(skewness))
    return Interval(estimate, estimate - below, estimate + above, error, freedom)


def _parts(skewness: float) -> tuple[float, float]:
    """Return how far a skewed estimate's interval reaches, in parts of the symmetric one's half.

    At the normal quantiles: few seeds then widen both alike.
    """
    reach = float(special.ndtri((1 + LEVEL) / 2))
    sixth = min(max(skewness, -MOST_SKEWED), MOST_SKEWED) / 6
    return -_end(-reach, sixth) / reach, _end(reach, sixth) / reach


def _end(normal: float, sixth: float) -> float:
    moved = sixth + (sixth + normal) / (1 - sixth * (sixth + normal))
    return moved + sixth * (moved**2 - 1)


def two_way(differences: Floats) -> Interval:
    """Return the interval of the mean of paired differences (n seeds, N examples).

    Both seeds and examples are samples. The variance is S²_seeds/n + S²_examples/N -
    S²_rest/(nN), with S²_seeds and S²_examples the variances of the means of rows and columns
    and S²_rest that of what is left, which the other two both count (Cameron, Gelbach and
    Miller 2011), and at least the larger of the two. Degrees of freedom by Satterthwaite (1946).
    A few examples make most of a difference in NLL, so the skewness of the examples counts.
    Raises ValueError for fewer than two seeds or examples.
    """
    seeds, examples = differences.shape
    if seeds < 2 or examples < 2:
        raise ValueError(f"{seeds} seeds and {examples} examples; an interval needs two of each")
    rows, columns, mean = differences.mean(1), differences.mean(0), differences.mean()
    of_seeds, of_examples = rows.var(ddof=1) / seeds, columns.var(ddof=1) / examples
    rest = differences - rows[:, None] - columns[None, :] + mean
    left = np.square(rest).sum() / ((seeds - 1) * (examples - 1))
    variance = max(of_seeds + of_examples - left / differences.size, of_seeds, of_examples)
    third = np.power(columns - mean, 3).mean() / examples**2
    parts = (of_seeds, seeds - 1), (of_examples, examples - 1)
    return _combined(float(mean), variance, *parts, third=float(third))


def seeds_and_resamples(differences: Floats, resampled: Floats, examples: int) -> Interval:
    """Return the interval of a score that is no mean over examples, as ECE.

    `differences` (n,) are those of the seeds, `resampled` (B,) their mean on resamples of the
    `examples`: the two variances are summed, which counts what they share twice.
    """
    seeds = len(differences)
    of_seeds, of_examples = differences.var(ddof=1) / seeds, resampled.var(ddof=1)
    parts = (of_seeds, seeds - 1), (of_examples, examples - 1)
    return _combined(float(differences.mean()), of_seeds + of_examples, *parts)


def redrawn(differences: Floats, test_share: float) -> Interval:
    """Return the interval of differences (n,) that were each found on a split of its own.

    The splits overlap, so the variance is (1/n + test_share)·S², with `test_share` the test
    rows for each training row (Nadeau and Bengio 2003).
    """
    count = len(differences)
    if count < 2:
        raise ValueError(f"{count} replicate; an interval needs two")
    variance = (1 / count + test_share) * differences.var(ddof=1)
    return interval(float(differences.mean()), math.sqrt(variance), count - 1)


def _combined(
    estimate: float, variance: float, *parts: tuple[float, int], third: float = 0.0
) -> Interval:
    """Return the interval of an estimate whose third cumulant is `third`."""
    weights = sum(part**2 / freedom for part, freedom in parts)
    # Not the parts' sum: the rest is taken off too, with freedom too large to count.
    freedom = variance**2 / weights if weights else parts[0][1]
    error = math.sqrt(variance)
    return interval(estimate, error, float(freedom), third / error**3 if error else 0.0)
