"""The effect of epsilon at low and high values of the other hyperparameters."""

import math
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from sweeper import formatting as fmt
from sweeper.metrics import validation_label
from sweeper.report.figures.kit import axes, captions, markers, small_plots, statistics, style
from sweeper.report.report_input import Floats, Metric, finished_trials, with_finite_value
from sweeper.study import results

MIN_TRIALS_FOR_LINE = 4
MIN_NEAR = 2
MAX_CHOICES = 3
# Epsilon up to this share of the largest one counts as almost no smoothing.
NEAR_ZERO = 1 / 20
_STEPS = 60


class Group(NamedTuple):
    """Trials with similar values of one hyperparameter: epsilon and metric (N,), hover texts.

    `line` is the smoothed mean, x and y (M,), NaN where fewer than `MIN_NEAR` trials are near.
    """

    label: str
    x: Floats
    y: Floats
    texts: markers.Hovers
    line: tuple[Floats, Floats] | None


class Facet(NamedTuple):
    """One hyperparameter: the low and the high third of its values, or each of a few choices.

    `left_out` is the number of trials in none of the groups.
    """

    name: str
    groups: tuple[Group, ...]
    left_out: int


class EpsilonSide(NamedTuple):
    """The trials on one side of `near`: their number, and the best one as text and its value."""

    trials: int
    words: str
    value: float


class Interaction(NamedTuple):
    """The data of the figure.

    `near` is the largest epsilon that counts as almost no smoothing. `drawn` is the expected
    minimum of a random sample of the trials above it, with as many trials as there are below.
    `limit` is where the axis is cut, `width` the width of the kernel.
    """

    metric: Metric
    facets: tuple[Facet, ...]
    baseline: float
    near: float
    below: EpsilonSide | None
    above: EpsilonSide | None
    drawn: float
    limit: float | None
    width: float

    @property
    def empty(self) -> bool:
        """Whether no other hyperparameter differs between finished trials."""
        return not self.facets

    @property
    def values(self) -> Floats:
        """The values of all markers, unclipped."""
        values = (group.y for facet in self.facets for group in facet.groups)
        return np.concatenate([np.empty(0), *values])

    @property
    def epsilons(self) -> Floats:
        epsilons = (group.x for facet in self.facets for group in facet.groups)
        return np.concatenate([np.empty(0), *epsilons])


def interaction_data(trials: pd.DataFrame, metric: Metric) -> Interaction:
    """Return the metric by epsilon at low and high values of every other hyperparameter.

    Only finished trials count. `below` and `above` compare the best trial with almost no smoothing
    with the best of the others; their other hyperparameters may differ.
    """
    done = finished_trials(trials)
    base = results.baseline(with_finite_value(trials))
    baseline = math.nan if base is None else float(base["value"])
    values, epsilons = (done[name].to_numpy(float) for name in ("value", "epsilon"))
    near = NEAR_ZERO * float(epsilons.max(initial=0.0))
    limit = axes.small_plot_limit(values, baseline)
    width = statistics.kernel_width(epsilons)
    names = sorted(name for name in done.columns if name.startswith("hp_"))
    facets = (_facet(done, name, width, limit) for name in names)
    below, above = done[epsilons <= near], done[epsilons > near]
    return Interaction(
        metric=metric,
        facets=tuple(facet for facet in facets if len(facet.groups) > 1),
        baseline=baseline,
        near=near,
        below=_side(below, names),
        above=_side(above, names),
        drawn=statistics.best_of(above["value"].to_numpy(float), len(below)),
        limit=limit,
        width=width,
    )


def interaction_figure(data: Interaction) -> go.Figure:
    """Draw one small plot per hyperparameter, all on the same scales."""
    count, titles = len(data.facets), ("ε", "NLL (nats)")
    narrow = {
        "height": small_plots.height(count, 1),
        **small_plots.domains(count, 1, _GAP, titles),
    }
    wide = {"showlegend": False, **small_plots.domains(count, 2, _GAP, titles)}
    figure = go.Figure(layout=style.layout(small_plots.height(count, 2), narrow, **wide))
    for index, facet in enumerate(data.facets):
        axis = small_plots.axis_number(index)
        figure.add_traces(list(_traces(facet, axis, data.limit)))
        for note in small_plots.headings(axis, facet.name, [*_labels(facet)]):
            figure.add_annotation(note)
        if np.isfinite(data.baseline):
            figure.add_shape(markers.baseline_line(data.baseline, axis))
    figure.update_xaxes(range=axes.epsilon_range(data.epsilons))
    figure.update_yaxes(range=axes.axis_range(data.values, data.limit))
    return figure


def interaction_notes(data: Interaction) -> tuple[str, ...]:
    """Return sentences that compare the best trials with and without smoothing."""
    notes = (_sides_note(data), _caution_note(), _line_note(data), _limit_note(data))
    return tuple(filter(None, notes))


# ---- arithmetic --------------------------------------------------------------------------


def _facet(done: pd.DataFrame, name: str, width: float, limit: float | None) -> Facet:
    done = done[done[name].notna()]  # without trials in which it was inactive
    split = dict(_split(done[name]))
    groups = [
        _group(label, done[mask], name, width, limit) for label, mask in split.items() if mask.any()
    ]
    shown = sum(len(group.x) for group in groups)
    return Facet(name.removeprefix("hp_"), tuple(groups), len(done) - shown)


def _split(column: "pd.Series[Any]") -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield a label and a mask for each group of trials, the lowest first."""
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(float)
    if np.isfinite(numbers).all() and len(np.unique(numbers)) > MAX_CHOICES:
        for mask in _thirds(numbers):
            yield f"{fmt.setting(numbers[mask].min())}–{fmt.setting(numbers[mask].max())}", mask
        return
    common = column.value_counts(sort=True).index[:MAX_CHOICES]
    for choice in sorted(common, key=lambda value: (isinstance(value, str), value)):
        yield fmt.setting(choice), (column == choice).to_numpy(bool)


def _thirds(values: Floats) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return masks of the lowest and highest third, or of two parts if most values are equal."""
    lower, upper = np.quantile(values, [1 / 3, 2 / 3])
    if lower < upper:
        return values <= lower, values >= upper
    part = values <= lower if (values > lower).any() else values < lower
    return part, ~part


def _group(label: str, rows: pd.DataFrame, name: str, width: float, limit: float | None) -> Group:
    x, y = rows["epsilon"].to_numpy(float), rows["value"].to_numpy(float)
    texts = markers.hovers(rows, [f"<br>{_setting(name, value, 28)}" for value in rows[name]])
    return Group(label, x, y, texts, _line(x, y, width, limit))


def _line(x: Floats, y: Floats, width: float, limit: float | None) -> tuple[Floats, Floats] | None:
    inside = y <= (np.inf if limit is None else limit)
    x, y = x[inside], y[inside]
    if len(x) < MIN_TRIALS_FOR_LINE or width == 0 or np.ptp(x) == 0:
        return None
    at = np.linspace(x.min(), x.max(), _STEPS)
    mean = statistics.kernel_mean(x, y, at, width)
    # In gaps of the search, the mean would depend on distant trials or on a single one.
    near = (np.abs(at[:, None] - x[None, :]) <= width).sum(axis=1)
    return at, np.where(near < MIN_NEAR, np.nan, mean)


def _side(rows: pd.DataFrame, names: list[str]) -> EpsilonSide | None:
    if rows.empty:
        return None
    best = rows.iloc[0]
    settings = ", ".join(_setting(name, best[name], None) for name in names if pd.notna(best[name]))
    words = "; ".join(filter(None, (fmt.trial_smoothing(best), settings)))
    words = f"{fmt.trial_name(best)}: {words}"
    return EpsilonSide(len(rows), words, float(best["value"]))


def _setting(name: str, value: Any, length: int | None) -> str:
    text = f"{name.removeprefix('hp_')} {fmt.setting(value)}"
    return text if length is None else style.plain(text, length)


# ---- drawing -----------------------------------------------------------------------------

_GAP: Final = 0.09
_SYMBOLS: Final = ("circle", "diamond", "square")  # none resembles the arrow at the edge
_GLYPHS: Final = ("●", "◆", "■")
_DASHES: Final = ("solid", "dash", "dot")
# Positions of the group labels: spread over the width, so that they fit on a phone.
_PLACES: Final = {
    2: ((0, "left"), (1, "right")),
    3: ((0, "left"), (0.5, "center"), (1, "right")),
}
_LABELS: Final = 34  # maximum number of characters in all labels of a plot


def _colors() -> list[str]:
    # Colors of custom schedules: those of built-in schedules have a meaning on the same page.
    custom = style.styles(str(number) for number in range(MAX_CHOICES))
    return [custom[str(number)].color for number in range(MAX_CHOICES)]


def _traces(facet: Facet, axis: str, limit: float | None) -> Iterator[go.Scatter]:
    plot = {"xaxis": f"x{axis}", "yaxis": f"y{axis}"}
    drawn = zip(facet.groups, _colors(), _SYMBOLS, _DASHES, strict=False)
    for group, color, symbol, dash in drawn:
        shapes = markers.symbols(group.y, limit, symbol)
        marker = {"color": color, "size": 7, "opacity": 0.55, "symbol": shapes}
        yield markers.dots(
            group.x, axes.clipped(group.y, limit), group.texts, marker=marker, **plot
        )
        if group.line is not None:
            x, y = group.line
            line = {"color": color, "width": 2.5, "dash": dash}
            yield markers.line(x, y, line, **plot)


def _labels(facet: Facet) -> Iterator[dict[str, Any]]:
    places = _PLACES[len(facet.groups)]
    drawn = zip(facet.groups, places, _colors(), _GLYPHS, strict=False)
    for group, (x, anchor), color, glyph in drawn:
        text = f"{glyph} {style.plain(group.label, _LABELS // len(places))}"
        yield {"text": text, "font": {"color": color, "size": 12}, "x": x, "xanchor": anchor}


# ---- words -------------------------------------------------------------------------------


def _sides_note(data: Interaction) -> str:
    below, above = data.below, data.above
    if below is None or above is None:
        return ""
    drawn = ""
    if below.trials < above.trials:
        count = fmt.count_noun(below.trials, "trial")
        drawn = (
            f" More trials find a lower minimum by chance: the best of {count}, drawn at random "
            f"from those with the larger ε, is {fmt.nll(data.drawn)} on average."
        )
    return (
        f"With almost no smoothing (ε up to {fmt.epsilon(data.near)}: "
        f"{fmt.count_noun(below.trials, 'trial')}) the lowest {validation_label(data.metric)} is "
        f"{fmt.nll(below.value)} ({below.words}). With a larger ε "
        f"({fmt.count_noun(above.trials, 'trial')}) it is {fmt.nll(above.value)} "
        f"({above.words}): {fmt.change(below.value, above.value)}.{drawn}"
    )


def _caution_note() -> str:
    return (
        "This describes the trials of one search and does not estimate an effect: trials with "
        "the same value of one hyperparameter also differ in all others, the search samples good "
        "regions more often, and pruned trials are left out."
    )


def _line_note(data: Interaction) -> str:
    left_out = [facet for facet in data.facets if facet.left_out]
    names = fmt.join_words([facet.name for facet in left_out])
    thirds = f" Not shown: the middle third, or rarer choices, of {names}." if left_out else ""
    return (
        f"Each line is the mean over its trials, smoothed along ε with a Gaussian kernel of width "
        f"{data.width:.2g}. It is drawn where at least {MIN_NEAR} trials are within that "
        f"width.{thirds}"
    )


def _limit_note(data: Interaction) -> str:
    note = captions.clipped_note(data.values, data.limit)
    return f"{note} The lines exclude them." if note else ""
