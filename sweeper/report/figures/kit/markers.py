"""Markers and lines of trials: hover texts, legends, thinning, and arrows at the edge."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from sweeper import formatting as fmt
from sweeper.report.figures.kit import axes, style
from sweeper.report.report_input import Floats

# More markers of one kind overlap and make the page many megabytes large.
MAX_DRAWN = 1000
_CELLS = 160
_TEXT_ONLY: Final = "%{text}<extra></extra>"


def hover(trial: Mapping[Any, Any]) -> str:
    """Return the hover text of a trial."""
    scaled = f" · after scaling {fmt.nll(trial['nll_calibrated'])}"
    return "<br>".join(
        (
            f"<b>{fmt.trial_name(trial)}</b> · {style.plain(fmt.trial_smoothing(trial))}",
            f"NLL {fmt.nll(trial['nll'])}" + (scaled if trial["state"] == "complete" else ""),
            f"accuracy {fmt.percent(trial['accuracy'])} · ECE {fmt.percent(trial['ece'])}",
        )
    )


class Hovers(NamedTuple):
    """The hover texts of trials, each with its ending; only those of drawn markers are built."""

    rows: pd.DataFrame
    endings: Sequence[str]

    def of(self, positions: NDArray[np.intp]) -> list[str]:
        """Return the texts of the trials at these positions."""
        rows = self.rows.iloc[positions].to_dict("records")
        return [hover(row) + self.endings[at] for row, at in zip(rows, positions, strict=True)]


def hovers(rows: pd.DataFrame, endings: str | Sequence[str] = "") -> Hovers:
    """Return the hover texts of trials, with one common ending or one per trial."""
    return Hovers(rows, [endings] * len(rows) if isinstance(endings, str) else endings)


def symbols(values: Floats, limit: float | None, symbol: str) -> list[str]:
    """Return a marker symbol per value: an arrow for values above the limit."""
    beyond = np.zeros(len(values), bool) if limit is None else ~(values <= limit)
    return ["arrow-up" if out else symbol for out in beyond]


def dots(
    x: Sequence[float] | Floats,
    y: Sequence[float] | Floats,
    texts: Sequence[str] | Hovers,
    *,
    marker: Mapping[str, Any],
    **more: Any,
) -> go.Scatter:
    """Return markers with hover texts; overlapping ones are left out if there are very many.

    Values in `marker` may be per point. The number of points left out is in the trace's `meta`.
    """
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    drawn = distinct_points(xs, ys)
    drawn_texts = texts.of(drawn) if isinstance(texts, Hovers) else [texts[at] for at in drawn]
    drawn_marker = {name: _selected(value, drawn, len(xs)) for name, value in marker.items()}
    meta = {"meta": {"left_out": len(xs) - len(drawn)}} if len(drawn) < len(xs) else {}
    return go.Scatter(
        x=xs[drawn].tolist(),
        y=ys[drawn].tolist(),
        text=drawn_texts,
        mode="markers",
        marker=drawn_marker,
        hovertemplate=_TEXT_ONLY,
        **meta,
        **more,
    )


def left_out(figure: go.Figure) -> int:
    """Return the number of overlapping markers that a figure leaves out."""
    return sum(trace.meta["left_out"] for trace in figure.data if trace.meta)


def _selected(value: Any, drawn: NDArray[np.intp], count: int) -> Any:
    """Return the entries of the drawn markers if there is one per marker, else the value itself."""
    if isinstance(value, list | np.ndarray) and len(value) == count:
        return [value[at] for at in drawn] if isinstance(value, list) else value[drawn]
    return value


def legend_entry(name: str, marker: Mapping[str, Any], group: str, **more: Any) -> go.Scatter:
    """Return a legend entry without points, so that it shows the plain marker of its group."""
    shown = {"marker": marker, "name": name, "legendgroup": group, "hoverinfo": "skip"}
    return go.Scatter(x=[None], y=[None], mode="markers", **shown, **more)


def baseline_line(y: float, axis: str = "") -> dict[str, Any]:
    """Return the dashed line of the baseline across a plot, as a plotly shape."""
    line = {"color": style.INK, "width": 1.5, "dash": "dash"}
    ends = {"x0": 0, "x1": 1, "y0": y, "y1": y, "xref": f"x{axis} domain", "yref": f"y{axis}"}
    return {"type": "line", "line": line, "layer": "below", **ends}


def baseline_name(value: float) -> str:
    """Return the legend text of the baseline, with its value."""
    return f"ε = 0: {fmt.nll(value)}"


def baseline_marker() -> dict[str, Any]:
    """Return the marker of the baseline: a cross, which no schedule uses."""
    return {"symbol": "x", "size": 11, "color": style.INK}


def clipped_dots(
    points: "Points", limit: float | None, marker: Mapping[str, Any], group: str, **more: Any
) -> go.Scatter:
    """Return markers of a legend group; values above the limit are arrows at the edge."""
    drawn = {**marker, "symbol": symbols(points.y, limit, marker["symbol"])}
    shown = {"legendgroup": group, "showlegend": False, **more}
    y = axes.clipped(points.y, limit)
    return dots(points.x, y, points.texts, marker=drawn, **shown)


def schedule_marker(chosen: style.Style, size: int = 8, **more: Any) -> dict[str, Any]:
    return {"color": chosen.color, "symbol": chosen.symbol, "size": size, **more}


def ring(symbol: str = "circle") -> dict[str, Any]:
    """Return the ring that highlights a trial."""
    return {"symbol": f"{symbol}-open", "size": 19, "color": style.INK, "line": {"width": 2}}


def recommended() -> dict[str, Any]:
    """Return the square that marks the recommended configuration."""
    return {"symbol": "square-open", "size": 24, "color": style.INK, "line": {"width": 2.5}}


def line(x: Floats, y: Floats, drawn: Mapping[str, Any], **more: Any) -> go.Scatter:
    """Return a line without hover texts and legend entry."""
    shown = {"hoverinfo": "skip", "showlegend": False, **more}
    return go.Scatter(x=x, y=y, mode="lines", line=dict(drawn), **shown)


class Points(NamedTuple):
    """Trials of one schedule: x (N,), y (N,) and hover texts."""

    schedule: str
    x: Floats
    y: Floats
    texts: Hovers


def points(schedule: str, rows: pd.DataFrame, x: str, y: str, ending: str = "") -> Points:
    """Return trials as points, given two column names; `ending` is added to the hover texts."""
    xs, ys = (rows[name].to_numpy(float) for name in (x, y))
    return Points(schedule, xs, ys, hovers(rows, ending))


def distinct_points(x: Floats, y: Floats) -> NDArray[np.intp]:
    """Return the indices of the points to draw: all, or the first in each cell of a grid.

    The grid is made coarser until at most `MAX_DRAWN` points are left.
    """
    cells = _CELLS
    drawn = np.arange(len(x))
    while len(drawn) > MAX_DRAWN:
        column, row = (_cell(values, cells) for values in (x, y))
        drawn = np.unique(column * cells + row, return_index=True)[1]
        cells = round(0.8 * cells)
    return np.sort(drawn)


def _cell(values: Floats, cells: int) -> NDArray[np.int64]:
    finite = np.nan_to_num(values.astype(float), posinf=0.0, neginf=0.0)
    share = (finite - finite.min()) / (np.ptp(finite) or 1.0)
    cell: NDArray[np.int64] = np.minimum((share * cells).astype(np.int64), cells - 1)
    return cell
