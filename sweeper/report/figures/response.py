"""The metric against epsilon: one marker per trial, one line with a band per schedule."""

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sweeper import formatting as fmt
from sweeper.confirmation.candidate import Candidate
from sweeper.confirmation.evidence import Evidence
from sweeper.confirmation.shortlist import thin_out
from sweeper.confirmation.surrogate import MIN_TRIALS, Surrogate
from sweeper.confirmation.verdict import describe_smoothing
from sweeper.metrics import validation_axis
from sweeper.report.figures.kit import axes, captions, markers, style
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
from sweeper.study.dimensions import Space

MIN_TRIALS_FOR_LINE = 4
_STEPS = 60
_REACH: Final = 1.96
# Enough for a curve; fitting more trials would delay the page.
_MAX_FITTED: Final = 250


class FittedLine(NamedTuple):
    """Mean and 95% interval (M,) of the Gaussian process for a schedule at one annealing rate."""

    schedule: str
    rate: float
    x: Floats
    y: Floats
    low: Floats
    high: Floats


class ReplicateValues(NamedTuple):
    """The validation values (n,) of the replicates of a candidate.

    `searched` is the value of its trial in the search, None if the search did not try it.
    """

    words: str
    epsilon: float
    values: Floats
    searched: float | None = None
    recommended: bool = False

    @property
    def contradicts_search(self) -> bool:
        """Whether the value in the search is outside the range of the replicates."""
        low, high = self.values.min(), self.values.max()
        return self.searched is not None and not low <= self.searched <= high


class Response(NamedTuple):
    """The data of the figure.

    `fitted` is the number of trials that the lines are fitted to, and the number of finished
    trials. `resplit`: each replicate has its own split. `limit` is where the axis is cut, None for
    nowhere.
    """

    metric: Metric
    finished: tuple[Points, ...]
    pruned: tuple[Points, ...]
    lines: tuple[FittedLine, ...]
    fitted: tuple[int, int]
    replicates: tuple[ReplicateValues, ...]
    resplit: bool
    baseline: Points | None
    best: Points | None
    limit: float | None

    @property
    def empty(self) -> bool:
        return self.best is None

    @property
    def values(self) -> Floats:
        """The values of all markers, unclipped."""
        return _concatenate(self.finished, self.pruned, (self.baseline,) if self.baseline else ())


def response_data(
    trials: pd.DataFrame,
    metric: Metric,
    space: Space,
    evidence: Evidence | None = None,
    recommended: Candidate | None = None,
) -> Response:
    """Return trials by schedule, lines of a Gaussian process over them, and the replicates."""
    done = finished_trials(trials)
    base = _single(results.baseline(with_finite_value(trials)), "ε = 0")
    groups = tuple(
        points(name, rows, "epsilon", "value") for name, rows in by_schedule(done).items()
    )
    stopped = _pruned(trials) if metric == "nll" else ()
    limit = axes.upper_limit(
        done["value"].to_numpy(float),
        shown=() if base is None else (float(base.y[0]),),
        beside=_concatenate(stopped),
    )
    fitted = _select_fitted(done, limit)
    return Response(
        metric=metric,
        finished=groups,
        pruned=stopped,
        lines=tuple(_lines(fitted, space)),
        fitted=(len(fitted), len(done)),
        replicates=() if evidence is None else tuple(_replicates(evidence, recommended)),
        resplit=evidence is not None and evidence.settings.resplit,
        baseline=base,
        best=_single(results.best(with_finite_value(trials)), "best"),
        limit=limit,
    )


def response_figure(data: Response) -> go.Figure:
    """Draw bands, lines, trials, replicates, and marks of the lowest and the recommended."""
    styles = style.styles(group.schedule for group in (*data.finished, *data.pruned))
    figure = go.Figure(layout=style.layout(520, _NARROW))
    figure.add_traces([*_band_traces(data, styles), *_line_traces(data, styles)])
    figure.add_traces([*_pruned_traces(data, styles), *_trial_traces(data, styles)])
    figure.add_traces([*_marks(data), *_replicate_traces(data)])
    figure.update_xaxes(title="ε (share taken from the true class)", range=_epsilon_range(data))
    figure.update_yaxes(title=validation_axis(data.metric), range=_range(data))
    if data.baseline is not None and np.isfinite(data.baseline.y[0]):
        figure.update_layout(shapes=[markers.baseline_line(data.baseline.y[0])])
    return figure


def response_notes(data: Response) -> tuple[str, ...]:
    """Return sentences that explain lines, replicates, pruned trials and clipped values."""
    notes = (_line_note(data), _replicates_note(data), _pruned_note(data), _limit_note(data))
    return tuple(filter(None, notes))


_NARROW = {
    "height": 600,
    "xaxis": {"title": {"text": "ε"}},
    "yaxis": {"title": {"text": "NLL (nats)"}},
}


def _single(trial: "pd.Series | None", schedule: str) -> Points | None:
    return None if trial is None else points(schedule, trial.to_frame().T, "epsilon", "value")


def _pruned(trials: pd.DataFrame) -> tuple[Points, ...]:
    groups = by_schedule(pruned_trials(trials)).items()
    ending = "<br>pruned: last reported value"
    return tuple(points(name, rows, "epsilon", "nll", ending) for name, rows in groups)


def _select_fitted(done: pd.DataFrame, limit: float | None) -> pd.DataFrame:
    """Return the finished trials within the axis, ε = 0 included, best first."""
    # Only a trial that was not created by sweeper has an infinite rate; it is outside the space.
    inside = (done["value"] <= (np.inf if limit is None else limit)) & ~np.isinf(done["rate"])
    return thin_out(done.loc[inside].reset_index(drop=True), _MAX_FITTED)


def _lines(rows: pd.DataFrame, space: Space) -> Iterator[FittedLine]:
    if len(rows) < MIN_TRIALS or np.ptp(rows["value"]) == 0:
        return
    process = Surrogate(rows, space, "value")
    for name, group in by_schedule(rows).items():
        if len(group) >= MIN_TRIALS_FOR_LINE and np.ptp(group["epsilon"]) > 0:
            yield _line(process, name, group)


def _line(process: Surrogate, schedule: str, group: pd.DataFrame) -> FittedLine:
    """Return the line of a schedule, at the annealing rate of its best trial, which comes first."""
    x = np.linspace(group["epsilon"].min(), group["epsilon"].max(), _STEPS)
    # The other hyperparameters are those of the best trial too.
    at = pd.DataFrame([group.iloc[0]] * _STEPS).assign(epsilon=x)
    mean, error = process.predict(at)
    low, high = (mean * np.exp(sign * _REACH * error) for sign in (-1, 1))
    return FittedLine(schedule, float(group.iloc[0]["rate"]), x, mean, low, high)


def _replicates(evidence: Evidence, recommended: Candidate | None) -> Iterator[ReplicateValues]:
    for index, candidate in enumerate(evidence.candidates):
        scores = [
            r.scores["valid"].get(evidence.metric)
            for r in evidence.replicates_by_candidate[index].values()
        ]
        values = np.array([value for value in scores if value is not None], dtype=float)
        if values.size:
            yield ReplicateValues(
                words=describe_smoothing(candidate),
                epsilon=float(candidate.point["epsilon"]),
                values=values,
                searched=candidate.searched,
                recommended=candidate == recommended,
            )


def _concatenate(*groups: tuple[Points, ...]) -> Floats:
    return np.concatenate([np.empty(0), *(points.y for group in groups for points in group)])


def _epsilon_range(data: Response) -> tuple[float, float]:
    groups = (*data.finished, *data.pruned)
    return axes.epsilon_range(np.concatenate([np.empty(0), *(group.x for group in groups)]))


def _range(data: Response) -> tuple[float, float]:
    replicates = np.concatenate([np.empty(0), *(r.values for r in data.replicates)])
    return axes.axis_range(np.append(data.values, replicates), data.limit)


def _band_traces(data: Response, styles: dict[str, style.Style]) -> Iterator[go.Scatter]:
    for line in data.lines:
        yield go.Scatter(
            x=np.append(line.x, line.x[::-1]),
            y=axes.clipped(np.append(line.low, line.high[::-1]), data.limit),
            mode="none",
            fill="toself",
            fillcolor=styles[line.schedule].color,
            opacity=0.13,
            legendgroup=line.schedule,
            showlegend=False,
            hoverinfo="skip",
        )


def _trial_traces(data: Response, styles: dict[str, style.Style]) -> Iterator[go.Scatter]:
    for group in data.finished:
        marker = markers.schedule_marker(styles[group.schedule], 9)
        yield markers.clipped_dots(group, data.limit, marker, group.schedule)
        yield markers.legend_entry(style.label(group.schedule), marker, group.schedule)


def _pruned_traces(data: Response, styles: dict[str, style.Style]) -> Iterator[go.Scatter]:
    faint = {"size": 7, "opacity": 0.4}
    finished = {group.schedule for group in data.finished}
    for group in data.pruned:
        chosen = styles[group.schedule]
        marker = {"color": chosen.color, "symbol": chosen.symbol + "-open", **faint}
        yield markers.clipped_dots(group, data.limit, marker, "pruned")
        if group.schedule not in finished:
            yield markers.legend_entry(style.label(group.schedule), marker, "pruned")
    if data.pruned:
        marker = {"color": style.FAINT, "symbol": "circle-open", **faint}
        yield markers.legend_entry("pruned", marker, "pruned", legendrank=2000)


def _line_traces(data: Response, styles: dict[str, style.Style]) -> Iterator[go.Scatter]:
    for line in data.lines:
        chosen = styles[line.schedule]
        line_style = {"color": chosen.color, "width": 2, "dash": chosen.dash}
        y = axes.clipped(line.y, data.limit)
        yield markers.line(line.x, y, line_style, legendgroup=line.schedule)


def _marks(data: Response) -> Iterator[go.Scatter]:
    if data.best is not None:
        ring = markers.ring()
        yield markers.clipped_dots(data.best, data.limit, ring, "best", hoverinfo="skip")
        yield markers.legend_entry("lowest (optimistic)", ring, "best", legendrank=1900)
    if data.baseline is not None:
        marker = markers.baseline_marker()
        yield markers.clipped_dots(data.baseline, data.limit, marker, "baseline")
        yield markers.legend_entry(
            markers.baseline_name(data.baseline.y[0]), marker, "baseline", legendrank=1
        )


def _replicate_traces(data: Response) -> Iterator[go.Scatter]:
    """Draw the mean and range of the replicates of each candidate."""
    marker = {"symbol": "line-ew", "size": 15, "color": style.INK}
    marker["line"] = {"width": 2.5, "color": style.INK}
    for replicate in data.replicates:
        low, mean, high = (
            float(axes.clipped(np.array([value]), data.limit)[0])
            for value in (replicate.values.min(), replicate.values.mean(), replicate.values.max())
        )
        range_bar = {"type": "data", "array": [high - mean], "arrayminus": [mean - low]}
        text = (
            f"<b>{style.plain(replicate.words)}</b><br>replicates, validation: mean "
            f"{fmt.nll(replicate.values.mean())}, {len(replicate.values)} seeds from "
            f"{fmt.nll(replicate.values.min())} to {fmt.nll(replicate.values.max())}"
        )
        error_bar = {**range_bar, "color": style.INK, "thickness": 2, "width": 5}
        group = {"legendgroup": "replicates", "showlegend": False}
        yield markers.dots(
            [replicate.epsilon], [mean], [text], marker=marker, error_y=error_bar, **group
        )
        if replicate.recommended:
            square = markers.recommended()
            yield markers.dots(
                [replicate.epsilon],
                [mean],
                [""],
                marker=square,
                name="recommended",
                hoverinfo="skip",
                legendrank=1,
            )
    if data.replicates:
        yield markers.legend_entry("replicates: mean, range", marker, "replicates", legendrank=1800)


def _line_note(data: Response) -> str:
    if not data.lines:
        return f"No line is drawn: no schedule has {MIN_TRIALS_FOR_LINE} or more finished trials."
    rates = [
        f"{line.schedule} {fmt.two_figures(line.rate)}"
        for line in data.lines
        if np.isfinite(line.rate)
    ]
    rates_text = ", ".join(rates)
    at = f", at the annealing rate of each schedule's best trial ({rates_text})" if rates else ""
    return (
        f"Lines and bands: mean and 95% interval of a Gaussian process fitted to "
        f"{_fitted_count(*data.fitted)}{at}. They are valid if the Gaussian process fits well. "
        f"Single training runs vary more, and all trials share one seed and one split."
    )


def _fitted_count(fitted: int, finished: int) -> str:
    count = f"{fitted:,} of {finished:,}" if fitted < finished else f"the {finished:,}"
    return f"{count} finished trials"


def _replicates_note(data: Response) -> str:
    if not data.replicates:
        return ""
    split = "redrawn validation splits" if data.resplit else "the same validation split"
    note = f"Dash with a bar: mean and range of a candidate over fresh seeds, on {split}."
    outside = [replicate.words for replicate in data.replicates if replicate.contradicts_search]
    if not outside:
        return note
    return (
        f"{note} The search value is outside this range for {'; '.join(outside)}. All trials of "
        "the search share one seed, and the lowest of many values is optimistic."
    )


def _pruned_note(data: Response) -> str:
    count = sum(len(group.x) for group in data.pruned)
    if not count:
        return ""
    return (
        f"Faint: {fmt.count_noun(count, 'pruned trial')}, at the last NLL before pruning; not "
        f"comparable with finished trials."
    )


def _limit_note(data: Response) -> str:
    note = captions.clipped_note(data.values, data.limit)
    return f"{note} The lines exclude them." if note else ""
