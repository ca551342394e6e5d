"""What optuna-dashboard shows on a study's page: a note, and a few small figures."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import optuna
import pandas as pd
import plotly.graph_objects as go

from sweeper.confirmation.verdict import Verdict
from sweeper.report.figures.registry import draw
from sweeper.report.report_input import ReportInput, prepared
from sweeper.store.database import Store
from sweeper.study.results import baseline, best, best_by_schedule
from sweeper.study.spec import StudySpec

_METRICS = {"nll": "NLL", "nll_calibrated": "NLL after temperature scaling"}
_CAUTION = (
    "The search: the best of many trials is lucky by selection, and one split and one seed say "
    "nothing about significance. Scores on the validation split; NLL is unsmoothed, in nats."
)


def write_note(store: Store, name: str, text: str, figures: Mapping[str, Any]) -> None:
    """Put the note and the figures, by id, on the study; they replace earlier ones."""
    from optuna_dashboard import save_note, save_plotly_graph_object  # late: a web server comes too

    study = optuna.load_study(study_name=name, storage=store.storage)
    save_note(study, text)
    for graph, figure in figures.items():
        save_plotly_graph_object(study, figure, graph_object_id=graph)


def note(spec: StudySpec, trials: pd.DataFrame, verdict: Verdict | None = None) -> str:
    """Return the note's Markdown."""
    row, base = best(trials), baseline(trials)
    if row is None:
        return "No trial has finished yet."
    found = _headline(row, base, _METRICS[spec.objective.metric])
    said = [] if verdict is None else [f"**Verdict: {verdict.word}.**", *verdict.sentences, ""]
    lines = [*said, f"### {found}", "", *_table(base, trials), "", _CAUTION]
    return "\n".join(lines)


def _headline(row: pd.Series, base: pd.Series | None, metric: str) -> str:
    value = f"{metric} {row['value']:.4f}"
    if row["epsilon"] == 0:
        return f"ε = 0 is best so far ({value}): no benefit of smoothing found"
    against = (
        "while ε = 0 has no result" if base is None else f"against {base['value']:.4f} at ε = 0"
    )
    return f"Best so far: {_name(row)}, {value} {against}"


def _table(base: pd.Series | None, trials: pd.DataFrame) -> list[str]:
    rows = [row for _, row in best_by_schedule(trials).iterrows()]
    rows = rows if base is None else [base, *rows]
    return [
        "| | NLL | accuracy | ECE |",
        "|---|---|---|---|",
        *(
            f"| {_name(row)} | {row['nll']:.4f} | {row['accuracy']:.3f} | {row['ece']:.3f} |"
            for row in rows
        ),
    ]


def _name(row: pd.Series) -> str:
    if row["epsilon"] == 0:
        return "ε = 0"
    rate = "" if pd.isna(row["rate"]) else f", rate {row['rate']:.2g}"
    return f"ε = {row['epsilon']:.3g}, {row['schedule']}{rate}"


# optuna-dashboard cuts a figure into attributes of two kilobytes and reads all of them at every
# poll. So there are few figures, without hover texts. Plots that it already has are left out.
_TITLES: Final = {
    "forest": "Each candidate against ε = 0, on the test split",
    "trade_off": "NLL, error and calibration of each trial (colour: ECE)",
    "schedules": "The best of each schedule: ε and validation NLL over the training",
}
_LEFT_OUT: Final = ("text", "hovertemplate", "meta")
_DIGITS: Final = 4
_MOST: Final = 200
# Of the frame that it gives a figure, in pixels.
_HEIGHT: Final = 450


def small_figures(report: ReportInput) -> dict[str, go.Figure]:
    """Return these figures by name, without those that there is nothing to draw for."""
    ready = prepared(report)
    drawn = {name: draw(name, ready).figure for name in _TITLES}
    return {
        name: _small(figure, _TITLES[name]) for name, figure in drawn.items() if figure is not None
    }


def _small(figure: go.Figure, title: str) -> go.Figure:
    traces = [_trace(trace.to_plotly_json()) for trace in figure.data]
    layout = figure.layout.to_plotly_json()
    kept = {key: value for key, value in layout.items() if key not in ("template", "meta")}
    edges = {"t": 50, "l": 60, "r": 20, "b": 120}
    shown = {**kept, "title": {"text": title}, "margin": edges, "height": _HEIGHT}
    small = go.Figure(data=traces, layout=_rounded(shown))
    # Its own legend stands above the plot, where the title is; a template has kilobytes.
    legend = {"orientation": "h", "y": -0.22, "yanchor": "top"}
    small.update_layout(legend=legend, template=go.layout.Template())
    return small


def _trace(trace: dict[str, Any]) -> dict[str, Any]:
    count = len(trace["x"]) if trace.get("x") is not None else 0
    kept = {key: value for key, value in trace.items() if key not in _LEFT_OUT}
    if count > _MOST and trace.get("mode") == "markers":
        kept = _every(kept, count, -(-count // _MOST))
    small: dict[str, Any] = _rounded(kept)
    return small


def _every(value: Any, count: int, step: int) -> Any:
    """Return every so-manieth of what the markers have."""
    if isinstance(value, dict):
        return {key: _every(item, count, step) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray) and len(value) == count:
        return value[::step]
    return value


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_rounded(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
