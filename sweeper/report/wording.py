"""Numbers in words, with no more digits than mean anything."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sweeper.confirmation.intervals import Interval

METRICS: Final[Mapping[str, str]] = {
    "nll": "validation NLL",
    "nll_calibrated": "validation NLL after temperature scaling",
}
SPLITS: Final[Mapping[str, str]] = {"valid": "validation", "test": "test", "train": "training"}
NOTHING: Final = "–"


def nll(value: float) -> str:
    """Return nats with three decimals, fewer when large, two figures when below 0.01."""
    if not math.isfinite(value):
        return _odd(value)
    return f"{value:.{_decimals(value)}f}" if abs(value) < 1e4 else f"{value:.1e}"


def gap(lower: float, higher: float) -> str:
    """Return by how much two values in nats differ, with no more decimals than they have."""
    difference = abs(higher - lower)
    if not math.isfinite(difference):
        return _odd(difference)
    return f"{difference:.{_decimals(max(abs(lower), abs(higher)))}f}"


def change(before: float, after: float) -> str:
    """Return a difference in nats with its sign, as `−0.039`."""
    size = gap(before, after)
    if size in (NOTHING, "∞") or float(size) == 0:
        return size
    return ("−" if after < before else "+") + size


def signed(value: float, decimals: int) -> str:
    """Return a number with its sign, as `−0.021`; none where it is rounded to 0."""
    if not math.isfinite(value):
        return _odd(value)
    size = f"{abs(value):.{decimals}f}"
    sign = "−" if value < 0 else "+"
    return sign + size if float(size) else size


def difference(found: Interval, factor: float = 1.0) -> str:
    """Return an estimate with its interval, as `−0.021 (−0.033 to −0.010)`.

    With as many decimals as give the interval's half two figures; all of it times `factor`.
    """
    half = factor * (found.high - found.low) / 2
    decimals = min(max(1 - math.floor(math.log10(half)), 0), 9) if 0 < half < math.inf else 3
    estimate, low, high = (
        signed(factor * value, decimals) for value in (found.estimate, found.low, found.high)
    )
    return f"{estimate} ({low} to {high})"


def percent(share: float) -> str:
    """Return a share in percent with one decimal."""
    return f"{100 * share:.1f} %" if math.isfinite(share) else _odd(share)


def points(before: float, after: float) -> str:
    """Return a difference of two shares in percentage points, with its sign."""
    if not math.isfinite(after - before):
        return _odd(after - before)
    rounded = round(100 * (after - before), 1)
    sign = "−" if rounded < 0 else "+" if rounded > 0 else "±"
    return f"{sign}{abs(rounded):.1f} points"


def epsilon(value: float) -> str:
    """Return epsilon with two decimals, or two figures when below 0.1."""
    if not math.isfinite(value):
        return _odd(value)
    if value == 0:
        return "0"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def figure(value: float) -> str:
    """Return two figures: for rates, temperatures and what a task yields beside."""
    if not math.isfinite(value):
        return _odd(value)
    if 1 <= abs(value) < 9.95:
        return f"{value:.1f}"
    return f"{value:.0f}" if 100 <= abs(value) < 1e6 else f"{value:.2g}"


def seconds(value: float) -> str:
    """Return a duration with a unit that fits."""
    if not math.isfinite(value):
        return _odd(value)
    if value < 90:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 5400 else f"{value / 3600:.1f} h"


def smoothing(trial: Any) -> str:
    """Return a trial's configuration in words, as `ε = 0.17, exponential, rate 2.3`."""
    if trial["epsilon"] == 0:
        return "ε = 0"
    rate = f", rate {figure(trial['rate'])}" if math.isfinite(trial["rate"]) else ""
    return f"ε = {epsilon(trial['epsilon'])}, {trial['schedule']}{rate}"


def name(trial: Any) -> str:
    """Return `trial 17`."""
    return f"trial {trial['number']:.0f}"


def counted(number: int, noun: str) -> str:
    """Return `1 trial`, `2 trials`, `1,000 trials`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def listed(items: Sequence[str]) -> str:
    """Return `a, b and c`."""
    return " and ".join(filter(None, (", ".join(items[:-1]), *items[-1:])))


def _decimals(value: float) -> int:
    if abs(value) >= 10:
        return 1
    if abs(value) >= 0.01 or value == 0:
        return 3
    return min(1 - math.floor(math.log10(abs(value))), 9)


def _odd(value: float) -> str:
    return NOTHING if math.isnan(value) else "∞" if value > 0 else "−∞"
