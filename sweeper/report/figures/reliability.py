"""Is confidence accuracy? Of ε = 0 and of the pick, before and after temperature scaling."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import plotly.graph_objects as go
import torch

from sweeper.confirmation.evidence import Evidence, Replicate
from sweeper.confirmation.verdict import describe
from sweeper.report import wording
from sweeper.report.figures import style
from sweeper.report.report_input import Floats
from sweeper.scoring import reliability


class Diagram(NamedTuple):
    """The bins that hold examples, (B,) each; `ece` is the mean of each seed's own."""

    confidence: Floats
    accuracy: Floats
    samples: Floats
    ece: float


class Panel(NamedTuple):
    """One candidate, with its probabilities as they are and after temperature scaling."""

    title: str
    raw: Diagram
    scaled: Diagram


class Reliabilities(NamedTuple):
    """ε = 0 and the pick, of `seeds` models on the same `examples`, pooled."""

    panels: tuple[Panel, ...]
    seeds: int
    examples: int

    @property
    def empty(self) -> bool:
        """Whether there is nothing to compare."""
        return not self.panels


def reliability_data(evidence: Evidence | None) -> Reliabilities:
    """Return the diagrams of the test examples pooled over the pairs of seeds."""
    pairs = [] if evidence is None else evidence.pairs(evidence.pick)
    if evidence is None or len(pairs) < 2:
        return Reliabilities((), 0, 0)
    base = _panel(evidence, 0, "ε = 0", [base for _, base in pairs])
    name = style.plain(describe(evidence.candidates[evidence.pick]), 60)
    pick = _panel(evidence, evidence.pick, name, [mine for mine, _ in pairs])
    return Reliabilities((base, pick), len(pairs), len(pairs[0][0].examples["correct"]))


def reliability_figure(data: Reliabilities) -> go.Figure:
    """Draw accuracy over confidence, a marker a bin as large as the bin, beside the diagonal."""
    figure = go.Figure(layout=style.layout(460, _NARROW))
    most = max((d.samples.max() for p in data.panels for d in (p.raw, p.scaled)), default=1.0)
    for panel, axes in zip(data.panels, _AXES, strict=False):
        figure.add_traces([_diagonal(axes), *_traces(panel, axes, most)])
    figure.update_layout(_WIDE, annotations=list(_titles(data)))
    return figure


def reliability_notes(data: Reliabilities) -> tuple[str, ...]:
    """Say what a marker is, and what the titles' numbers are."""
    return (
        f"Each marker is one of 15 equal bins of confidence, pooled over {data.seeds} seeds and "
        f"{data.examples:,} test examples; its area is the number of predictions in it, so that a "
        "small one is little more than chance. Below the diagonal the models are too sure, above "
        "it too cautious. The ECE in a title is the mean of each seed's own.",
    )


_AXES: Final = ({"xaxis": "x", "yaxis": "y"}, {"xaxis": "x2", "yaxis": "y2"})
_UNIT: Final = {"range": [-0.03, 1.08]}
_X: Final = {"title": {"text": "confidence"}, **_UNIT}
_Y: Final = {"title": {"text": "accuracy (test)"}, **_UNIT}
_WIDE: Final = {
    "xaxis": {**_X, "domain": [0, 0.45]},
    "xaxis2": {**_X, "domain": [0.55, 1], "anchor": "y2"},
    "yaxis": _Y,
    "yaxis2": {**_Y, "anchor": "x2"},
    "legend": {"y": 1.12},
    "margin": {"t": 24},
}
_NARROW: Final = {
    "height": 860,
    "xaxis": {"domain": [0, 1]},
    "xaxis2": {"domain": [0, 1]},
    "yaxis": {"domain": [0.57, 1]},
    "yaxis2": {"domain": [0, 0.41]},
    "legend": {"y": 1.06},
}
_LARGEST: Final = 30.0


def _panel(evidence: Evidence, index: int, title: str, replicates: list[Replicate]) -> Panel:
    raw, scaled = (
        _diagram(evidence, index, replicates, score, confidence)
        for score, confidence in (
            ("ece", "confidence"),
            ("ece_calibrated", "confidence_calibrated"),
        )
    )
    return Panel(title, raw, scaled)


def _diagram(
    evidence: Evidence, index: int, replicates: list[Replicate], score: str, confidence: str
) -> Diagram:
    values, correct = (
        torch.from_numpy(np.concatenate([r.examples[name] for r in replicates]))
        for name in (confidence, "correct")
    )
    bins = reliability(values, correct > 0.5)
    held = (bins.samples > 0).numpy()
    found = evidence.compare(evidence.pick, score)
    ece = float("nan") if found is None else found.baseline if index == 0 else found.mean
    columns = (bins.confidence, bins.accuracy, bins.samples.double())
    drawn = [np.asarray(column, dtype=float)[held] for column in columns]
    return Diagram(drawn[0], drawn[1], drawn[2], ece)


def _traces(panel: Panel, axes: dict[str, str], most: float) -> Iterator[go.Scatter]:
    first = axes["xaxis"] == "x"
    for diagram, look_of in ((panel.raw, _RAW), (panel.scaled, _SCALED)):
        marker = {
            **look_of.marker,
            "size": diagram.samples,
            "sizemode": "area",
            "sizeref": most / _LARGEST**2,
            "sizemin": 4,
        }
        group = {"legendgroup": look_of.name, "showlegend": False}
        yield style.dots(
            diagram.confidence,
            diagram.accuracy,
            [_text(diagram, i) for i in range(len(diagram.samples))],
            marker=marker,
            # The largest, near (1, 1), would lose its edge.
            cliponaxis=False,
            **group,
            **axes,
        ).update(mode="lines+markers", line=look_of.line)
        if first:
            yield style.entry(look_of.name, {**look_of.marker, "size": 10}, look_of.name)


class _Look(NamedTuple):
    name: str
    marker: dict[str, Any]
    line: dict[str, Any]


_RAW: Final = _Look(
    "as the model gives it",
    {"color": style.INK, "symbol": "circle"},
    {"color": style.FAINT, "width": 1},
)
_SCALED: Final = _Look(
    "after temperature scaling",
    {"color": style.FAINT, "symbol": "diamond-open", "line": {"width": 2}},
    {"color": style.FAINT, "width": 1, "dash": "dot"},
)


def _diagonal(axes: dict[str, str]) -> go.Scatter:
    line = {"color": style.FAINT, "width": 1, "dash": "dash"}
    return go.Scatter(
        x=[0, 1], y=[0, 1], mode="lines", line=line, hoverinfo="skip", showlegend=False, **axes
    )


def _text(diagram: Diagram, index: int) -> str:
    return (
        f"confidence {wording.percent(diagram.confidence[index])}<br>"
        f"accuracy {wording.percent(diagram.accuracy[index])}<br>"
        f"{wording.counted(int(diagram.samples[index]), 'prediction')}"
    )


def _titles(data: Reliabilities) -> Iterator[dict[str, Any]]:
    for panel, axes in zip(data.panels, _AXES, strict=False):
        raw, scaled = wording.percent(panel.raw.ece), wording.percent(panel.scaled.ece)
        yield {
            "text": f"<b>{panel.title}</b><br>ECE {raw}, after scaling {scaled}",
            "x": 0,
            "y": 1,
            "xref": f"{axes['xaxis']} domain",
            "yref": f"{axes['yaxis']} domain",
            "xanchor": "left",
            "yanchor": "bottom",
            "align": "left",
            "showarrow": False,
        }
