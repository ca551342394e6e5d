"""Each confirmed candidate's test metric against ε = 0, with its interval: the test and others."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import plotly.graph_objects as go

from sweeper.confirmation.evidence import MEANS, Comparison, Evidence
from sweeper.confirmation.shortlist import Candidate
from sweeper.confirmation.verdict import METRICS
from sweeper.report import wording
from sweeper.report.figures import style
from sweeper.report.report_input import Floats
from sweeper.study.space import hparams_of
from sweeper.study.spec import Metric


class Compared(NamedTuple):
    """A candidate against ε = 0 on the test split; `seeds` (n,) are the differences of each."""

    role: str
    label: str
    comparison: Comparison
    seeds: Floats

    @property
    def tested(self) -> bool:
        """Whether this is what the verdict is about, and no description."""
        return self.role == "pick"


class Forest(NamedTuple):
    """The candidates, the pick first; `limits` are where the axis is cut, lowest and highest."""

    metric: Metric
    rows: tuple[Compared, ...]
    examples: int
    resplit: bool
    limits: tuple[float, float]

    @property
    def empty(self) -> bool:
        """Whether no candidate has been confirmed."""
        return not self.rows


def forest_data(evidence: Evidence | None) -> Forest:
    """Return the paired differences in the study's metric, of candidates with two pairs or more."""
    if evidence is None:
        return Forest("nll", (), 0, False, (0.0, 0.0))
    others = [i for i in range(1, len(evidence.candidates)) if i != evidence.pick]
    found = (_compared(evidence, index) for index in (evidence.pick, *others))
    rows = tuple(row for row in found if row is not None)
    examples = next((r.rows.get("test", 0) for r in evidence.done[0].values()), 0)
    return Forest(evidence.metric, rows, examples, evidence.settings.resplit, _limits(rows))


def forest_figure(data: Forest) -> go.Figure:
    """Draw a row a candidate: its interval, its mean and its seeds, against a line at 0."""
    height = 130 + 62 * max(len(data.rows), 1)
    figure = go.Figure(layout=style.layout(height, {**_NARROW, "height": height + 40}))
    figure.add_traces(list(_traces(data)))
    low, high = data.limits
    margin = 0.04 * (high - low)
    title = f"difference in test {METRICS[data.metric]} from ε = 0 (nats; below 0 is better)"
    figure.update_xaxes(
        title=title, range=(low - margin, high + margin), domain=[0, 0.74], zeroline=False
    )
    places = list(range(len(data.rows)))
    figure.update_yaxes(
        tickvals=places,
        ticktext=[row.label for row in data.rows],
        range=(len(places) - 0.4, -0.6),
        showgrid=False,
    )
    figure.update_layout(annotations=list(_numbers(data)))
    return figure


def forest_notes(data: Forest) -> tuple[str, ...]:
    """Say what is a test and what is not, what the interval holds and what the dots are."""
    noise = "the splits and the seeds" if data.resplit else "the seeds and the test examples"
    pairs = "on the same split" if data.resplit else "on the same test examples"
    notes = [
        f"Bars: 95 % intervals, which hold the noise of {noise}. The pick's is the one test; the "
        "faint ones only describe: of several intervals one may well miss.",
        f"Small dots: one seed each, the candidate minus ε = 0 from the same seed {pairs}.",
    ]
    if any(_beyond(data, row) for row in data.rows):
        notes.append("Arrows: the interval goes on beyond the plot; its numbers are whole.")
    return tuple(notes)


_NARROW: Final[dict[str, Any]] = {
    "xaxis": {"domain": [0, 1], "title": {"text": "test difference (nats)"}},
    "annotations": [],
}
_FARTHEST: Final = 8.0
_NAME_LENGTH: Final = 18


def _compared(evidence: Evidence, index: int) -> Compared | None:
    comparison = evidence.compare(index, evidence.metric)
    if comparison is None:
        return None
    candidate = evidence.candidates[index]
    name = MEANS[evidence.metric]
    pairs = evidence.pairs(index)
    seeds = np.array([a.examples[name].mean() - b.examples[name].mean() for a, b in pairs])
    return Compared(candidate.role, _label(candidate), comparison, seeds)


def _label(candidate: Candidate) -> str:
    point = candidate.point
    schedule = style.plain(point["schedule"], _NAME_LENGTH)
    # A fixed schedule has none; a study's own need not be known where its report is written.
    rate = [] if schedule == "fixed" else [f"rate {wording.figure(point['rate'])}"]
    extras = [f"{key} {_short(value)}" for key, value in hparams_of(point).items()]
    second = style.plain(" · ".join([_ROLES[candidate.role], *rate, *extras]), 2 * _NAME_LENGTH)
    return f"ε = {wording.epsilon(point['epsilon'])}, {schedule}<br><i>{second}</i>"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


_ROLES: Final = {
    "baseline": "ε = 0",
    "pick": "the pick",
    "runner-up": "runner-up",
    "default": "common default",
}


def _limits(rows: tuple[Compared, ...]) -> tuple[float, float]:
    """Return ends that hold the pick whole, and others unless they are many times as far."""
    if not rows:
        return 0.0, 0.0
    ends = [_ends(row) for row in rows]
    farthest = _FARTHEST * max(map(abs, ends[0]))
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    return max(min(low, 0.0), -farthest), min(max(high, 0.0), farthest)


def _ends(row: Compared) -> tuple[float, float]:
    difference = row.comparison.difference
    return min(difference.low, row.seeds.min()), max(difference.high, row.seeds.max())


def _beyond(data: Forest, row: Compared) -> bool:
    difference = row.comparison.difference
    return difference.low < data.limits[0] or difference.high > data.limits[1]


def _traces(data: Forest) -> Iterator[go.Scatter]:
    yield _zero(data)
    for place, row in enumerate(data.rows):
        strong = row.tested or row.role == "baseline"
        colour = style.INK if strong else style.FAINT
        yield _seeds(data, place, row, colour)
        yield _bar(data, place, row, {"color": colour, "width": 3 if strong else 2})
        yield _mean(data, place, row, {"color": colour, "size": 11 if strong else 9})
    yield style.entry("the pick: the test", {"color": style.INK, "size": 11, **_SQUARE}, "")
    if len(data.rows) > 1:
        yield style.entry("described only", {"color": style.FAINT, "size": 9, **_SQUARE}, "")
    yield style.entry("one seed", {"color": style.FAINT, **_DOT}, "")


_SQUARE: Final = {"symbol": "square"}
_DOT: Final = {"symbol": "circle", "size": 5}


def _seeds(data: Forest, place: int, row: Compared, colour: str) -> go.Scatter:
    inside = row.seeds[(row.seeds >= data.limits[0]) & (row.seeds <= data.limits[1])]
    below = [place + 0.24] * len(inside)
    texts = [f"one seed: {wording.signed(value, 4)} nats" for value in inside]
    marker = {"color": colour, "opacity": 0.55, **_DOT}
    return style.dots(inside, below, texts, marker=marker, showlegend=False)


def _bar(data: Forest, place: int, row: Compared, line: dict[str, Any]) -> go.Scatter:
    difference = row.comparison.difference
    ends = np.clip([difference.low, difference.high], *data.limits)
    cut = [difference.low < data.limits[0], difference.high > data.limits[1]]
    symbols = ["triangle-left" if cut[0] else "line-ns", "triangle-right" if cut[1] else "line-ns"]
    return go.Scatter(
        x=ends,
        y=[place, place],
        mode="lines+markers",
        line=line,
        marker={"symbol": symbols, "size": 10, "line": line, "color": line["color"]},
        hoverinfo="skip",
        showlegend=False,
    )


def _mean(data: Forest, place: int, row: Compared, marker: dict[str, Any]) -> go.Scatter:
    found = row.comparison
    text = (
        f"<b>{row.label}</b><br>{wording.difference(found.difference)} nats<br>"
        f"test {METRICS[data.metric]} {wording.nll(found.mean)}, "
        f"at ε = 0 {wording.nll(found.baseline)}"
    )
    at = np.clip(found.difference.estimate, *data.limits)
    return style.dots([at], [place], [text], marker={**marker, **_SQUARE}, showlegend=False)


def _zero(data: Forest) -> go.Scatter:
    line = {"color": style.INK, "width": 1.5, "dash": "dash"}
    ends = [-0.6, len(data.rows) - 0.4]
    return go.Scatter(x=[0, 0], y=ends, mode="lines", line=line, hoverinfo="skip", showlegend=False)


def _numbers(data: Forest) -> Iterator[dict[str, Any]]:
    for place, row in enumerate(data.rows):
        text = wording.difference(row.comparison.difference).replace(" (", "<br>(")
        yield {
            "text": f"<b>{text}</b>" if row.tested else text,
            "x": 1,
            "xref": "paper",
            "xanchor": "right",
            "y": place,
            "align": "right",
            "showarrow": False,
        }
