"""Axis ranges, ticks of logarithmic axes, and the layout of two plots side by side."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from sweeper.report.report_input import Floats

# Tukey's far fence. An axis is never cut below this multiple of the third quartile.
_FENCE = 3.0
_ALWAYS_SHOWN = 3.0
_MIN_TRIALS = 4
# The share of the axis of a small plot above the fence.
_ROOM = 0.1
# The minimum length of an epsilon axis: with only the baseline it would be 0.
_SHORTEST = 0.1


def upper_limit(
    values: Floats, shown: tuple[float, ...] = (), beside: Floats | None = None
) -> float | None:
    """Return where to cut an axis, so that a few very bad values do not flatten the others.

    `shown` are values that must stay inside. `beside` are other values on the same axis, which do
    not affect the limit. Returns None if no value exceeds the limit.
    """
    finite = values[np.isfinite(values)]
    if finite.size < _MIN_TRIALS:
        return None
    lower, upper = np.quantile(finite, [0.25, 0.75])
    floor = [_ALWAYS_SHOWN * upper, *(value for value in shown if np.isfinite(value))]
    fence = float(max(upper + _FENCE * (upper - lower), *floor))
    highest = np.concatenate([finite, [] if beside is None else beside]).max()
    return fence if highest > fence else None


def small_plot_limit(values: Floats, baseline: float) -> float | None:
    """Return where to cut the axis of a small plot; None for nowhere.

    The limit is lower than that of `upper_limit`: a small plot has no room for trials that are far
    worse than the baseline, which may be NaN.
    """
    if not values.size or not np.isfinite(baseline):
        return upper_limit(values)
    lower, upper = np.quantile(values, [0.25, 0.75])
    fence = float(max(upper + _FENCE * (upper - lower), baseline))
    limit = fence + _ROOM * (fence - float(values.min()))
    return limit if values.max() > limit else None


def axis_range(values: Floats, limit: float | None) -> tuple[float, float]:
    """Return an axis range for the finite values up to the limit, with a margin."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    top = high if limit is None else min(high, limit)
    margin = 0.06 * (top - low) or 0.05 * abs(top) or 0.5
    return low - margin, top + margin


def epsilon_range(epsilons: Floats) -> tuple[float, float]:
    """Return an axis range for epsilon that starts at 0, with room for a marker there."""
    top = max(float(epsilons.max(initial=0.0)), _SHORTEST)
    return -0.05 * top, 1.05 * top


def clipped(values: Floats, limit: float | None) -> Floats:
    """Return the values clipped to the limit; NaN and infinity become the limit too."""
    return values if limit is None else np.where(values <= limit, values, limit)


def log_ticks(values: Floats) -> dict[str, Any]:
    """Return ticks for a logarithmic axis of positive values: 1, 2 and 5 times powers of 10."""
    decades = range(math.floor(math.log10(values.min())), math.ceil(math.log10(values.max())) + 1)
    ticks = [step * 10.0**decade for decade in decades for step in (1, 2, 5)]
    return {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


# The axes of the two plots of a figure.
BOTH = ({"xaxis": "x", "yaxis": "y"}, {"xaxis": "x2", "yaxis": "y2"})


def side_by_side(
    left: Mapping[str, Any], right: Mapping[str, Any], gap: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the wide layout of two plots side by side and the narrow one, stacked, for phones.

    `left` and `right` have the keys "xaxis" and "yaxis"; `gap` is the share of the width between
    the plots.
    """
    half = (1 - gap) / 2
    wide = {
        "xaxis": {**left["xaxis"], "domain": [0, half]},
        "yaxis": left["yaxis"],
        "xaxis2": {**right["xaxis"], "domain": [1 - half, 1], "anchor": "y2"},
        "yaxis2": {**right["yaxis"], "anchor": "x2"},
    }
    narrow = {
        "height": 860,
        "xaxis": {"domain": [0, 1]},
        "xaxis2": {"domain": [0, 1]},
        "yaxis": {"domain": [1 - half, 1]},
        "yaxis2": {"domain": [0, half]},
    }
    return wide, narrow
