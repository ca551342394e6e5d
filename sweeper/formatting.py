"""Formatting of values in tables, pages, reports, files and messages.

Numbers are rounded to the digits that are meaningful.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from numbers import Real
from typing import Any, Final, Protocol

SPLITS: Final[Mapping[str, str]] = {"valid": "validation", "test": "test", "train": "training"}
NOTHING: Final = "–"
# The source of labels that pages and reports do not mention.
LABELS_AS_GIVEN: Final = "as in the data set"
# The causes of failed trials in words; see `sweeper.training.messages.Cause`.
_CAUSES: Final[Mapping[str, str]] = {
    "raised": "exception",
    "memory": "out of memory",
    "timeout": "timed out",
    "exited": "process exited",
    "crashed": "process crashed",
    "lost": "worker lost",
}


class HasBounds(Protocol):
    """The ends of an interval."""

    @property
    def low(self) -> float:
        """The lower end."""
        ...

    @property
    def high(self) -> float:
        """The upper end."""
        ...


class HasEstimate(HasBounds, Protocol):
    """An estimate with the ends of its interval."""

    @property
    def estimate(self) -> float: ...


def nll(value: float | None) -> str:
    """Format nats: three decimals, one if 10 or more, two significant figures if below 0.01."""
    if value is None or not math.isfinite(value):
        return _non_finite(value)
    return f"{value:.{_decimals(value)}f}" if abs(value) < 1e4 else f"{value:.1e}"


def gap(lower: float, higher: float) -> str:
    """Format the absolute difference of two values in nats, with their number of decimals."""
    difference = abs(higher - lower)
    if not math.isfinite(difference):
        return _non_finite(difference)
    return f"{difference:.{_decimals(max(abs(lower), abs(higher)))}f}"


def change(before: float, after: float) -> str:
    """Format a signed difference of two values in nats, as `−0.039`."""
    size = gap(before, after)
    if size in (NOTHING, "∞") or float(size) == 0:
        return size
    return ("−" if after < before else "+") + size


def signed(value: float, decimals: int) -> str:
    """Format a number with its sign, as `−0.021`; without a sign if it rounds to 0."""
    if not math.isfinite(value):
        return _non_finite(value)
    size = f"{abs(value):.{decimals}f}"
    sign = "−" if value < 0 else "+"
    return sign + size if float(size) else size


def difference(bounds: HasEstimate, factor: float = 1.0) -> str:
    """Format an estimate and its interval, as `−0.021 (−0.033 to −0.010)`, times `factor`."""
    estimate = signed(factor * bounds.estimate, interval_decimals(bounds, factor))
    return f"{estimate} ({interval(bounds, factor)})"


def interval(ends: HasBounds, factor: float = 1.0) -> str:
    """Format an interval, as `−0.033 to −0.010`, times `factor`."""
    decimals = interval_decimals(ends, factor)
    return f"{signed(factor * ends.low, decimals)} to {signed(factor * ends.high, decimals)}"


def interval_decimals(ends: HasBounds, factor: float = 1.0) -> int:
    """Return the decimals that show half the width of an interval with two significant figures."""
    half = factor * (ends.high - ends.low) / 2
    return min(max(1 - math.floor(math.log10(half)), 0), 9) if 0 < half < math.inf else 3


def percent(share: float | None) -> str:
    """Format a fraction as a percentage with one decimal, as `97.3%`."""
    if share is None or not math.isfinite(share):
        return _non_finite(share)
    return f"{100 * share:.1f}%"


def points(before: float, after: float) -> str:
    """Format the signed difference of two fractions in percentage points, as `+1.5 points`."""
    if not math.isfinite(after - before):
        return _non_finite(after - before)
    rounded = round(100 * (after - before), 1)
    sign = "−" if rounded < 0 else "+" if rounded > 0 else "±"
    return f"{sign}{abs(rounded):.1f} points"


def epsilon(value: float) -> str:
    """Format epsilon with two decimals, or two significant figures if below 0.1."""
    if not math.isfinite(value):
        return _non_finite(value)
    if value == 0:
        return "0"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def two_figures(value: float) -> str:
    """Format with two significant figures: annealing rates and temperatures."""
    if not math.isfinite(value):
        return _non_finite(value)
    if 1 <= abs(value) < 9.95:
        return f"{value:.1f}"
    return f"{value:.0f}" if 100 <= abs(value) < 1e6 else f"{value:.2g}"


def setting(value: Any) -> str:
    """Format a value of a hyperparameter or an extra metric; three significant figures."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return str(value)
    number = float(value)
    if not math.isfinite(number):
        return _non_finite(number)
    return f"{number:.0f}" if number.is_integer() and abs(number) < 1e6 else f"{number:.3g}"


def stated_labels(source: str | None) -> str:
    """Return the source of the labels of a split; "" if it is not stated or the default."""
    return "" if source is None or source == LABELS_AS_GIVEN else source


def duration(value: float) -> str:
    """Format a duration in seconds, as `1.5 s`, `12 min` or `2.5 h`."""
    if not math.isfinite(value):
        return _non_finite(value)
    if value < 90:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 5400 else f"{value / 3600:.1f} h"


def hours(value: float) -> str:
    """Format core hours or GPU hours, as `0.0012`, `1.5` or `320`."""
    if not math.isfinite(value):
        return _non_finite(value)
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def gibibytes(value: float) -> str:
    """Format memory in GiB, as `0.21 GiB`."""
    return f"{value:.2f} GiB" if math.isfinite(value) else _non_finite(value)


def smoothing(start: float, schedule: str, rate: float | None) -> str:
    """Format a configuration, as `ε = 0.17, exponential, rate 2.3`.

    `start` is epsilon; `rate` is None or NaN if it has no effect.
    """
    if start == 0:
        return "ε = 0"
    rate_text = "" if rate is None or math.isnan(rate) else f", rate {two_figures(rate)}"
    return f"ε = {epsilon(start)}, {schedule}{rate_text}"


def trial_smoothing(trial: Any) -> str:
    """Format the configuration of a row of a trials frame."""
    return smoothing(trial["epsilon"], trial["schedule"], trial["rate"])


def trial_name(trial: Any) -> str:
    """Return `trial 17`."""
    return f"trial {trial['number']:.0f}"


def count_noun(number: int, noun: str) -> str:
    """Return `1 trial`, `2 trials`, `1,000 trials`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def join_words(items: Sequence[str]) -> str:
    """Return `a, b and c`."""
    return " and ".join(filter(None, (", ".join(items[:-1]), *items[-1:])))


def cause(name: str) -> str:
    """Return the cause of a failed trial in words, as `out of memory`."""
    return _CAUSES.get(name, name)


def failure_counts(counts: Mapping[str, int]) -> str:
    """Format the number of failed trials by cause, as `6 exceptions, 2 diverged`."""
    return ", ".join(
        count_noun(count, cause(name)) if name == "raised" else f"{count:,} {cause(name)}"
        for name, count in counts.items()
        if name
    )


def moment(seconds: float) -> str:
    """Format a time in seconds since 1970 as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _decimals(value: float) -> int:
    if abs(value) >= 10:
        return 1
    if abs(value) >= 0.01 or value == 0:
        return 3
    return min(1 - math.floor(math.log10(abs(value))), 9)


def _non_finite(value: float | None) -> str:
    return NOTHING if value is None or math.isnan(value) else "∞" if value > 0 else "−∞"
