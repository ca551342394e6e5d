"""How every figure looks: one colour and marker a schedule, light and dark, wide and narrow."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import cycle
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from sweeper.report import wording
from sweeper.report.figures import scales
from sweeper.report.report_input import Floats


class Style(NamedTuple):
    """How a schedule is drawn, in every figure."""

    colour: str
    symbol: str
    dash: str


INK: Final = "#1b1f24"
FAINT: Final = "#8a929c"
# Found by search: any two differ by at least 30 (CIE76) in normal, protan and deutan vision.
_STYLES: Final[Mapping[str, Style]] = {
    "fixed": Style("#0036f5", "circle", "solid"),
    "linear": Style("#f57600", "square", "dash"),
    "cosine": Style("#4ca871", "diamond", "dot"),
    "exponential": Style("#8a5381", "triangle-up", "dashdot"),
    "step": Style("#4c3900", "triangle-down", "longdash"),
    "confidence": Style("#009df5", "pentagon", "longdashdot"),
    "error": Style("#52158a", "hexagram", "5px,2px"),
}
# A study's own schedules borrow these; markers tell them from the ready ones.
_OWN: Final = (
    Style("#b3003c", "star-triangle-up", "8px,3px"),
    Style("#00786a", "hourglass", "2px,4px"),
    Style("#8c6d00", "bowtie", "10px,2px,2px,2px"),
    Style("#7a7a7a", "star-square", "6px,6px"),
)
_DARK: Final[Mapping[str, str]] = {
    INK: "#e8eaed",
    FAINT: "#7d8590",
    "#0036f5": "#4d8de0",
    "#f57600": "#d96a00",
    "#4ca871": "#49f58e",
    "#8a5381": "#e0567f",
    "#4c3900": "#f5dc00",
    "#009df5": "#6ec4f5",
    "#52158a": "#9a63ff",
    "#b3003c": "#ff7a9c",
    "#00786a": "#35c9b8",
    "#8c6d00": "#d8b84a",
    "#7a7a7a": "#a8a8a8",
}
_LIGHT_GROUND: Final = {
    "grid": "#e6e8eb",
    "line": "#9aa1a9",
    "card": "#ffffff",
    "veil": "rgba(255,255,255,0.7)",
}
_DARK_GROUND: Final = {
    "grid": "#2d333b",
    "line": "#6b737d",
    "card": "#1c2128",
    "veil": "rgba(28,33,40,0.7)",
}

LEGEND_LENGTH: Final = 28


def styles(schedules: Iterable[str]) -> dict[str, Style]:
    """Return a style for each schedule; the ready ones have the same in every study."""
    own = sorted({name for name in schedules if name not in _STYLES})
    return {**_STYLES, **dict(zip(own, cycle(_OWN), strict=False))}


def dark_colours() -> dict[str, str]:
    """Return, for each colour of the figures, the one that takes its place on dark ground."""
    return dict(_DARK)


def template(dark: bool = False) -> dict[str, Any]:
    """Return the plotly template on light or dark ground."""
    ground = _DARK_GROUND if dark else _LIGHT_GROUND
    ink = _DARK[INK] if dark else INK
    axis = {
        "gridcolor": ground["grid"],
        "linecolor": ground["line"],
        "showline": True,
        "zeroline": False,
        "ticks": "outside",
        "tickcolor": ground["line"],
        "automargin": True,
        "title": {"standoff": 10},
    }
    return {"layout": {**_words(ink, ground), "xaxis": axis, "yaxis": axis}}


def layout(height: int, narrow: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """Return a figure's layout; `narrow` is what changes on a phone's width, kept in `meta`."""
    shape = {
        "height": height,
        "margin": {"l": 60, "r": 16, "t": 8, "b": 48},
        "template": template(),
        "hovermode": "closest",
        "meta": {"narrow": {"height": height, **(narrow or {})}},
    }
    return {**shape, **more}


def empty() -> go.Figure:
    """Return a figure that says that there is nothing to draw yet."""
    note = {"text": "Nothing to draw yet", "showarrow": False, "font": {"color": FAINT}}
    hidden = {"visible": False}
    return go.Figure(layout=layout(200, annotations=[note], xaxis=hidden, yaxis=hidden))


def plain(text: str, length: int | None = None) -> str:
    """Return text that plotly shows as it is: its labels are a kind of HTML."""
    short = text if length is None or len(text) <= length else text[: length - 1] + "…"
    return escape(short, quote=False)


def hover(trial: Mapping[Any, Any]) -> str:
    """Return what is shown when the pointer rests on a trial."""
    scaled = f" · after scaling {wording.nll(trial['nll_calibrated'])}"
    return "<br>".join(
        (
            f"<b>{wording.name(trial)}</b> · {plain(wording.smoothing(trial))}",
            f"NLL {wording.nll(trial['nll'])}" + (scaled if trial["state"] == "complete" else ""),
            f"accuracy {wording.percent(trial['accuracy'])} · ECE {wording.percent(trial['ece'])}",
        )
    )


class Hovers(NamedTuple):
    """The hover texts of trials, each with its ending; written when they are drawn."""

    rows: pd.DataFrame
    endings: Sequence[str]

    def of(self, places: NDArray[np.intp]) -> list[str]:
        """Return the texts of the trials at these places."""
        rows = self.rows.iloc[places].to_dict("records")
        return [hover(row) + self.endings[at] for row, at in zip(rows, places, strict=True)]


def hovers(rows: pd.DataFrame, endings: str | Sequence[str] = "") -> Hovers:
    """Return the hover text of each trial, with an ending that all share or one for each."""
    return Hovers(rows, [endings] * len(rows) if isinstance(endings, str) else endings)


def label(schedule: str) -> str:
    """Return a schedule's name for a legend."""
    return plain(schedule, LEGEND_LENGTH)


def symbols(values: Floats, limit: float | None, symbol: str) -> list[str]:
    """Return a marker for each value: an arrow where the axis ends before it."""
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
    """Return markers whose hover text is given whole; of very many, those that can be told apart.

    `marker` may have a value for each. What is left out is counted in the trace's `meta`.
    """
    across, up = np.asarray(x, float), np.asarray(y, float)
    kept = scales.told_apart(across, up)
    shown = texts.of(kept) if isinstance(texts, Hovers) else [texts[at] for at in kept]
    own = {name: _some(value, kept, len(across)) for name, value in marker.items()}
    out = {"meta": {"left_out": len(across) - len(kept)}} if len(kept) < len(across) else {}
    where = {"x": across[kept].tolist(), "y": up[kept].tolist(), "text": shown}
    return go.Scatter(**where, mode="markers", marker=own, hovertemplate=_WHOLE, **out, **more)


def left_out(figure: go.Figure) -> int:
    """Return how many markers of a figure are not drawn, as others lie where they would."""
    return sum(trace.meta["left_out"] for trace in figure.data if trace.meta)


def _some(value: Any, kept: NDArray[np.intp], count: int) -> Any:
    """Return what belongs to the markers kept, of a value that each of them has."""
    if isinstance(value, list | np.ndarray) and len(value) == count:
        return [value[at] for at in kept] if isinstance(value, list) else value[kept]
    return value


def entry(name: str, marker: Mapping[str, Any], group: str, **more: Any) -> go.Scatter:
    """Return what only the legend shows: a group's own marker, whatever its first point has."""
    shown = {"marker": marker, "name": name, "legendgroup": group, "hoverinfo": "skip"}
    return go.Scatter(x=[None], y=[None], mode="markers", **shown, **more)


def dashed(y: float, axis: str = "") -> dict[str, Any]:
    """Return the line of the baseline across a plot."""
    line = {"color": INK, "width": 1.5, "dash": "dash"}
    ends = {"x0": 0, "x1": 1, "y0": y, "y1": y, "xref": f"x{axis} domain", "yref": f"y{axis}"}
    return {"type": "line", "line": line, "layer": "below", **ends}


def baseline_name(value: float) -> str:
    """Return the baseline's name for a legend, with its value: words in the plot hide trials."""
    return f"ε = 0: {wording.nll(value)}"


def baseline_marker() -> dict[str, Any]:
    """Return the marker of the baseline: a cross that no schedule has."""
    return {"symbol": "x", "size": 11, "color": INK}


_WHOLE: Final = "%{text}<extra></extra>"


def _words(ink: str, ground: Mapping[str, str]) -> dict[str, Any]:
    return {
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": ink},
        "paper_bgcolor": ground["card"],
        "plot_bgcolor": ground["card"],
        "hoverlabel": {
            "bgcolor": ground["card"],
            "bordercolor": ground["line"],
            "font": {"color": ink, "family": "system-ui, sans-serif"},
            "align": "left",
        },
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 1.02,
            "xanchor": "left",
            "yanchor": "bottom",
            "maxheight": 0.9,
            "bgcolor": "rgba(0,0,0,0)",
        },
    }
