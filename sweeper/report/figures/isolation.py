"""Isolation plots: the best result by epsilon, and where the other hyperparameters are best.

An isolation plot shows the best trial in each bin of one hyperparameter, over all values of the
others. See Godbole et al., "Deep Learning Tuning Playbook" (2023).
"""

import math
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from sweeper import formatting as fmt
from sweeper.confirmation.evidence import Evidence
from sweeper.metrics import METRICS, validation_label
from sweeper.report.figures import optima as hyperparameter
from sweeper.report.figures.kit import axes, markers, small_plots, statistics, style
from sweeper.report.figures.kit.markers import Points, points
from sweeper.report.figures.optima import Optima, Optimum
from sweeper.report.report_input import (
    Floats,
    Metric,
    by_schedule,
    finished_trials,
    finite_rows,
)
from sweeper.study.dimensions import Space

# Lines of schedules: at most so many, over the bins in which a schedule has so many trials.
MAX_LINES: Final = 3
MIN_PER_POINT: Final = 3
# Without a confirmation, trials are almost as good as the best one within this share of the
# difference between the best and the median trial.
TOLERANCE: Final = 0.25


class Bin(NamedTuple):
    """Finished trials with similar epsilon: the smallest and largest one, and the best trial.

    `values` are the metric of its finished trials (N,), best first.
    """

    low: float
    high: float
    values: Floats
    best: Points

    @property
    def trials(self) -> int:
        return len(self.values)

    @property
    def is_baseline(self) -> bool:
        return self.high == 0


class Isolation(NamedTuple):
    """The data of the figure.

    `bins` are ordered by epsilon; epsilon 0 is a bin of its own. `trials` are all finished ones by
    schedule, `lines` the best trials of a schedule in each bin. `tolerance` is the difference to
    the best trial of a bin up to which a trial is almost as good; `from_seeds` says whether it is
    the variation between seeds. Trials above `limit` are not drawn, except the best of a bin; None
    for no limit.
    """

    metric: Metric
    bins: tuple[Bin, ...]
    trials: tuple[Points, ...]
    lines: tuple[Points, ...]
    optima: tuple[Optima, ...]
    tolerance: float
    from_seeds: bool
    limit: float | None
    pruned: int

    @property
    def empty(self) -> bool:
        """Whether no other hyperparameter or no epsilon differs between finished trials."""
        return not self.optima or len(self.bins) < 2

    @property
    def all_optima(self) -> tuple[Optimum, ...]:
        """The optima of all hyperparameters and bins."""
        return tuple(optimum for each in self.optima for optimum in each.optima)

    @property
    def best(self) -> tuple[Points, ...]:
        """The best trials of all bins, for the metric and for each hyperparameter."""
        return tuple(each.best for group in (self.bins, self.all_optima) for each in group)

    @property
    def baseline(self) -> Bin | None:
        return next((each for each in self.bins if each.is_baseline), None)

    @property
    def smoothed(self) -> tuple[Bin, ...]:
        return tuple(each for each in self.bins if not each.is_baseline)


def isolation_data(
    trials: pd.DataFrame, metric: Metric, space: Space, evidence: Evidence | None = None
) -> Isolation:
    """Return the best finished trial in bins of epsilon, and its other hyperparameters.

    Trials without a value of a hyperparameter are left out of its plot: it was inactive.
    """
    done = finite_rows(finished_trials(trials), ["epsilon"])
    masks = statistics.epsilon_bins(done["epsilon"].to_numpy(float))
    rows = [done.loc[mask] for mask in masks]
    bins = tuple(map(_bin, rows))
    values = done["value"].to_numpy(float)
    noise = None if evidence is None else seed_noise(evidence)
    tolerance = _share_of_spread(values) if noise is None else noise
    names = sorted(name for name in done.columns if name.startswith("hp_")) if rows else []
    optima = (
        hyperparameter.optima(rows, name, space.extras.get(name.removeprefix("hp_")), tolerance)
        for name in names
    )
    return Isolation(
        metric=metric,
        bins=bins,
        trials=tuple(points(n, rows, "epsilon", "value") for n, rows in by_schedule(done).items()),
        lines=tuple(_schedule_lines(done, masks)),
        optima=tuple(each for each in optima if each is not None),
        tolerance=tolerance,
        from_seeds=noise is not None,
        limit=_limit(values, bins),
        pruned=int((trials["state"] == "pruned").sum()),
    )


def seed_noise(evidence: Evidence) -> float | None:
    """Return how much a difference between two training runs varies with the seed.

    It is the standard deviation over seeds of the validation score of the pick minus that of ε = 0;
    None if fewer than two seeds have both.
    """
    pairs = [
        [replicate.scores["valid"].get(evidence.metric) for replicate in pair]
        for pair in evidence.pairs(evidence.pick)
    ]
    differences = [a - b for a, b in pairs if a is not None and b is not None]
    noise = float(np.std(differences, ddof=1)) if len(differences) > 1 else math.nan
    return noise if noise > 0 else None


def isolation_figure(data: Isolation) -> go.Figure:
    """Draw the best metric by epsilon, and one small plot per hyperparameter."""
    count = 1 + len(data.optima)
    narrow = {
        "height": small_plots.height(count, 1),
        **small_plots.domains(count, 1, _GAP),
    }
    wide = small_plots.domains(count, 2, _GAP, ("ε (share taken from the true class)", ""))
    figure = go.Figure(layout=style.layout(small_plots.height(count, 2), narrow, **wide))
    styles = style.styles(group.schedule for group in data.trials)
    figure.add_traces([*_value_traces(data, styles)])
    figure.update_layout(yaxis={"range": _value_range(data)})
    headings = [*small_plots.headings("", _value_heading(data.metric))]
    for index, optima in enumerate(data.optima, start=1):
        axis = small_plots.axis_number(index)
        for trace in hyperparameter.traces(optima, styles):
            figure.add_trace(trace.update(xaxis=f"x{axis}", yaxis=f"y{axis}"))
        figure.update_layout({f"yaxis{axis}": hyperparameter.y_axis(optima)})
        headings += small_plots.headings(axis, hyperparameter.heading(optima))
    edges = [line for n in range(count) for line in _edges(data, small_plots.axis_number(n))]
    epsilons = axes.epsilon_range(np.array([each.high for each in data.bins]))
    figure.update_xaxes(range=epsilons, showgrid=False)
    figure.update_layout(annotations=headings, shapes=[*_baseline_line(data), *edges])
    return figure


def isolation_notes(data: Isolation) -> tuple[str, ...]:
    """Return sentences about the best bin, the spread of the optima, and what they do not show."""
    notes = (
        _best_note(data),
        _caution_note(),
        _line_note(data),
        _near_note(data),
        _flat_note(data),
    )
    return tuple(filter(None, (*notes, _inactive_note(data), _hidden_note(data))))


# ---- arithmetic --------------------------------------------------------------------------

# The share of the axis above the best trials of the bins.
_ROOM: Final = 0.6


def _bin(rows: pd.DataFrame) -> Bin:
    low, high = float(rows["epsilon"].min()), float(rows["epsilon"].max())
    ending = f"<br>best of {fmt.count_noun(len(rows), 'finished trial')} with {_span(low, high)}"
    best = rows.iloc[:1]
    schedule = str(best["schedule"].iloc[0]) if high > 0 else ""
    best_point = points(schedule, best, "epsilon", "value", ending)
    return Bin(low, high, rows["value"].to_numpy(float), best_point)


def _share_of_spread(values: Floats) -> float:
    return TOLERANCE * abs(float(np.median(values) - values[0])) if values.size else math.nan


def _schedule_lines(done: pd.DataFrame, masks: list[NDArray[np.bool_]]) -> Iterator[Points]:
    """Yield the best trial in each bin for up to `MAX_LINES` schedules, the largest first."""
    place = pd.Series(np.argmax(masks, axis=0) if masks else [], index=done.index)
    groups = by_schedule(done)
    lines = {}
    for name, rows in groups.items():
        inside = rows.groupby(place)
        enough = inside["value"].transform("size") >= MIN_PER_POINT
        best = rows.loc[enough].groupby(place).head(1)
        if len(best) > 1:
            lines[name] = best.sort_values("epsilon")
    if len(lines) > 1:
        for name in sorted(lines, key=lambda name: -len(groups[name]))[:MAX_LINES]:
            yield points(name, lines[name], "epsilon", "value")


def _limit(values: Floats, bins: tuple[Bin, ...]) -> float | None:
    """Return where the axis of the metric ends, so that the best trials of the bins fill it."""
    best = np.array([float(each.values[0]) for each in bins])
    if not best.size:
        return None
    baseline = next((float(each.values[0]) for each in bins if each.is_baseline), math.nan)
    outlying = axes.small_plot_limit(values, baseline)
    top = float(best.max() if outlying is None else min(best.max(), outlying))
    limit = top + _ROOM * (top - float(best.min()))
    return limit if limit > best.min() and values.max() > limit else None


def _span(low: float, high: float) -> str:
    ends = fmt.epsilon(low), fmt.epsilon(high)
    return f"ε = {ends[0]}" if ends[0] == ends[1] else f"ε from {ends[0]} to {ends[1]}"


# ---- drawing -----------------------------------------------------------------------------

_GAP: Final = 0.12


def _value_heading(metric: Metric) -> str:
    label, unit = METRICS[metric].label, METRICS[metric].unit
    return f"lowest {label}" + (f" ({unit})" if unit else "")


def _value_range(data: Isolation) -> tuple[float, float]:
    values = np.concatenate([each.values for each in data.bins])
    return axes.axis_range(values, data.limit)


def _value_traces(data: Isolation, styles: dict[str, style.Style]) -> Iterator[go.Scatter]:
    for group in data.trials:
        faint = markers.schedule_marker(styles[group.schedule], 5, opacity=0.35)
        yield _inside(group, data.limit, faint)
    for line in data.lines:
        chosen = styles[line.schedule]
        drawn = {"color": chosen.color, "width": 1.5, "dash": chosen.dash}
        yield markers.line(line.x, line.y, drawn, legendgroup=line.schedule)
    yield _segments(data)
    for each in data.bins:
        marker = hyperparameter.best_marker(each.best, styles)
        yield markers.clipped_dots(each.best, data.limit, marker, each.best.schedule)
    yield from _legend(data, styles)


def _inside(group: Points, limit: float | None, marker: dict[str, object]) -> go.Scatter:
    shown = _shown(group, limit)
    texts = markers.hovers(group.texts.rows.iloc[shown])
    hidden = {"legendgroup": group.schedule, "showlegend": False}
    return markers.dots(group.x[shown], group.y[shown], texts, marker=marker, **hidden)


def _shown(group: Points, limit: float | None) -> NDArray[np.intp]:
    return np.flatnonzero(group.y <= (np.inf if limit is None else limit))


def _segments(data: Isolation) -> go.Scatter:
    """Return one horizontal line per bin, from its smallest to its largest epsilon."""
    x = [value for each in data.smoothed for value in (each.low, each.high, math.nan)]
    best = axes.clipped(np.array([float(each.values[0]) for each in data.smoothed]), data.limit)
    y = [value for top in best for value in (top, top, math.nan)]
    return markers.line(np.array(x), np.array(y), {"color": style.INK, "width": 2})


def _legend(data: Isolation, styles: dict[str, style.Style]) -> Iterator[go.Scatter]:
    best = {best.schedule for best in data.best}
    for group in data.trials:
        if group.schedule not in best and not _shown(group, data.limit).size:
            continue
        marker = markers.schedule_marker(styles[group.schedule], 10)
        yield markers.legend_entry(style.label(group.schedule), marker, group.schedule)
    if data.baseline is not None:
        name = markers.baseline_name(float(data.baseline.values[0]))
        yield markers.legend_entry(name, markers.baseline_marker(), "")
    near, other = hyperparameter.NEAR, hyperparameter.OTHER
    yield markers.legend_entry("almost as good", near, "near", legendrank=1900)
    yield markers.legend_entry("other trials", other, "others", legendrank=2000)


def _baseline_line(data: Isolation) -> Iterator[dict[str, object]]:
    if data.baseline is not None:
        yield markers.baseline_line(float(data.baseline.values[0]))


def _edges(data: Isolation, axis: str) -> Iterator[dict[str, object]]:
    """Yield thin vertical lines between the bins."""
    for left, right in zip(data.bins, data.bins[1:], strict=False):
        x = (left.high + right.low) / 2
        ends = {"x0": x, "x1": x, "y0": 0, "y1": 1, "xref": f"x{axis}", "yref": f"y{axis} domain"}
        line = {"color": style.FAINT, "width": 0.5, "dash": "dot"}
        yield {"type": "line", "line": line, "layer": "below", **ends}


# ---- words -------------------------------------------------------------------------------


def _best_note(data: Isolation) -> str:
    base, smoothed = data.baseline, data.smoothed
    name, write = validation_label(data.metric), METRICS[data.metric].write
    top = min(smoothed, key=lambda each: float(each.values[0]))
    values = np.concatenate([each.values for each in smoothed])
    note = (
        f"With ε > 0, the lowest {name} is {write(float(top.values[0]))} "
        f"({_best_of(top, len(values))}), in the bin with {_span(top.low, top.high)}."
    )
    if base is None:
        return f"{note} No trial with ε = 0 has finished."
    note += f" With ε = 0 it is {write(float(base.values[0]))} ({_best_of(base, base.trials)})."
    if base.trials >= len(values):
        return note
    drawn = write(statistics.best_of(values, base.trials))
    return (
        f"{note} More trials find a lower minimum by chance: the best of "
        f"{fmt.count_noun(base.trials, 'trial')}, drawn at random from those with ε > 0, is "
        f"{drawn} on average."
    )


def _best_of(each: Bin, trials: int) -> str:
    name = fmt.trial_name(each.best.texts.rows.iloc[0])
    return f"{name}, the best of {trials:,}" if trials > 1 else f"{name}, the only one"


def _caution_note() -> str:
    return (
        "Each large marker is a single training run that was selected as the best of its bin, so "
        "its value is optimistic. A difference between bins may be due to chance; only the "
        "confirmation estimates the effect of ε."
    )


def _line_note(data: Isolation) -> str:
    if not data.lines:
        return ""
    names = fmt.join_words([line.schedule for line in data.lines])
    return (
        f"Lines in the first plot connect the best trials of one schedule ({names}), in bins in "
        f"which it has at least {MIN_PER_POINT} trials."
    )


def _near_note(data: Isolation) -> str:
    counts = [len(optimum.near) for optimum in data.all_optima]
    alone = sum(count == 1 for count in counts)
    reason = (
        "the standard deviation over seeds of the difference between the pick and ε = 0"
        if data.from_seeds
        else f"{TOLERANCE:.0%} of the difference between the best and the median trial"
    )
    note = (
        f"Almost as good: at most {METRICS[data.metric].write(data.tolerance)} from the best trial "
        f"of the bin. This is {reason}."
    )
    if not alone:
        return note
    return (
        f"{note} In {alone} of {len(counts)} cases no other trial of the bin is almost as good; "
        "such a marker does not show how wide the optimum is."
    )


def _flat_note(data: Isolation) -> str:
    flat = [each.name for each in data.optima if each.flat]
    if not flat:
        return ""
    return (
        f"For {fmt.join_words(flat)}, trials that are almost as good cover at least half of the "
        "searched values in most bins: there, the position of the marker means little."
    )


def _inactive_note(data: Isolation) -> str:
    counts = [f"{each.name} ({each.inactive:,})" for each in data.optima if each.inactive]
    if not counts:
        return ""
    return (
        "Finished trials without a value of a hyperparameter are left out of its plot: "
        f"{fmt.join_words(counts)}."
    )


def _hidden_note(data: Isolation) -> str:
    """Return a sentence that counts the trials that are not drawn; "" for none."""
    values = np.concatenate([each.values for each in data.bins])
    best = np.array([float(each.values[0]) for each in data.bins])
    above, arrows = (
        0 if data.limit is None else int((numbers > data.limit).sum()) for numbers in (values, best)
    )
    pruned = fmt.count_noun(data.pruned, "pruned trial") if data.pruned else ""
    worse = ""
    if above > arrows and data.limit is not None:
        limit = METRICS[data.metric].write(data.limit)
        worse = f"{fmt.count_noun(above - arrows, 'trial')} above {limit} in the first plot"
    if not pruned and not worse:
        return ""
    return f"Not drawn: {fmt.join_words([each for each in (worse, pruned) if each])}."
