"""Intervals for a paired difference that carries the noise of seeds and of examples.

An interval from seeds alone is false precision: the test split is a sample too, and where
nothing acts it would say "helps" in 16 to 41 % of the cases.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]

LEVEL: Final = 0.95
POWER: Final = 0.8


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
        ask, reach = stats.t.ppf([(1 + LEVEL) / 2, POWER], self.freedom)
        return float((ask + reach) * self.error)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)


def interval(estimate: float, error: float, freedom: float) -> Interval:
    """Return Student's interval; without error it is the estimate itself."""
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    return Interval(estimate, estimate - half, estimate + half, error, freedom)


def two_way(differences: Floats) -> Interval:
    """Return the interval of the mean of paired differences (n seeds, N examples).

    Both seeds and examples are samples. The variance is S²_seeds/n + S²_examples/N -
    S²_rest/(nN), with S²_seeds and S²_examples the variances of the means of rows and columns
    and S²_rest that of what is left, which the other two both count (Cameron, Gelbach and
    Miller 2011), and at least the larger of the two. Degrees of freedom by Satterthwaite (1946).
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
    return _combined(float(mean), variance, (of_seeds, seeds - 1), (of_examples, examples - 1))


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


def _combined(estimate: float, variance: float, *parts: tuple[float, int]) -> Interval:
    weights = sum(part**2 / freedom for part, freedom in parts)
    freedom = sum(part for part, _ in parts) ** 2 / weights if weights else parts[0][1]
    return interval(estimate, math.sqrt(variance), float(freedom))
