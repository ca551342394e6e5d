"""Reliability diagrams of ε = 0 and the pick, before and after temperature scaling."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import plotly.graph_objects as go

from sweeper import formatting as fmt
from sweeper.confirmation.evidence import CONFIDENCE_VALUES, Evidence
from sweeper.confirmation.verdict import describe_smoothing
from sweeper.report.figures.kit import axes, markers, style
from sweeper.report.report_input import Floats


class Diagram(NamedTuple):
    """The non-empty bins, (B,) each; `ece` in [0, 1] is the mean over seeds."""

    confidence: Floats
    accuracy: Floats
    samples: Floats
    ece: float


class DiagramPanel(NamedTuple):
    """One candidate, with raw probabilities and after temperature scaling."""

    title: str
    raw: Diagram
    scaled: Diagram


class ReliabilityDiagrams(NamedTuple):
    """ε = 0 and the pick, each pooled over `seeds` models and `examples` test examples."""

    panels: tuple[DiagramPanel, ...]
    seeds: int
    examples: int

    @property
    def empty(self) -> bool:
        """Whether there are fewer than two pairs of seeds, or no confidences."""
        return not self.panels


def reliability_data(evidence: Evidence | None) -> ReliabilityDiagrams:
    """Return the diagrams on the test split, pooled over the pairs of seeds."""
    pairs = [] if evidence is None else evidence.pairs(evidence.pick)
    if (
        evidence is None
        or len(pairs) < 2
        or not len(evidence.reliability(evidence.reference, "confidence").samples)
    ):
        return ReliabilityDiagrams((), 0, 0)
    base = _panel(evidence, evidence.reference, "ε = 0")
    name = style.plain(describe_smoothing(evidence.candidates[evidence.pick]), 60)
    pick = _panel(evidence, evidence.pick, name)
    return ReliabilityDiagrams((base, pick), len(pairs), pairs[0][0].rows["test"])


def reliability_figure(data: ReliabilityDiagrams) -> go.Figure:
    """Draw accuracy against confidence, one marker per bin with its area as the bin's count."""
    figure = go.Figure(layout=style.layout(460, _NARROW))
    most = max((d.samples.max() for p in data.panels for d in (p.raw, p.scaled)), default=1.0)
    for panel, plot in zip(data.panels, axes.BOTH, strict=False):
        figure.add_traces([_diagonal(plot), *_traces(panel, plot, most)])
    figure.update_layout(_WIDE, annotations=list(_titles(data)))
    return figure


def reliability_notes(data: ReliabilityDiagrams) -> tuple[str, ...]:
    """Return a sentence that explains the markers and the ECE in the titles."""
    return (
        f"Each marker is one of 15 equal-width confidence bins, pooled over {data.seeds} seeds and "
        f"{data.examples:,} test examples. Its area is the number of predictions in the bin, so "
        "small markers are noisy. Below the diagonal the models are overconfident, above it "
        "underconfident. The ECE in each title is the mean over seeds.",
    )


_UNIT: Final = {"range": [-0.03, 1.08]}
_PLOT: Final = {
    "xaxis": {"title": {"text": "confidence"}, **_UNIT},
    "yaxis": {"title": {"text": "accuracy (test)"}, **_UNIT},
}
_PLOTS, _STACKED = axes.side_by_side(_PLOT, _PLOT, gap=0.14)
_WIDE: Final = {**_PLOTS, "legend": {"y": 1.12}, "margin": {"t": 24}}
_NARROW: Final = {**_STACKED, "legend": {"y": 1.06}}
_LARGEST: Final = 30.0


def _panel(evidence: Evidence, index: int, title: str) -> DiagramPanel:
    raw, scaled = (
        _diagram(evidence, index, score, confidence)
        for score, confidence in zip(("ece", "ece_calibrated"), CONFIDENCE_VALUES, strict=True)
    )
    return DiagramPanel(title, raw, scaled)


def _diagram(evidence: Evidence, index: int, score: str, confidence: str) -> Diagram:
    comparison = evidence.compare(evidence.pick, score)
    ece = float("nan")
    if comparison is not None:
        ece = comparison.baseline if index == evidence.reference else comparison.mean
    return Diagram(*evidence.reliability(index, confidence), ece)


def _traces(panel: DiagramPanel, plot: dict[str, str], most: float) -> Iterator[go.Scatter]:
    first = plot["xaxis"] == "x"
    for diagram, kind in ((panel.raw, _RAW), (panel.scaled, _SCALED)):
        marker = {
            **kind.marker,
            "size": diagram.samples,
            "sizemode": "area",
            "sizeref": most / _LARGEST**2,
            "sizemin": 4,
        }
        group = {"legendgroup": kind.name, "showlegend": False}
        yield markers.dots(
            diagram.confidence,
            diagram.accuracy,
            [_text(diagram, i) for i in range(len(diagram.samples))],
            marker=marker,
            # The largest marker, near (1, 1), would be cut off.
            cliponaxis=False,
            **group,
            **plot,
        ).update(mode="lines+markers", line=kind.line)
        if first:
            yield markers.legend_entry(kind.name, {**kind.marker, "size": 10}, kind.name)


class _TraceStyle(NamedTuple):
    name: str
    marker: dict[str, Any]
    line: dict[str, Any]


_RAW: Final = _TraceStyle(
    "raw probabilities",
    {"color": style.INK, "symbol": "circle"},
    {"color": style.FAINT, "width": 1},
)
_SCALED: Final = _TraceStyle(
    "after temperature scaling",
    {"color": style.FAINT, "symbol": "diamond-open", "line": {"width": 2}},
    {"color": style.FAINT, "width": 1, "dash": "dot"},
)


def _diagonal(plot: dict[str, str]) -> go.Scatter:
    ends = np.array([0.0, 1.0])
    return markers.line(ends, ends, {"color": style.FAINT, "width": 1, "dash": "dash"}, **plot)


def _text(diagram: Diagram, index: int) -> str:
    return (
        f"confidence {fmt.percent(diagram.confidence[index])}<br>"
        f"accuracy {fmt.percent(diagram.accuracy[index])}<br>"
        f"{fmt.count_noun(int(diagram.samples[index]), 'prediction')}"
    )


def _titles(data: ReliabilityDiagrams) -> Iterator[dict[str, Any]]:
    for panel, plot in zip(data.panels, axes.BOTH, strict=False):
        raw, scaled = fmt.percent(panel.raw.ece), fmt.percent(panel.scaled.ece)
        yield {
            "text": f"<b>{panel.title}</b><br>ECE {raw}, after scaling {scaled}",
            "x": 0,
            "y": 1,
            "xref": f"{plot['xaxis']} domain",
            "yref": f"{plot['yaxis']} domain",
            "xanchor": "left",
            "yanchor": "bottom",
            "align": "left",
            "showarrow": False,
        }
