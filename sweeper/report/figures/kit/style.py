"""The style of all figures: one color and marker per schedule, light and dark templates."""

from collections.abc import Iterable, Mapping
from html import escape
from itertools import cycle
from typing import Any, Final, NamedTuple

import plotly.graph_objects as go


class Style(NamedTuple):
    """Color, marker symbol and dash of a schedule, the same in all figures."""

    color: str
    symbol: str
    dash: str


INK: Final = "#1b1f24"
FAINT: Final = "#8a929c"
# Chosen so that any two colors differ by at least 30 (CIE76) in normal, protan and deutan vision.
_STYLES: Final[Mapping[str, Style]] = {
    "fixed": Style("#0036f5", "circle", "solid"),
    "linear": Style("#f57600", "square", "dash"),
    "cosine": Style("#4ca871", "diamond", "dot"),
    "exponential": Style("#8a5381", "triangle-up", "dashdot"),
    "step": Style("#4c3900", "triangle-down", "longdash"),
    "confidence": Style("#009df5", "pentagon", "longdashdot"),
    "error": Style("#52158a", "hexagram", "5px,2px"),
}
# Styles of custom schedules. Their markers differ from those of built-in schedules.
_CUSTOM: Final = (
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
    """Return a style per schedule; built-in schedules look the same in every study."""
    custom = sorted({name for name in schedules if name not in _STYLES})
    return {**_STYLES, **dict(zip(custom, cycle(_CUSTOM), strict=False))}


def dark_colors() -> dict[str, str]:
    """Return the replacement of each color on a dark background."""
    return dict(_DARK)


def template(dark: bool = False) -> dict[str, Any]:
    """Return the plotly template for a light or dark background."""
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
    return {"layout": {**_text_style(ink, ground), "xaxis": axis, "yaxis": axis}}


def layout(height: int, narrow: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """Return a plotly layout; page.js applies `narrow`, stored in `meta`, on narrow screens."""
    shape = {
        "height": height,
        "margin": {"l": 60, "r": 16, "t": 8, "b": 48},
        "template": template(),
        "hovermode": "closest",
        "meta": {"narrow": {"height": height, **(narrow or {})}},
    }
    return {**shape, **more}


def empty() -> go.Figure:
    """Return a figure with the text "No data yet"."""
    note = {"text": "No data yet", "showarrow": False, "font": {"color": FAINT}}
    hidden = {"visible": False}
    return go.Figure(layout=layout(200, annotations=[note], xaxis=hidden, yaxis=hidden))


def plain(text: str, length: int | None = None) -> str:
    """Return text escaped for plotly, whose labels are HTML, and cut to `length` characters."""
    short = text if length is None or len(text) <= length else text[: length - 1] + "…"
    return escape(short, quote=False)


def label(schedule: str) -> str:
    """Return the legend text of a schedule."""
    return plain(schedule, LEGEND_LENGTH)


def _text_style(ink: str, ground: Mapping[str, str]) -> dict[str, Any]:
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
