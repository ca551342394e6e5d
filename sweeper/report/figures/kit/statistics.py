"""Statistics for figures: a kernel-smoothed mean and the Pareto front."""

import numpy as np
from numpy.typing import NDArray

from sweeper.report.report_input import Floats


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
