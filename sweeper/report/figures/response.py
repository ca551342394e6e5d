"""The study's metric against epsilon: a marker a trial, a line with a band a schedule."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sweeper.confirmation.evidence import Evidence
from sweeper.confirmation.shortlist import fewer
from sweeper.confirmation.surrogate import FEWEST, Smoothed
from sweeper.confirmation.verdict import describe
from sweeper.report import wording
from sweeper.report.figures import scales, style
from sweeper.report.report_input import Floats, Metric, by_schedule, finished, pruned, usable
from sweeper.study import results
from sweeper.study.spec import Space

FEWEST_FOR_A_LINE = 4
_STEPS = 60
_REACH: Final = 1.96
# Enough for a curve; a page is not to wait for more.
_MOST_FITTED: Final = 250


class Points(NamedTuple):
    """Trials of one schedule: x (N,), y (N,), and what is shown on hovering."""

    schedule: str
    x: Floats
    y: Floats
    texts: style.Hovers


class Line(NamedTuple):
    """What the process over all trials expects of one schedule, (M,) each, at the one `rate`."""

    schedule: str
    rate: float
    x: Floats
    y: Floats
    low: Floats
    high: Floats


class Again(NamedTuple):
    """The validation values (n,) of a candidate's replicates."""

    words: str
    epsilon: float
    values: Floats


class Response(NamedTuple):
    """What the figure draws; `limit` is where the axis is cut, `redrawn` whether splits are.

    `fitted` says how many trials of how many the lines are made from.
    """

    metric: Metric
    finished: tuple[Points, ...]
    pruned: tuple[Points, ...]
    lines: tuple[Line, ...]
    fitted: tuple[int, int]
    again: tuple[Again, ...]
    redrawn: bool
    baseline: Points | None
    best: Points | None
    limit: float | None

    @property
    def empty(self) -> bool:
        """Whether no trial has finished."""
        return self.best is None

    @property
    def values(self) -> Floats:
        """Every trial's value that is drawn, unclipped."""
        return _joined(self.finished, self.pruned, (self.baseline,) if self.baseline else ())


def response_data(
    trials: pd.DataFrame, metric: Metric, space: Space, evidence: Evidence | None = None
) -> Response:
    """Return the metric by epsilon and schedule, what a process over it expects, and replicates."""
    done = finished(trials)
    base = _one(results.baseline(usable(trials)), "ε = 0")
    groups = tuple(_points(name, rows, "value") for name, rows in by_schedule(done).items())
    stopped = _pruned(trials) if metric == "nll" else ()
    limit = scales.upper_limit(
        done["value"].to_numpy(float),
        shown=() if base is None else (float(base.y[0]),),
        beside=_joined(stopped),
    )
    fitted = _fitted(done, limit)
    return Response(
        metric=metric,
        finished=groups,
        pruned=stopped,
        lines=tuple(_lines(fitted, space)),
        fitted=(len(fitted), len(done)),
        again=() if evidence is None else tuple(_again(evidence)),
        redrawn=evidence is not None and evidence.settings.resplit,
        baseline=base,
        best=_one(results.best(usable(trials)), "best"),
        limit=limit,
    )


def response_figure(data: Response) -> go.Figure:
    """Draw bands, lines, markers, the baseline across the plot, a ring and the replicates."""
    styles = style.styles(group.schedule for group in (*data.finished, *data.pruned))
    figure = go.Figure(layout=style.layout(520, _NARROW))
    figure.add_traces([*_band_traces(data, styles), *_line_traces(data, styles)])
    figure.add_traces([*_pruned_traces(data, styles), *_trial_traces(data, styles)])
    figure.add_traces([*_marks(data), *_again_traces(data)])
    figure.update_xaxes(title="ε (share taken from the true class)", range=_epsilon_range(data))
    figure.update_yaxes(title=wording.METRICS[data.metric] + " (nats)", range=_range(data))
    if data.baseline is not None and np.isfinite(data.baseline.y[0]):
        figure.update_layout(shapes=[style.dashed(data.baseline.y[0])])
    return figure


def response_notes(data: Response) -> tuple[str, ...]:
    """Say what line and band are, what was trained again, what is faint or beyond the axis."""
    notes = (_line_note(data), _again_note(data), _pruned_note(data), _limit_note(data))
    return tuple(filter(None, notes))


_NARROW = {
    "height": 600,
    "xaxis": {"title": {"text": "ε"}},
    "yaxis": {"title": {"text": "NLL (nats)"}},
}


def _points(schedule: str, rows: pd.DataFrame, column: str, ending: str = "") -> Points:
    x, y = rows["epsilon"].to_numpy(float), rows[column].to_numpy(float)
    return Points(schedule, x, y, style.hovers(rows, ending))


def _one(trial: "pd.Series | None", schedule: str) -> Points | None:
    return None if trial is None else _points(schedule, trial.to_frame().T, "value")


def _pruned(trials: pd.DataFrame) -> tuple[Points, ...]:
    groups = by_schedule(pruned(trials)).items()
    ending = "<br>pruned: last value seen"
    return tuple(_points(name, rows, "nll", ending) for name, rows in groups)


def _fitted(done: pd.DataFrame, limit: float | None) -> pd.DataFrame:
    """Return the finished trials, ε = 0 too, that the axis holds, best first."""
    # An infinite rate is a foreign trial's, and fits no space.
    known = (done["value"] <= (np.inf if limit is None else limit)) & ~np.isinf(done["rate"])
    return fewer(done.loc[known].reset_index(drop=True), _MOST_FITTED)


def _lines(rows: pd.DataFrame, space: Space) -> Iterator[Line]:
    if len(rows) < FEWEST or np.ptp(rows["value"]) == 0:
        return
    process = Smoothed(rows, space, "value")
    for name, group in by_schedule(rows).items():
        if len(group) >= FEWEST_FOR_A_LINE and np.ptp(group["epsilon"]) > 0:
            yield _line(process, name, group)


def _line(process: Smoothed, schedule: str, group: pd.DataFrame) -> Line:
    """Return the line of a schedule's trials, best first, at the rate of the best of them."""
    x = np.linspace(group["epsilon"].min(), group["epsilon"].max(), _STEPS)
    # With the best trial's other hyperparameters as well.
    at = pd.DataFrame([group.iloc[0]] * _STEPS).assign(epsilon=x)
    mean, error = process.at(at)
    low, high = (mean * np.exp(sign * _REACH * error) for sign in (-1, 1))
    return Line(schedule, float(group.iloc[0]["rate"]), x, mean, low, high)


def _again(evidence: Evidence) -> Iterator[Again]:
    for index, candidate in enumerate(evidence.candidates):
        found = [r.scores["valid"].get(evidence.metric) for r in evidence.done[index].values()]
        values = np.array([value for value in found if value is not None], dtype=float)
        if values.size:
            yield Again(describe(candidate), float(candidate.point["epsilon"]), values)


def _joined(*groups: tuple[Points, ...]) -> Floats:
    return np.concatenate([np.empty(0), *(points.y for group in groups for points in group)])


def _epsilon_range(data: Response) -> tuple[float, float]:
    groups = (*data.finished, *data.pruned)
    return scales.epsilon_range(np.concatenate([np.empty(0), *(group.x for group in groups)]))


def _range(data: Response) -> tuple[float, float]:
    again = np.concatenate([np.empty(0), *(one.values for one in data.again)])
    return scales.axis_range(np.append(data.values, again), data.limit)


def _band_traces(data: Response, styles: dict[str, style.Style]) -> Iterator[go.Scatter]:
    for line in data.lines:
        yield go.Scatter(
            x=np.append(line.x, line.x[::-1]),
            y=scales.clipped(np.append(line.low, line.high[::-1]), data.limit),
            mode="none",
            fill="toself",
            fillcolor=styles[line.schedule].colour,
            opacity=0.13,
            legendgroup=line.schedule,
            showlegend=False,
            hoverinfo="skip",
        )


def _trial_traces(data: Response, styles: dict[str, style.Style]) -> Iterator[go.Scatter]:
    for group in data.finished:
        chosen = styles[group.schedule]
        marker = {"color": chosen.colour, "size": 9, "symbol": chosen.symbol}
        yield _markers(group, data.limit, marker, group.schedule)
        yield style.entry(style.label(group.schedule), marker, group.schedule)


def _pruned_traces(data: Response, styles: dict[str, style.Style]) -> Iterator[go.Scatter]:
    faint = {"size": 7, "opacity": 0.4}
    for group in data.pruned:
        chosen = styles[group.schedule]
        marker = {"color": chosen.colour, "symbol": chosen.symbol + "-open", **faint}
        yield _markers(group, data.limit, marker, "pruned")
    if data.pruned:
        marker = {"color": style.FAINT, "symbol": "circle-open", **faint}
        yield style.entry("pruned", marker, "pruned", legendrank=2000)


def _markers(
    points: Points, limit: float | None, marker: dict[str, Any], group: str, **more: Any
) -> go.Scatter:
    drawn = {**marker, "symbol": style.symbols(points.y, limit, marker["symbol"])}
    shown = {"legendgroup": group, "showlegend": False, **more}
    y = scales.clipped(points.y, limit)
    return style.dots(points.x, y, points.texts, marker=drawn, **shown)


def _line_traces(data: Response, styles: dict[str, style.Style]) -> Iterator[go.Scatter]:
    for line in data.lines:
        chosen = styles[line.schedule]
        yield go.Scatter(
            x=line.x,
            y=scales.clipped(line.y, data.limit),
            mode="lines",
            line={"color": chosen.colour, "width": 2, "dash": chosen.dash},
            legendgroup=line.schedule,
            showlegend=False,
            hoverinfo="skip",
        )


def _marks(data: Response) -> Iterator[go.Scatter]:
    if data.best is not None:
        ring = {"symbol": "circle-open", "size": 19, "color": style.INK, "line": {"width": 2}}
        yield _markers(data.best, data.limit, ring, "best", hoverinfo="skip")
        yield style.entry("lowest", ring, "best", legendrank=1900)
    if data.baseline is not None:
        marker = style.baseline_marker()
        yield _markers(data.baseline, data.limit, marker, "baseline")
        yield style.entry(style.baseline_name(data.baseline.y[0]), marker, "baseline", legendrank=1)


def _again_traces(data: Response) -> Iterator[go.Scatter]:
    """Draw mean and range of each candidate's replicates, unlike anything of the search."""
    marker = {"symbol": "line-ew", "size": 15, "color": style.INK}
    marker["line"] = {"width": 2.5, "color": style.INK}
    for one in data.again:
        low, mean, high = (
            float(scales.clipped(np.array([value]), data.limit)[0])
            for value in (one.values.min(), one.values.mean(), one.values.max())
        )
        range_bar = {"type": "data", "array": [high - mean], "arrayminus": [mean - low]}
        text = (
            f"<b>{style.plain(one.words)}</b><br>replicates, validation: mean "
            f"{wording.nll(one.values.mean())}, {len(one.values)} seeds from "
            f"{wording.nll(one.values.min())} to {wording.nll(one.values.max())}"
        )
        drawn = {**range_bar, "color": style.INK, "thickness": 2, "width": 5}
        group = {"legendgroup": "again", "showlegend": False}
        yield style.dots([one.epsilon], [mean], [text], marker=marker, error_y=drawn, **group)
    if data.again:
        yield style.entry("replicates: mean, range", marker, "again", legendrank=1800)


def _line_note(data: Response) -> str:
    if not data.lines:
        return f"No line is drawn: no schedule has {FEWEST_FOR_A_LINE} finished trials or more."
    rates = [
        f"{line.schedule} {wording.figure(line.rate)}"
        for line in data.lines
        if np.isfinite(line.rate)
    ]
    drawn = f", at the rate of the schedule's best trial ({', '.join(rates)})" if rates else ""
    return (
        f"Lines and bands: the mean that a Gaussian process over {_of(*data.fitted)} expects, with "
        f"its 95 % interval{drawn}. As far as the process is right: single trainings scatter more, "
        f"and all of these are from one seed and one split."
    )


def _of(fitted: int, finished: int) -> str:
    some = f"{fitted:,} of {finished:,}" if fitted < finished else f"the {finished:,}"
    return f"{some} finished trials"


def _again_note(data: Response) -> str:
    if not data.again:
        return ""
    split = "splits of their own" if data.redrawn else "the same validation split"
    return (
        f"Dash with a bar: mean and range of a candidate's fresh seeds on {split}. The search's "
        "marker of a candidate is lucky by as much as it lies below."
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
