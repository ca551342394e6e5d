"""Arithmetic that several figures share: where an axis ends, a mean along epsilon, a front."""

import numpy as np
from numpy.typing import NDArray

from sweeper.report.report_input import Floats

# Tukey's far fence; and never a cut below this multiple of the third quartile.
_FENCE = 3.0
_ALWAYS_SHOWN = 3.0
_FEWEST = 4
# More markers of one kind lie on each other, and make a page of many megabytes.
MOST_DRAWN = 1000
_CELLS = 160
# An axis for epsilon is at least so long: with the baseline alone it would have no length.
_SHORTEST = 0.1


def upper_limit(
    values: Floats, shown: tuple[float, ...] = (), beside: Floats | None = None
) -> float | None:
    """Return where an axis ends so that a few very bad values do not flatten the rest.

    `shown` are values that must stay inside, `beside` others on the same axis, which have no
    say in where it ends. None: nothing needs to be cut.
    """
    finite = values[np.isfinite(values)]
    if finite.size < _FEWEST:
        return None
    lower, upper = np.quantile(finite, [0.25, 0.75])
    floor = [_ALWAYS_SHOWN * upper, *(value for value in shown if np.isfinite(value))]
    fence = float(max(upper + _FENCE * (upper - lower), *floor))
    highest = np.concatenate([finite, [] if beside is None else beside]).max()
    return fence if highest > fence else None


def axis_range(values: Floats, limit: float | None) -> tuple[float, float]:
    """Return an axis that holds the finite values up to the limit, with a margin."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    top = high if limit is None else min(high, limit)
    margin = 0.06 * (top - low) or 0.05 * abs(top) or 0.5
    return low - margin, top + margin


def epsilon_range(epsilons: Floats) -> tuple[float, float]:
    """Return an axis for epsilon that starts at 0, with room for a marker there."""
    top = max(float(epsilons.max(initial=0.0)), _SHORTEST)
    return -0.05 * top, 1.05 * top


def clipped(values: Floats, limit: float | None) -> Floats:
    """Return the values with those beyond the limit laid on it; NaN and infinity as well."""
    return values if limit is None else np.where(values <= limit, values, limit)


def told_apart(x: Floats, y: Floats) -> NDArray[np.intp]:
    """Return which points (N,) to draw: all where they are few, else the first in each cell.

    The cells are of a grid over the points, as fine as leaves no more than a screen can show.
    """
    cells = _CELLS
    kept = np.arange(len(x))
    while len(kept) > MOST_DRAWN:
        column, row = (_cell(values, cells) for values in (x, y))
        kept = np.unique(column * cells + row, return_index=True)[1]
        cells = round(0.8 * cells)
    return np.sort(kept)


def _cell(values: Floats, cells: int) -> NDArray[np.int64]:
    finite = np.nan_to_num(values.astype(float), posinf=0.0, neginf=0.0)
    share = (finite - finite.min()) / (np.ptp(finite) or 1.0)
    placed: NDArray[np.int64] = np.minimum((share * cells).astype(np.int64), cells - 1)
    return placed


def kernel_width(epsilons: Floats) -> float:
    """Return the Gaussian kernel's width: an eighth of the range of epsilon."""
    return float(np.ptp(epsilons)) / 8 if epsilons.size else 0.0


def kernel_mean(x: Floats, y: Floats, at: Floats, width: float) -> Floats:
    """Return the Nadaraya-Watson mean of y (N,) at `at` (M,)."""
    # Shifted by the nearest point's exponent, so that far from all points the weights stay.
    distance = -0.5 * ((at[:, None] - x[None, :]) / width) ** 2
    weights = np.exp(distance - distance.max(axis=1, keepdims=True))
    mean: Floats = weights @ y / weights.sum(axis=1)
    return mean


def pareto_front(costs: Floats) -> NDArray[np.bool_]:
    """Return which rows of costs (N, D) no other row beats: nowhere worse, somewhere better."""
    front: list[int] = []
    # In this order a row is beaten only by rows before it.
    for row in np.lexsort(costs.T[::-1]):
        held = costs[front]
        beaten = (held <= costs[row]).all(axis=1) & (held < costs[row]).any(axis=1)
        if not beaten.any():
            front.append(row)
    member = np.zeros(len(costs), dtype=np.bool_)
    member[front] = True
    return member
