"""The test metric of each confirmed candidate compared with ε = 0, with its interval."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import plotly.graph_objects as go

from sweeper import formatting as fmt
from sweeper.confirmation.candidate import Candidate
from sweeper.confirmation.evidence import Comparison, Evidence
from sweeper.confirmation.verdict import REFERENCES
from sweeper.metrics import METRICS
from sweeper.report.figures.kit import markers, style
from sweeper.report.report_input import Floats
from sweeper.study.space import hparams_of
from sweeper.study.spec import Metric


class ForestRow(NamedTuple):
    """A candidate compared with ε = 0 on the test split; `seeds` (n,): the difference per seed."""

    role: str
    label: str
    comparison: Comparison
    seeds: Floats

    @property
    def tested(self) -> bool:
        """Whether this is the pre-specified comparison, which the verdict is based on."""
        return self.role == "pick"


class Forest(NamedTuple):
    """The candidates, the pick first; `limits` are the lower and upper end of the axis.

    `reference` says which ε = 0 they are compared with; "" if there is only one.
    """

    metric: Metric
    rows: tuple[ForestRow, ...]
    examples: int
    resplit: bool
    limits: tuple[float, float]
    reference: str = ""

    @property
    def empty(self) -> bool:
        """Whether no candidate has been confirmed."""
        return not self.rows


def forest_data(evidence: Evidence | None) -> Forest:
    """Return the paired differences in the study's metric.

    Candidates with fewer than two pairs are left out.
    """
    if evidence is None:
        return Forest("nll", (), 0, False, (0.0, 0.0))
    known = (evidence.pick, evidence.reference)
    others = [i for i in range(len(evidence.candidates)) if i not in known]
    compared = (_comparison_row(evidence, index) for index in (evidence.pick, *others))
    rows = tuple(row for row in compared if row is not None)
    examples = next(
        (
            r.rows.get("test", 0)
            for r in evidence.replicates_by_candidate[evidence.reference].values()
        ),
        0,
    )
    role = evidence.candidates[evidence.reference].role
    reference = REFERENCES[role] if len(evidence.baselines) > 1 else ""
    resplit = evidence.settings.resplit
    return Forest(evidence.metric, rows, examples, resplit, _limits(rows), reference)


def forest_figure(data: Forest) -> go.Figure:
    """Draw one row per candidate: interval, mean and seeds, with a line at 0."""
    height = 130 + 62 * max(len(data.rows), 1)
    figure = go.Figure(layout=style.layout(height, {**_NARROW, "height": height + 40}))
    figure.add_traces(list(_traces(data)))
    low, high = data.limits
    margin = 0.04 * (high - low)
    title = f"difference in test {METRICS[data.metric].label} from ε = 0 (nats; below 0 is better)"
    figure.update_xaxes(
        title=title, range=(low - margin, high + margin), domain=[0, 0.74], zeroline=False
    )
    positions = list(range(len(data.rows)))
    figure.update_yaxes(
        tickvals=positions,
        ticktext=[row.label for row in data.rows],
        range=(len(positions) - 0.4, -0.6),
        showgrid=False,
    )
    figure.update_layout(annotations=list(_numbers(data)))
    return figure


def forest_notes(data: Forest) -> tuple[str, ...]:
    """Return sentences that explain the intervals and the dots."""
    sources = "split and seed" if data.resplit else "seed and test-set"
    pairs = "on the same split" if data.resplit else "on the same test examples"
    notes = [
        f"Bars: 95% CIs. They include {sources} variation and are not corrected for multiple "
        "comparisons. Only the pick is a pre-specified comparison; the other rows are descriptive.",
        f"Small dots: one seed each, the candidate minus ε = 0 with the same seed {pairs}.",
    ]
    if data.reference:
        notes.insert(0, f"All rows are compared with {data.reference}.")
    if any(_beyond(data, row) for row in data.rows):
        notes.append(
            "Arrows: the interval extends beyond the plot; the numbers give its full extent."
        )
    return tuple(notes)


_NARROW: Final[dict[str, Any]] = {
    "xaxis": {"domain": [0, 1], "title": {"text": "test difference (nats)"}},
    "annotations": [],
}
_FARTHEST: Final = 8.0
_NAME_LENGTH: Final = 18


def _comparison_row(evidence: Evidence, index: int) -> ForestRow | None:
    comparison = evidence.compare(index, evidence.metric)
    if comparison is None:
        return None
    candidate = evidence.candidates[index]
    seeds = evidence.seed_differences(index, comparison.against, "test")
    return ForestRow(candidate.role, _label(candidate), comparison, seeds)


def _label(candidate: Candidate) -> str:
    point = candidate.point
    schedule = style.plain(point["schedule"], _NAME_LENGTH)
    # A fixed schedule has no annealing rate. Custom schedules may be unknown here, so the rate of
    # any other schedule is shown.
    rate = [] if schedule == "fixed" else [f"rate {fmt.two_figures(point['rate'])}"]
    extras = [f"{key} {fmt.setting(value)}" for key, value in hparams_of(point).items()]
    second = style.plain(" · ".join([_ROLES[candidate.role], *rate, *extras]), 2 * _NAME_LENGTH)
    return f"ε = {fmt.epsilon(point['epsilon'])}, {schedule}<br><i>{second}</i>"


_ROLES: Final = {
    "baseline": "pick's settings",
    "tuned baseline": "best settings at ε = 0",
    "pick": "pick",
    "runner-up": "runner-up",
    "default": "common default",
}


def _limits(rows: tuple[ForestRow, ...]) -> tuple[float, float]:
    """Return an axis with the whole interval of the pick, and the others up to a multiple of it."""
    if not rows:
        return 0.0, 0.0
    ends = [_ends(row) for row in rows]
    farthest = _FARTHEST * max(map(abs, ends[0]))
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    return max(min(low, 0.0), -farthest), min(max(high, 0.0), farthest)


def _ends(row: ForestRow) -> tuple[float, float]:
    difference = row.comparison.difference
    return min(difference.low, row.seeds.min()), max(difference.high, row.seeds.max())


def _beyond(data: Forest, row: ForestRow) -> bool:
    difference = row.comparison.difference
    return difference.low < data.limits[0] or difference.high > data.limits[1]


def _traces(data: Forest) -> Iterator[go.Scatter]:
    yield _zero(data)
    for position, row in enumerate(data.rows):
        strong = row.tested
        color = style.INK if strong else style.FAINT
        yield _seeds(data, position, row, color)
        yield _bar(data, position, row, {"color": color, "width": 3 if strong else 2})
        yield _mean(data, position, row, {"color": color, "size": 11 if strong else 9})
    yield markers.legend_entry(
        "pick (pre-specified comparison)", {"color": style.INK, "size": 11, **_SQUARE}, ""
    )
    if len(data.rows) > 1:
        yield markers.legend_entry("descriptive", {"color": style.FAINT, "size": 9, **_SQUARE}, "")
    yield markers.legend_entry("one seed", {"color": style.FAINT, **_DOT}, "")


_SQUARE: Final = {"symbol": "square"}
_DOT: Final = {"symbol": "circle", "size": 5}


def _seeds(data: Forest, position: int, row: ForestRow, color: str) -> go.Scatter:
    inside = row.seeds[(row.seeds >= data.limits[0]) & (row.seeds <= data.limits[1])]
    below = [position + 0.24] * len(inside)
    decimals = fmt.interval_decimals(row.comparison.difference)
    texts = [f"one seed: {fmt.signed(value, decimals)} nats" for value in inside]
    marker = {"color": color, "opacity": 0.55, **_DOT}
    return markers.dots(inside, below, texts, marker=marker, showlegend=False)


def _bar(data: Forest, position: int, row: ForestRow, line: dict[str, Any]) -> go.Scatter:
    difference = row.comparison.difference
    ends = np.clip([difference.low, difference.high], *data.limits)
    cut = [difference.low < data.limits[0], difference.high > data.limits[1]]
    symbols = ["triangle-left" if cut[0] else "line-ns", "triangle-right" if cut[1] else "line-ns"]
    return go.Scatter(
        x=ends,
        y=[position, position],
        mode="lines+markers",
        line=line,
        marker={"symbol": symbols, "size": 10, "line": line, "color": line["color"]},
        hoverinfo="skip",
        showlegend=False,
    )


def _mean(data: Forest, position: int, row: ForestRow, marker: dict[str, Any]) -> go.Scatter:
    comparison = row.comparison
    text = (
        f"<b>{row.label}</b><br>{fmt.difference(comparison.difference)} nats<br>"
        f"test {METRICS[data.metric].label} {fmt.nll(comparison.mean)}, "
        f"at ε = 0 {fmt.nll(comparison.baseline)}"
    )
    x = np.clip(comparison.difference.estimate, *data.limits)
    return markers.dots([x], [position], [text], marker={**marker, **_SQUARE}, showlegend=False)


def _zero(data: Forest) -> go.Scatter:
    line = {"color": style.INK, "width": 1.5, "dash": "dash"}
    ends = np.array([-0.6, len(data.rows) - 0.4])
    return markers.line(np.zeros(2), ends, line)


def _numbers(data: Forest) -> Iterator[dict[str, Any]]:
    for position, row in enumerate(data.rows):
        text = fmt.difference(row.comparison.difference).replace(" (", "<br>(")
        yield {
            "text": f"<b>{text}</b>" if row.tested else text,
            "x": 1,
            "xref": "paper",
            "xanchor": "right",
            "y": position,
            "align": "right",
            "showarrow": False,
        }
