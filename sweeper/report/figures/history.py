"""Search progress: the value of each trial and the best value so far."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sweeper import formatting as fmt
from sweeper.metrics import validation_axis
from sweeper.report.figures.kit import axes, markers, style
from sweeper.report.figures.kit.markers import Points, points
from sweeper.report.report_input import (
    Floats,
    Metric,
    by_schedule,
    finished_trials,
    pruned_trials,
    with_finite_value,
)
from sweeper.study import results


class History(NamedTuple):
    """Trials by number, and the best value so far (N,) at `number` (N,); schedule "" is ε = 0.

    `limit` is where the axis is cut, None for nowhere.
    """

    metric: Metric
    groups: tuple[Points, ...]
    pruned: Points
    number: Floats
    best: Floats
    baseline: float | None
    limit: float | None

    @property
    def empty(self) -> bool:
        return not self.number.size


def history_data(trials: pd.DataFrame, metric: Metric) -> History:
    """Return the value of each trial in order of trial numbers, and the running minimum."""
    done = finished_trials(trials).sort_values("number")
    base = results.baseline(with_finite_value(trials))
    values = done["value"].to_numpy(float)
    stopped = points(
        "pruned", pruned_trials(trials if metric == "nll" else trials[:0]), "number", "nll"
    )
    groups = {"": done[done["epsilon"] == 0], **by_schedule(done)}
    return History(
        metric=metric,
        groups=tuple(
            points(name, rows, "number", "value") for name, rows in groups.items() if len(rows)
        ),
        pruned=stopped,
        number=done["number"].to_numpy(float),
        best=np.minimum.accumulate(values),
        baseline=None if base is None else float(base["value"]),
        limit=axes.upper_limit(
            values, shown=() if base is None else (float(base["value"]),), beside=stopped.y
        ),
    )


def history_figure(data: History) -> go.Figure:
    """Draw every trial, and the best value so far as a staircase."""
    figure = go.Figure(layout=style.layout(400, {"height": 540}))
    figure.add_traces([*_pruned_traces(data), *_traces(data), _staircase(data)])
    values = np.concatenate([np.empty(0), data.pruned.y, *(group.y for group in data.groups)])
    figure.update_xaxes(title="trial number")
    figure.update_yaxes(
        title=validation_axis(data.metric), range=axes.axis_range(values, data.limit)
    )
    if data.baseline is not None:
        figure.update_layout(shapes=[markers.baseline_line(data.baseline)])
    return figure


def history_notes(data: History) -> tuple[str, ...]:
    """Return sentences about when the best trial was found."""
    if data.empty:
        return ()
    best = int(data.number[int(np.argmin(data.best))])
    later = int((data.number > best).sum())
    since = f"{fmt.count_noun(later, 'later trial')} finished without a lower value"
    notes = [f"Lowest: trial {best}; {since if later else 'no later trial has finished'}."]
    notes += ["Faint: pruned trials, at their last NLL."] if len(data.pruned.x) else []
    return tuple(notes)


def _traces(data: History) -> Iterator[go.Scatter]:
    styles = style.styles(group.schedule for group in data.groups if group.schedule)
    for group in data.groups:
        if group.schedule:
            marker, name = (
                markers.schedule_marker(styles[group.schedule]),
                style.label(group.schedule),
            )
        else:
            marker, name = markers.baseline_marker(), markers.baseline_name(min(group.y))
        yield markers.clipped_dots(group, data.limit, marker, group.schedule)
        yield markers.legend_entry(name, marker, group.schedule)


def _pruned_traces(data: History) -> Iterator[go.Scatter]:
    if not len(data.pruned.x):
        return
    marker = {"color": style.FAINT, "symbol": "circle-open", "size": 7, "opacity": 0.6}
    yield markers.clipped_dots(data.pruned, data.limit, marker, "pruned")
    yield markers.legend_entry("pruned", marker, "pruned", legendrank=2000)


def _staircase(data: History) -> go.Scatter:
    # The corners are enough: where the best value changed, and both ends.
    corner = np.append(True, np.diff(data.best) != 0)
    corner[-1] = True
    line = {"color": style.INK, "width": 2, "shape": "hv"}
    x, y = data.number[corner], data.best[corner]
    return markers.line(x, y, line, name="best so far", showlegend=True)
