"""Epsilon beside the other hyperparameters: does it still help where they are tuned as well."""

import math
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from sweeper.report import wording
from sweeper.report.figures import scales, style
from sweeper.report.report_input import Floats, Metric, finished, usable
from sweeper.study import results

FEWEST_FOR_A_LINE = 4
FEWEST_NEAR = 2
MOST_CHOICES = 3
# Of the largest epsilon tried: what still counts as none.
NEAR_ZERO = 1 / 20
# Tukey's far fence, and the share of the axis that is left above it.
_FENCE, _ROOM = 3.0, 0.1
_STEPS = 60


class Group(NamedTuple):
    """Trials with similar values of one hyperparameter: epsilon and metric (N,), hover texts.

    `line` is the smoothed mean, x and y (M,), NaN where hardly a trial is near.
    """

    label: str
    x: Floats
    y: Floats
    texts: style.Hovers
    line: tuple[Floats, Floats] | None


class Facet(NamedTuple):
    """One hyperparameter: the low and the high third of its values, or each of a few choices."""

    name: str
    groups: tuple[Group, ...]
    left_out: int


class Side(NamedTuple):
    """The trials on one side of `near`: how many, and the best in words and in value."""

    trials: int
    words: str
    value: float


class Interaction(NamedTuple):
    """What the figure draws.

    `near` is the largest epsilon that counts as none; `drawn` the mean of the best of as many
    trials, drawn at random from those above it, as there are below. `limit` is where the axis is
    cut, `width` the kernel's.
    """

    metric: Metric
    facets: tuple[Facet, ...]
    baseline: float
    near: float
    below: Side | None
    above: Side | None
    drawn: float
    limit: float | None
    width: float

    @property
    def empty(self) -> bool:
        """Whether no hyperparameter beside smoothing has differed between finished trials."""
        return not self.facets

    @property
    def values(self) -> Floats:
        """Every value that is drawn as a marker, unclipped."""
        drawn = (group.y for facet in self.facets for group in facet.groups)
        return np.concatenate([np.empty(0), *drawn])

    @property
    def epsilons(self) -> Floats:
        """Every epsilon that is drawn."""
        drawn = (group.x for facet in self.facets for group in facet.groups)
        return np.concatenate([np.empty(0), *drawn])


def interaction_data(trials: pd.DataFrame, metric: Metric) -> Interaction:
    """Return the metric by epsilon at low and high values of every other hyperparameter.

    Finished trials alone. The two sides compare the best trial with next to no smoothing with
    the best of the rest, each at whatever settings of the other hyperparameters it had.
    """
    done = finished(trials)
    base = results.baseline(usable(trials))
    baseline = math.nan if base is None else float(base["value"])
    values, epsilons = (done[name].to_numpy(float) for name in ("value", "epsilon"))
    near = NEAR_ZERO * float(epsilons.max(initial=0.0))
    limit = _limit(values, baseline)
    width = scales.kernel_width(epsilons)
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
        drawn=best_of(above["value"].to_numpy(float), len(below)),
        limit=limit,
        width=width,
    )


def best_of(values: Floats, count: int) -> float:
    """Return the mean of the lowest of `count` values, over all ways to draw so many of them.

    NaN where there are fewer, or none is drawn.
    """
    left = len(values)
    if not 0 < count <= left:
        return math.nan
    mean, chance = 0.0, 1.0
    for value in np.sort(values):
        # `chance`: that no lower one is drawn; then this one is, among those that are left
        mean += chance * count / left * float(value)
        chance *= 1 - count / left
        left -= 1
        if chance <= 0:
            break
    return mean


def interaction_figure(data: Interaction) -> go.Figure:
    """Draw a small plot for each hyperparameter, all on the same scales."""
    count = len(data.facets)
    narrow = {"height": _height(count, 1), **_domains(data, 1)}
    wide = {"showlegend": False, **_domains(data, 2)}
    figure = go.Figure(layout=style.layout(_height(count, 2), narrow, **wide))
    for number, facet in enumerate(data.facets, start=1):
        axis = _axis(number)
        figure.add_traces(list(_traces(facet, axis, data.limit)))
        for note in _headings(facet, axis):
            figure.add_annotation(note)
        if np.isfinite(data.baseline):
            figure.add_shape(style.dashed(data.baseline, axis))
    figure.update_xaxes(range=scales.epsilon_range(data.epsilons))
    figure.update_yaxes(range=scales.axis_range(data.values, data.limit))
    return figure


def interaction_notes(data: Interaction) -> tuple[str, ...]:
    """Compare the best with and without smoothing, and say what that is worth."""
    notes = (_sides_note(data), _worth_note(), _line_note(data), _limit_note(data))
    return tuple(filter(None, notes))


# ---- arithmetic --------------------------------------------------------------------------


def _limit(values: Floats, baseline: float) -> float | None:
    """Return where the axis ends; None: nothing needs to be cut.

    Nearer than elsewhere on the page: a small plot has no room for trials that are far worse than
    the baseline.
    """
    if not values.size or not np.isfinite(baseline):
        return scales.upper_limit(values)
    lower, upper = np.quantile(values, [0.25, 0.75])
    fence = float(max(upper + _FENCE * (upper - lower), baseline))
    limit = fence + _ROOM * (fence - float(values.min()))
    return limit if values.max() > limit else None


def _facet(done: pd.DataFrame, name: str, width: float, limit: float | None) -> Facet:
    split = dict(_split(done[name]))
    groups = [
        _group(label, done[mask], name, width, limit) for label, mask in split.items() if mask.any()
    ]
    shown = sum(len(group.x) for group in groups)
    return Facet(name.removeprefix("hp_"), tuple(groups), len(done) - shown)


def _split(column: "pd.Series[Any]") -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield a label and a mask for each group of trials, the lowest first."""
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(float)
    if np.isfinite(numbers).all() and len(np.unique(numbers)) > MOST_CHOICES:
        for mask in _thirds(numbers):
            yield f"{_spoken(numbers[mask].min())}–{_spoken(numbers[mask].max())}", mask
        return
    common = column.value_counts(sort=True).index[:MOST_CHOICES]
    for choice in sorted(common, key=lambda value: (isinstance(value, str), value)):
        yield _spoken(choice), (column == choice).to_numpy(bool)


def _thirds(values: Floats) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return masks of the lowest and the highest third; where most are equal, of two parts."""
    lower, upper = np.quantile(values, [1 / 3, 2 / 3])
    if lower < upper:
        return values <= lower, values >= upper
    part = values <= lower if (values > lower).any() else values < lower
    return part, ~part


def _group(label: str, rows: pd.DataFrame, name: str, width: float, limit: float | None) -> Group:
    x, y = rows["epsilon"].to_numpy(float), rows["value"].to_numpy(float)
    texts = style.hovers(rows, [f"<br>{_setting(name, value, 28)}" for value in rows[name]])
    return Group(label, x, y, texts, _line(x, y, width, limit))


def _line(x: Floats, y: Floats, width: float, limit: float | None) -> tuple[Floats, Floats] | None:
    inside = y <= (np.inf if limit is None else limit)
    x, y = x[inside], y[inside]
    if len(x) < FEWEST_FOR_A_LINE or width == 0 or np.ptp(x) == 0:
        return None
    at = np.linspace(x.min(), x.max(), _STEPS)
    mean = scales.kernel_mean(x, y, at, width)
    # A search leaves gaps: a line there would be made of trials far away, or of one alone.
    near = (np.abs(at[:, None] - x[None, :]) <= width).sum(axis=1)
    return at, np.where(near < FEWEST_NEAR, np.nan, mean)


def _side(rows: pd.DataFrame, names: list[str]) -> Side | None:
    if rows.empty:
        return None
    best = rows.iloc[0]
    rest = ", ".join(_setting(name, best[name], None) for name in names)
    words = f"{wording.name(best)}: {wording.smoothing(best)}; {rest}"
    return Side(len(rows), words, float(best["value"]))


def _setting(name: str, value: Any, length: int | None) -> str:
    spoken = f"{name.removeprefix('hp_')} {_spoken(value)}"
    return spoken if length is None else style.plain(spoken, length)


def _spoken(value: Any) -> str:
    if isinstance(value, str | bool | np.bool_):
        return str(value)
    number = float(value)
    return f"{number:.0f}" if number.is_integer() and abs(number) < 1e6 else wording.figure(number)


# ---- drawing -----------------------------------------------------------------------------

# Pixels: from one row of plots to the next, and what its heading and its axis take of that.
_PITCH, _HEAD, _FOOT = 290, 56, 40
_EDGES: Final = 8 + 48
_GAP: Final = 0.09
_SYMBOLS: Final = ("circle", "diamond", "square")  # none that is like the arrow at the edge
_GLYPHS: Final = ("●", "◆", "■")
_DASHES: Final = ("solid", "dash", "dot")
# Where the groups of a plot are named: from edge to edge, so that a phone's width holds them.
_PLACES: Final = {
    2: ((0, "left"), (1, "right")),
    3: ((0, "left"), (0.5, "center"), (1, "right")),
}
_LABELS: Final = 34  # letters of all of them together


def _axis(number: int) -> str:
    return "" if number == 1 else str(number)


def _height(count: int, columns: int) -> int:
    return _PITCH * math.ceil(count / columns) + _EDGES


def _domains(data: Interaction, columns: int) -> dict[str, Any]:
    """Return where each plot stands, row by row, with titles at the left and at the bottom."""
    axes = {}
    count = len(data.facets)
    area = _PITCH * math.ceil(count / columns)
    width = (1 - _GAP * (columns - 1)) / columns
    for index in range(count):
        row, column = divmod(index, columns)
        left, top = column * (width + _GAP), row * _PITCH
        axis = _axis(index + 1)
        axes[f"xaxis{axis}"] = {
            "domain": [left, left + width],
            "anchor": f"y{axis}",
            "title": {"text": "ε" if index + columns >= count else ""},
        }
        axes[f"yaxis{axis}"] = {
            "domain": [1 - (top + _PITCH - _FOOT) / area, 1 - (top + _HEAD) / area],
            "anchor": f"x{axis}",
            "title": {"text": "" if column else "NLL (nats)"},
        }
    return axes


def _colours() -> list[str]:
    # Those of a study's own schedules: the ready ones mean a schedule on the same page.
    own = style.styles(str(number) for number in range(MOST_CHOICES))
    return [own[str(number)].colour for number in range(MOST_CHOICES)]


def _traces(facet: Facet, axis: str, limit: float | None) -> Iterator[go.Scatter]:
    on = {"xaxis": f"x{axis}", "yaxis": f"y{axis}"}
    drawn = zip(facet.groups, _colours(), _SYMBOLS, _DASHES, strict=False)
    for group, colour, symbol, dash in drawn:
        shapes = style.symbols(group.y, limit, symbol)
        marker = {"color": colour, "size": 7, "opacity": 0.55, "symbol": shapes}
        yield style.dots(group.x, scales.clipped(group.y, limit), group.texts, marker=marker, **on)
        if group.line is not None:
            x, y = group.line
            line = {"color": colour, "width": 2.5, "dash": dash}
            yield go.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", **on)


def _headings(facet: Facet, axis: str) -> Iterator[dict[str, Any]]:
    place = {
        "xref": f"x{axis} domain",
        "yref": f"y{axis} domain",
        "y": 1,
        "yanchor": "bottom",
        "showarrow": False,
    }
    name = f"<b>{style.plain(facet.name, 28)}</b>"
    yield {**place, "x": 0, "xanchor": "left", "yshift": 24, "text": name}
    places = _PLACES[len(facet.groups)]
    drawn = zip(facet.groups, places, _colours(), _GLYPHS, strict=False)
    for group, (x, anchor), colour, glyph in drawn:
        text = f"{glyph} {style.plain(group.label, _LABELS // len(places))}"
        words = {"text": text, "font": {"color": colour, "size": 12}}
        yield {**place, **words, "x": x, "xanchor": anchor, "yshift": 4}


# ---- words -------------------------------------------------------------------------------


def _sides_note(data: Interaction) -> str:
    below, above = data.below, data.above
    if below is None or above is None:
        return ""
    drawn = ""
    if below.trials < above.trials:
        count = wording.counted(below.trials, "trial")
        drawn = (
            f" More trials find a lower one by chance alone: the best of {count} drawn at random "
            f"from those with the larger ε is {wording.nll(data.drawn)} on average."
        )
    return (
        f"With next to no smoothing (ε up to {wording.epsilon(data.near)}: "
        f"{wording.counted(below.trials, 'trial')}) the lowest {wording.METRICS[data.metric]} is "
        f"{wording.nll(below.value)} ({below.words}). With a larger ε "
        f"({wording.counted(above.trials, 'trial')}) it is {wording.nll(above.value)} "
        f"({above.words}): {wording.change(below.value, above.value)}.{drawn}"
    )


def _worth_note() -> str:
    return (
        "This describes the trials of one search and is no estimate of an effect: trials that "
        "share a value of one hyperparameter differ in all others too, a search tries more "
        "where it has found better, and pruned trials are left out."
    )


def _line_note(data: Interaction) -> str:
    left_out = [facet for facet in data.facets if facet.left_out]
    names = wording.listed([facet.name for facet in left_out])
    thirds = f" Left out: the middle third, or rarer choices, of {names}." if left_out else ""
    return (
        f"Each line is the mean over its trials, smoothed along ε with a Gaussian kernel of width "
        f"{data.width:.2g}, where at least {FEWEST_NEAR} of them are that near.{thirds}"
    )


def _limit_note(data: Interaction) -> str:
    if data.limit is None:
        return ""
    return (
        f"Arrows at the upper edge: trials above {wording.nll(data.limit)}, left out of the lines."
    )
