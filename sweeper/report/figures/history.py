"""How the search went, trial by trial, and the best that it had at each moment."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sweeper.report import wording
from sweeper.report.figures import scales, style
from sweeper.report.figures.response import Points
from sweeper.report.report_input import Floats, Metric, by_schedule, finished, pruned, usable
from sweeper.study import results


class History(NamedTuple):
    """Trials by number, and the best so far (N,) at `number` (N,); schedule "" is ε = 0."""

    metric: Metric
    groups: tuple[Points, ...]
    pruned: Points
    number: Floats
    best: Floats
    baseline: float | None
    limit: float | None

    @property
    def empty(self) -> bool:
        """Whether no trial has finished."""
        return not self.number.size


def history_data(trials: pd.DataFrame, metric: Metric) -> History:
    """Return each trial's value in the order of trial numbers, and the running minimum."""
    done = finished(trials).sort_values("number")
    base = results.baseline(usable(trials))
    values = done["value"].to_numpy(float)
    stopped = _points("pruned", pruned(trials if metric == "nll" else trials[:0]), "nll")
    groups = {"": done[done["epsilon"] == 0], **by_schedule(done)}
    return History(
        metric=metric,
        groups=tuple(_points(*group, "value") for group in groups.items() if len(group[1])),
        pruned=stopped,
        number=done["number"].to_numpy(float),
        best=np.minimum.accumulate(values),
        baseline=None if base is None else float(base["value"]),
        limit=scales.upper_limit(
            values, shown=() if base is None else (float(base["value"]),), beside=stopped.y
        ),
    )


def history_figure(data: History) -> go.Figure:
    """Draw every trial, and the best so far as a staircase."""
    figure = go.Figure(layout=style.layout(400, {"height": 540}))
    figure.add_traces([*_pruned_traces(data), *_traces(data), _staircase(data)])
    values = np.concatenate([np.empty(0), data.pruned.y, *(group.y for group in data.groups)])
    figure.update_xaxes(title="trial number")
    figure.update_yaxes(
        title=wording.METRICS[data.metric] + " (nats)", range=scales.axis_range(values, data.limit)
    )
    if data.baseline is not None:
        figure.update_layout(shapes=[style.dashed(data.baseline)])
    return figure


def history_notes(data: History) -> tuple[str, ...]:
    """Say when the best was found."""
    if data.empty:
        return ()
    found = int(data.number[int(np.argmin(data.best))])
    after = int((data.number > found).sum())
    since = f"the {wording.counted(after, 'trial')} finished since did not beat it"
    notes = [f"The best was trial {found}; {since if after else 'none has finished since'}."]
    notes += ["Faint: pruned trials, at the last NLL seen."] if len(data.pruned.x) else []
    return tuple(notes)


def _points(schedule: str, rows: pd.DataFrame, column: str) -> Points:
    x, y = rows["number"].to_numpy(float), rows[column].to_numpy(float)
    return Points(schedule, x, y, style.hovers(rows))


def _traces(data: History) -> Iterator[go.Scatter]:
    styles = style.styles(group.schedule for group in data.groups if group.schedule)
    for group in data.groups:
        if group.schedule:
            chosen = styles[group.schedule]
            marker = {"color": chosen.colour, "symbol": chosen.symbol, "size": 8}
        else:
            marker = style.baseline_marker()
        yield _markers(group, data.limit, marker, group.schedule)
        yield style.entry(
            style.label(group.schedule) or style.baseline_name(group.y[0]), marker, group.schedule
        )


def _pruned_traces(data: History) -> Iterator[go.Scatter]:
    if not len(data.pruned.x):
        return
    marker = {"color": style.FAINT, "symbol": "circle-open", "size": 7, "opacity": 0.6}
    yield _markers(data.pruned, data.limit, marker, "pruned")
    yield style.entry("pruned", marker, "pruned", legendrank=2000)


def _markers(points: Points, limit: float | None, marker: dict[str, Any], group: str) -> go.Scatter:
    drawn = {**marker, "symbol": style.symbols(points.y, limit, marker["symbol"])}
    y = scales.clipped(points.y, limit)
    shown = {"legendgroup": group, "showlegend": False}
    return style.dots(points.x, y, points.texts, marker=drawn, **shown)


def _staircase(data: History) -> go.Scatter:
    # A stair has corners alone: where the best changed, and both ends.
    corner = np.append(True, np.diff(data.best) != 0)
    corner[-1] = True
    return go.Scatter(
        x=data.number[corner],
        y=data.best[corner],
        mode="lines",
        line={"color": style.INK, "width": 2, "shape": "hv"},
        name="best so far",
        hoverinfo="skip",
    )
