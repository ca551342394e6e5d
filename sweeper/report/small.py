"""A few figures small enough to lie in a study's attributes, for optuna-dashboard's page of it.

It cuts them into attributes of two kilobytes and reads all of them again at every look, so they
are few, and without what a pointer would show.
"""

from typing import Any, Final

import numpy as np
import plotly.graph_objects as go

from sweeper.report.figures import draw
from sweeper.report.inputs import ReportInput, prepared

# What optuna-dashboard has no plot of itself.
_TITLES: Final = {
    "forest": "Each candidate against ε = 0, on the test split",
    "trade_off": "NLL, error and calibration of each trial (colour: ECE)",
    "schedules": "The best of each schedule: ε and validation NLL over the training",
}
_LEFT_OUT: Final = ("text", "hovertemplate", "meta")
_DIGITS: Final = 4
_MOST: Final = 200
# Of the frame that it gives a figure, in pixels.
_HEIGHT: Final = 450


def small_figures(report: ReportInput) -> dict[str, go.Figure]:
    """Return these figures by name, without those that there is nothing to draw for."""
    ready = prepared(report)
    drawn = {name: draw(name, ready).figure for name in _TITLES}
    return {
        name: _small(figure, _TITLES[name]) for name, figure in drawn.items() if figure is not None
    }


def _small(figure: go.Figure, title: str) -> go.Figure:
    traces = [_trace(trace.to_plotly_json()) for trace in figure.data]
    layout = figure.layout.to_plotly_json()
    kept = {key: value for key, value in layout.items() if key not in ("template", "meta")}
    edges = {"t": 50, "l": 60, "r": 20, "b": 120}
    shown = {**kept, "title": {"text": title}, "margin": edges, "height": _HEIGHT}
    small = go.Figure(data=traces, layout=_rounded(shown))
    # Its own legend stands above the plot, where the title is; a template has kilobytes.
    legend = {"orientation": "h", "y": -0.22, "yanchor": "top"}
    small.update_layout(legend=legend, template=go.layout.Template())
    return small


def _trace(trace: dict[str, Any]) -> dict[str, Any]:
    count = len(trace["x"]) if trace.get("x") is not None else 0
    kept = {key: value for key, value in trace.items() if key not in _LEFT_OUT}
    if count > _MOST and trace.get("mode") == "markers":
        kept = _every(kept, count, -(-count // _MOST))
    small: dict[str, Any] = _rounded(kept)
    return small


def _every(value: Any, count: int, step: int) -> Any:
    """Return every so-manieth of what the markers have."""
    if isinstance(value, dict):
        return {key: _every(item, count, step) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray) and len(value) == count:
        return value[::step]
    return value


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_rounded(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
