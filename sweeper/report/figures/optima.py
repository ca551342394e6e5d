"""Where one hyperparameter is best in each bin of epsilon: the data and one small plot."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sweeper import formatting as fmt
from sweeper.report.figures.kit import axes, markers, style
from sweeper.report.figures.kit.markers import Points, points
from sweeper.report.report_input import Floats
from sweeper.study.dimensions import Range

# From this share of the searched values on, the optimum of a hyperparameter is called flat.
FLAT: Final = 0.5


class Scale(NamedTuple):
    """The searched values of a hyperparameter: choices, or a range from `low` to `high`.

    The position of a number on the axis is the number, that of a choice its index.
    """

    low: float
    high: float
    log: bool = False
    choices: tuple[Any, ...] = ()

    def positions(self, column: "pd.Series[Any]") -> Floats:
        """Return the positions (N,) on the axis; NaN for missing values."""
        if self.choices:
            places = {choice: place for place, choice in enumerate(self.choices)}
            return np.array([places.get(value, math.nan) for value in column], dtype=float)
        numbers = pd.to_numeric(column, errors="coerce").to_numpy(float)
        return np.where(np.isfinite(numbers) & ((numbers > 0) | (not self.log)), numbers, math.nan)

    def share(self, positions: Floats) -> float:
        """Return the share of the searched values that these positions (N,) cover, in [0, 1]."""
        if self.choices:
            return float((len(np.unique(positions)) - 1) / max(len(self.choices) - 1, 1))
        ends = np.array([self.low, self.high, positions.min(), positions.max()])
        low, high, least, most = np.log(ends) if self.log else ends
        return float((most - least) / (high - low)) if high > low else 0.0


class Optimum(NamedTuple):
    """The best trial of a bin that has a value of the hyperparameter.

    `near` are the positions (N,) of the trials of the bin that are almost as good, itself included.
    """

    best: Points
    near: Floats


class Optima(NamedTuple):
    """Where one hyperparameter is best in each bin of epsilon.

    `near` are the trials that are almost as good as the best of their bin, `others` the positions
    x and y (N,) of the remaining ones. `inactive` counts finished trials without a value.
    """

    name: str
    scale: Scale
    optima: tuple[Optimum, ...]
    near: Points
    others: tuple[Floats, Floats]
    inactive: int

    @property
    def flat(self) -> bool:
        """Whether the almost best trials cover at least `FLAT` of the values in most bins."""
        shares = [self.scale.share(optimum.near) for optimum in self.optima]
        return sum(share >= FLAT for share in shares) > len(shares) / 2


def optima(
    bins: Sequence[pd.DataFrame], name: str, dimension: Any, tolerance: float
) -> Optima | None:
    """Return where the hyperparameter of a column is best; None if all trials have the same value.

    The trials of each bin are sorted, best first. Those that differ from the best in `value` by at
    most `tolerance` are almost as good. `dimension` is that of the space, None if it is not there.
    """
    scale = _scale(pd.concat([rows[name] for rows in bins]), dimension)
    placed = [rows.assign(position=scale.positions(rows[name])) for rows in bins]
    active = [rows.loc[rows["position"].notna()] for rows in placed]
    active = [rows for rows in active if len(rows)]
    if len({value for rows in active for value in rows["position"]}) < 2:
        return None
    near = [rows.loc[(rows["value"] - rows["value"].iloc[0]).abs() <= tolerance] for rows in active]
    others = pd.concat([rows.drop(good.index) for rows, good in zip(active, near, strict=True)])
    return Optima(
        name=name.removeprefix("hp_"),
        scale=scale,
        optima=tuple(_optimum(*pair, name) for pair in zip(active, near, strict=True)),
        near=_near(pd.concat(near), name),
        others=(others["epsilon"].to_numpy(float), others["position"].to_numpy(float)),
        inactive=sum(map(len, placed)) - sum(map(len, active)),
    )


def heading(data: Optima) -> str:
    return data.name + (" (log scale)" if data.scale.log else "")


def traces(data: Optima, styles: dict[str, style.Style]) -> Iterator[go.Scatter]:
    """Yield the trials, the range of the almost best ones, and the best one of each bin."""
    hidden = {"showlegend": False}
    x, y = data.others
    yield markers.dots(x, y, [""] * len(x), marker=OTHER, hoverinfo="skip", **hidden)
    if not data.scale.choices:
        yield _ranges(data)
    yield markers.dots(data.near.x, data.near.y, data.near.texts, marker=NEAR, **hidden)
    for optimum in data.optima:
        best, marker = optimum.best, best_marker(optimum.best, styles)
        yield markers.dots(best.x, best.y, best.texts, marker=marker, **hidden)


def best_marker(best: Points, styles: dict[str, style.Style]) -> dict[str, Any]:
    """Return the marker of the best trial of a bin; the schedule of the baseline is ""."""
    if not best.schedule:
        return markers.baseline_marker()
    line = {"width": 1, "color": style.INK}
    return markers.schedule_marker(styles[best.schedule], 11, line=line)


def y_axis(data: Optima) -> dict[str, Any]:
    """Return the y axis, which shows all values that were searched; the first choice is on top."""
    scale = data.scale
    if scale.choices:
        count = len(scale.choices)
        places = range(0, count, math.ceil(count / _MAX_TICKS))
        texts = [style.plain(fmt.setting(scale.choices[n]), _LONGEST_CHOICE) for n in places]
        return {"tickvals": [*places], "ticktext": texts, "range": (count - 0.5, -0.5)}
    shown = np.concatenate([data.near.y, data.others[1], [scale.low, scale.high]])
    if not scale.log:
        return {"range": axes.axis_range(shown, None)}
    return {"type": "log", "range": axes.axis_range(np.log10(shown), None), **_ticks(shown)}


NEAR: Final = {"symbol": "circle", "size": 6, "color": style.FAINT, "opacity": 0.8}
OTHER: Final = {"symbol": "circle", "size": 4, "color": style.FAINT, "opacity": 0.35}
_LONGEST_CHOICE: Final = 12
_MAX_TICKS: Final = 12
# A longer logarithmic axis has ticks at powers of 10 only.
_SHORT_DECADES: Final = 2


def _scale(column: "pd.Series[Any]", dimension: Any) -> Scale:
    if isinstance(dimension, Range):
        return Scale(dimension.low, dimension.high, dimension.log)
    used = column.dropna()
    numbers = pd.to_numeric(used, errors="coerce").to_numpy(float)
    logical = any(isinstance(value, bool | np.bool_) for value in used)
    if dimension is None and numbers.size and np.isfinite(numbers).all() and not logical:
        return Scale(float(numbers.min()), float(numbers.max()))
    stated = dimension if isinstance(dimension, tuple) else ()
    tried = sorted(set(used), key=lambda value: (isinstance(value, str), value))
    choices = [choice for choice in dict.fromkeys([*stated, *tried]) if choice in tried]
    return Scale(0, max(len(choices) - 1, 0), choices=tuple(choices))


def _optimum(active: pd.DataFrame, near: pd.DataFrame, name: str) -> Optimum:
    best = active.iloc[:1]
    schedule = str(best["schedule"].iloc[0]) if float(best["epsilon"].iloc[0]) > 0 else ""
    ending = (
        f"<br>{_setting(name, best[name].iloc[0])}"
        f"<br>best of {fmt.count_noun(len(active), 'finished trial')} in its bin"
        f"<br>almost as good: {len(near) - 1}"
    )
    best_point = points(schedule, best, "epsilon", "position", ending)
    return Optimum(best_point, near["position"].to_numpy(float))


def _near(rows: pd.DataFrame, name: str) -> Points:
    endings = [f"<br>{_setting(name, value)}" for value in rows[name]]
    x, y = (rows[column].to_numpy(float) for column in ("epsilon", "position"))
    return Points("", x, y, markers.hovers(rows, endings))


def _setting(name: str, value: Any) -> str:
    return style.plain(f"{name.removeprefix('hp_')} {fmt.setting(value)}", 40)


def _ranges(data: Optima) -> go.Scatter:
    """Return one vertical line per bin, over the range of its almost best trials."""
    x = [value for each in data.optima for value in (*[each.best.x[0]] * 2, math.nan)]
    y = [end for each in data.optima for end in (each.near.min(), each.near.max(), math.nan)]
    return markers.line(np.array(x), np.array(y), {"color": style.FAINT, "width": 3})


def _ticks(values: Floats) -> dict[str, Any]:
    low, high = math.floor(np.log10(values.min())), math.ceil(np.log10(values.max()))
    if high - low <= _SHORT_DECADES:
        return axes.log_ticks(values)
    powers = range(low, high + 1, math.ceil((high - low) / _MAX_TICKS * 2))
    return {"tickvals": [10.0**n for n in powers], "ticktext": [f"1e{n}" for n in powers]}
