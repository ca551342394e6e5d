"""Statistics for figures: a kernel-smoothed mean, minima, bins and the Pareto front."""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sweeper.report.report_input import Floats

MAX_BINS: Final = 6
# The best of fewer trials depends too much on chance.
MIN_PER_BIN: Final = 8


def kernel_width(epsilons: Floats) -> float:
    """Return the width of the Gaussian kernel: one eighth of the range of epsilon."""
    return float(np.ptp(epsilons)) / 8 if epsilons.size else 0.0


def kernel_mean(x: Floats, y: Floats, at: Floats, width: float) -> Floats:
    """Return the Nadaraya-Watson mean of y (N,) at `at` (M,)."""
    # Subtract the largest exponent, so that the weights do not underflow far from all points.
    distance = -0.5 * ((at[:, None] - x[None, :]) / width) ** 2
    weights = np.exp(distance - distance.max(axis=1, keepdims=True))
    mean: Floats = weights @ y / weights.sum(axis=1)
    return mean


def best_of(values: Floats, count: int) -> float:
    """Return the expected minimum of `count` of the values (N,), drawn without replacement.

    NaN if `count` is 0 or larger than N.
    """
    left = len(values)
    if not 0 < count <= left:
        return math.nan
    mean, chance = 0.0, 1.0
    for value in np.sort(values):
        # `chance` is the probability that no lower value is drawn; count / left that this one is,
        # given that.
        mean += chance * count / left * float(value)
        chance *= 1 - count / left
        left -= 1
        if chance <= 0:
            break
    return mean


def epsilon_bins(epsilons: Floats) -> list[NDArray[np.bool_]]:
    """Return a mask (N,) per bin, in ascending order: epsilon 0, and equally many trials each.

    The minimum of more trials is lower by chance, so bins of equal width could not be compared. If
    there are only a few values of epsilon, as in a grid, each is a bin.
    """
    smoothed = np.sort(epsilons[epsilons > 0])
    values = np.unique(smoothed)
    if len(values) <= min(MAX_BINS, len(smoothed) // 2):
        starts = values
    else:
        count = min(max(len(smoothed) // MIN_PER_BIN, 1), MAX_BINS)
        starts = np.unique([smoothed[len(smoothed) * n // count] for n in range(count)])
    place = np.searchsorted(starts, epsilons, side="right")
    return [mask for n in range(len(starts) + 1) if (mask := place == n).any()]


def pareto_front(costs: Floats) -> NDArray[np.bool_]:
    """Return a mask (N,) of the rows of `costs` (N, D) that no other row dominates."""
    front: list[int] = []
    # In lexicographic order, a row can only be dominated by earlier rows.
    for row in np.lexsort(costs.T[::-1]):
        earlier = costs[front]
        dominating = (earlier <= costs[row]).all(axis=1) & (earlier < costs[row]).any(axis=1)
        if not dominating.any():
            front.append(row)
    member = np.zeros(len(costs), dtype=np.bool_)
    member[front] = True
    return member
