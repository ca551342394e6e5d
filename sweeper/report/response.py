"""The study's metric against epsilon: a marker a trial, a smoothed line a schedule."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sweeper.report import look, scales, wording
from sweeper.report.inputs import Floats, Metric, by_schedule, finished, pruned, usable
from sweeper.study import results

FEWEST_FOR_A_LINE = 4
_STEPS = 60


class Points(NamedTuple):
    """Trials of one schedule: x (N,), y (N,), and what is shown on hovering."""

    schedule: str
    x: Floats
    y: Floats
    texts: list[str]


class Line(NamedTuple):
    """The smoothed mean of one schedule."""

    schedule: str
    x: Floats
    y: Floats


class Response(NamedTuple):
    """What the figure draws; `limit` is where the axis is cut, `width` the kernel's."""

    metric: Metric
    finished: tuple[Points, ...]
    pruned: tuple[Points, ...]
    lines: tuple[Line, ...]
    baseline: Points | None
    best: Points | None
    limit: float | None
    width: float

    @property
    def empty(self) -> bool:
        """Whether no trial has finished."""
        return self.best is None

    @property
    def values(self) -> Floats:
        """Every value that is drawn as a marker, unclipped."""
        return _joined(self.finished, self.pruned, (self.baseline,) if self.baseline else ())


def response_data(trials: pd.DataFrame, metric: Metric) -> Response:
    """Return the values of the metric by epsilon and schedule, and their smoothed means."""
    done = finished(trials)
    base = _one(results.baseline(usable(trials)), "ε = 0")
    groups = tuple(_points(name, rows, "value") for name, rows in by_schedule(done).items())
    stopped = _pruned(trials) if metric == "nll" else ()
    limit = scales.upper_limit(
        done["value"].to_numpy(float),
        shown=() if base is None else (float(base.y[0]),),
        beside=_joined(stopped),
    )
    width = scales.kernel_width(done["epsilon"].to_numpy(float))
    return Response(
        metric=metric,
        finished=groups,
        pruned=stopped,
        lines=tuple(line for group in groups if (line := _line(group, width, limit))),
        baseline=base,
        best=_one(results.best(usable(trials)), "best"),
        limit=limit,
        width=width,
    )


def response_figure(data: Response) -> go.Figure:
    """Draw the markers, the lines, the baseline across the plot and a ring around the best."""
    styles = look.styles(group.schedule for group in (*data.finished, *data.pruned))
    figure = go.Figure(layout=look.layout(480, _NARROW))
    figure.add_traces([*_pruned_traces(data, styles), *_trial_traces(data, styles)])
    figure.add_traces([*_line_traces(data, styles), *_marks(data)])
    figure.update_xaxes(title="ε (share taken from the true class)", range=_epsilon_range(data))
    figure.update_yaxes(title=wording.METRICS[data.metric] + " (nats)", range=_range(data))
    if data.baseline is not None and np.isfinite(data.baseline.y[0]):
        figure.update_layout(shapes=[look.dashed(data.baseline.y[0])])
    return figure


def response_notes(data: Response) -> tuple[str, ...]:
    """Say how the lines were made, what is faint and what lies beyond the axis."""
    return tuple(filter(None, (_line_note(data), _pruned_note(data), _limit_note(data))))


_NARROW = {"height": 520, "yaxis": {"title": {"text": "NLL (nats)"}}}


def _points(schedule: str, rows: pd.DataFrame, column: str, ending: str = "") -> Points:
    x, y = rows["epsilon"].to_numpy(float), rows[column].to_numpy(float)
    return Points(schedule, x, y, look.hovers(rows.to_dict("records"), ending))


def _one(trial: "pd.Series | None", schedule: str) -> Points | None:
    return None if trial is None else _points(schedule, trial.to_frame().T, "value")


def _pruned(trials: pd.DataFrame) -> tuple[Points, ...]:
    groups = by_schedule(pruned(trials)).items()
    ending = "<br>pruned: last value seen"
    return tuple(_points(name, rows, "nll", ending) for name, rows in groups)


def _line(group: Points, width: float, limit: float | None) -> Line | None:
    inside = np.isfinite(group.y) & (group.y <= (np.inf if limit is None else limit))
    x, y = group.x[inside], group.y[inside]
    if len(x) < FEWEST_FOR_A_LINE or width == 0 or np.ptp(x) == 0:
        return None
    at = np.linspace(x.min(), x.max(), _STEPS)
    return Line(group.schedule, at, scales.kernel_mean(x, y, at, width))


def _joined(*groups: tuple[Points, ...]) -> Floats:
    return np.concatenate([np.empty(0), *(points.y for group in groups for points in group)])


def _epsilon_range(data: Response) -> tuple[float, float]:
    groups = (*data.finished, *data.pruned)
    return scales.epsilon_range(np.concatenate([np.empty(0), *(group.x for group in groups)]))


def _range(data: Response) -> tuple[float, float]:
    return scales.axis_range(data.values, data.limit)


def _trial_traces(data: Response, styles: dict[str, look.Style]) -> Iterator[go.Scatter]:
    for group in data.finished:
        style = styles[group.schedule]
        marker = {"color": style.colour, "size": 9, "symbol": style.symbol}
        yield _markers(group, data.limit, marker, group.schedule)
        yield look.entry(look.label(group.schedule), marker, group.schedule)


def _pruned_traces(data: Response, styles: dict[str, look.Style]) -> Iterator[go.Scatter]:
    faint = {"size": 7, "opacity": 0.4}
    for group in data.pruned:
        style = styles[group.schedule]
        marker = {"color": style.colour, "symbol": style.symbol + "-open", **faint}
        yield _markers(group, data.limit, marker, "pruned")
    if data.pruned:
        marker = {"color": look.FAINT, "symbol": "circle-open", **faint}
        yield look.entry("pruned", marker, "pruned", legendrank=2000)


def _markers(
    points: Points, limit: float | None, marker: dict[str, Any], group: str, **more: Any
) -> go.Scatter:
    drawn = {**marker, "symbol": look.symbols(points.y, limit, marker["symbol"])}
    shown = {"marker": drawn, "legendgroup": group, "showlegend": False, **more}
    return look.dots(points.x, scales.clipped(points.y, limit), points.texts, **shown)


def _line_traces(data: Response, styles: dict[str, look.Style]) -> Iterator[go.Scatter]:
    for line in data.lines:
        style = styles[line.schedule]
        yield go.Scatter(
            x=line.x,
            y=line.y,
            mode="lines",
            line={"color": style.colour, "width": 2, "dash": style.dash},
            legendgroup=line.schedule,
            showlegend=False,
            hoverinfo="skip",
        )


def _marks(data: Response) -> Iterator[go.Scatter]:
    if data.best is not None:
        ring = {"symbol": "circle-open", "size": 19, "color": look.INK, "line": {"width": 2}}
        yield _markers(data.best, data.limit, ring, "best", hoverinfo="skip")
        yield look.entry("best", ring, "best", legendrank=1900)
    if data.baseline is not None:
        marker = look.baseline_marker()
        yield _markers(data.baseline, data.limit, marker, "baseline")
        yield look.entry(look.baseline_name(data.baseline.y[0]), marker, "baseline", legendrank=1)


def _line_note(data: Response) -> str:
    if not data.lines:
        return f"No line is drawn: no schedule has {FEWEST_FOR_A_LINE} finished trials or more."
    return (
        f"Lines: the mean over the trials of a schedule whatever their rates, smoothed along ε "
        f"with a Gaussian kernel of width {data.width:.2g}, where at least {FEWEST_FOR_A_LINE} "
        f"trials have finished. Trials are few and not spread evenly: a line is a guide for the "
        f"eye, not an estimate."
    )


def _pruned_note(data: Response) -> str:
    count = sum(len(group.x) for group in data.pruned)
    if not count:
        return ""
    return (
        f"Faint: {wording.counted(count, 'pruned trial')}, at the last NLL seen before being "
        f"stopped; not comparable with trials that finished."
    )


def _limit_note(data: Response) -> str:
    values = data.values
    if data.limit is None or not (beyond := values[~(values <= data.limit)]).size:
        return ""
    return (
        f"Arrows at the upper edge: {wording.counted(len(beyond), 'trial')} above "
        f"{wording.nll(data.limit)} (up to {wording.nll(float(beyond.max()))}), so that the "
        f"others can be told apart; left out of the lines."
    )
