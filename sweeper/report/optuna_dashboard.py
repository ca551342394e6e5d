"""The note and the small figures that optuna-dashboard shows on the page of a study."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import optuna
import pandas as pd
import plotly.graph_objects as go

from sweeper.confirmation.recommendation import lowest_in_search, recommendation
from sweeper.formatting import nll, percent, trial_smoothing
from sweeper.report.figures.registry import draw
from sweeper.report.report_input import ReportInput, prepare
from sweeper.snapshot import StudySnapshot
from sweeper.store.database import Store
from sweeper.study.results import baseline, best, best_by_schedule

_CAUTION = (
    "Search results: the best of many trials is optimistically biased, because it was selected. "
    "One split and one seed do not show statistical significance. Scores are on the validation "
    "split; NLL is in nats and computed without smoothing. The hyperparameter importance that "
    "optuna-dashboard computes describes only how the best trials differ from the others; a "
    "hyperparameter on which the sampler has settled gets a small share. The report of sweeper "
    "shows the importance for the whole search space."
)


def write_note(store: Store, name: str, text: str, figures: Mapping[str, Any]) -> None:
    """Store the note and the figures, by id, in the study; they replace earlier ones."""
    # Imported late, because it imports a web server.
    from optuna_dashboard import save_note, save_plotly_graph_object

    def write() -> None:
        study = optuna.load_study(study_name=name, storage=store.storage)
        save_note(study, text)
        for graph, figure in figures.items():
            save_plotly_graph_object(study, figure, graph_object_id=graph)

    store.retry(write)


def note(study: StudySnapshot) -> str:
    """Return the note in Markdown."""
    trials, verdict = study.frame, study.verdict
    row, base = best(trials), baseline(trials)
    if row is None:
        return "No trial has finished yet."
    result = [] if verdict is None else [f"**Verdict: {verdict.word}.**", *verdict.sentences, ""]
    return "\n".join(
        [
            f"### {recommendation(study.recommended)}",
            "",
            *result,
            f"{lowest_in_search(trials, study.metric)} {_baseline(base)}",
            "",
            *_table(base, trials),
            "",
            _CAUTION,
        ]
    )


def _baseline(base: pd.Series | None) -> str:
    return "ε = 0 has no result yet." if base is None else f"At ε = 0: {nll(base['value'])}."


def _table(base: pd.Series | None, trials: pd.DataFrame) -> list[str]:
    rows = [row for _, row in best_by_schedule(trials).iterrows()]
    rows = rows if base is None else [base, *rows]
    return [
        "| | NLL | accuracy | ECE |",
        "|---|---|---|---|",
        *(
            f"| {trial_smoothing(row)} | {nll(row['nll'])} | {percent(row['accuracy'])} | "
            f"{percent(row['ece'])} |"
            for row in rows
        ),
    ]


# optuna-dashboard splits a figure into attributes of two kilobytes and reads all of them at every
# poll. So there are few figures, without hover texts, and none that it already has.
_TITLES: Final = {
    "forest": "Each candidate compared with ε = 0 on the test split",
    "trade_off": "NLL, error and calibration of each trial (color: ECE)",
    "schedules": "Best trial of each schedule: ε and validation NLL during training",
}
_LEFT_OUT: Final = ("text", "hovertemplate", "meta")
_DIGITS: Final = 4
_MAX_MARKERS: Final = 200
# The height of the frame of a figure in optuna-dashboard, in pixels.
_HEIGHT: Final = 450


def small_figures(report: ReportInput) -> dict[str, go.Figure]:
    """Return the small figures by name; a figure without data is left out."""
    report = prepare(report)
    figures = {name: draw(name, report).figure for name in _TITLES}
    return {
        name: _small(figure, _TITLES[name])
        for name, figure in figures.items()
        if figure is not None
    }


def _small(figure: go.Figure, title: str) -> go.Figure:
    traces = [_trace(trace.to_plotly_json()) for trace in figure.data]
    layout = figure.layout.to_plotly_json()
    layout = {key: value for key, value in layout.items() if key not in ("template", "meta")}
    margin = {"t": 50, "l": 60, "r": 20, "b": 120}
    layout = {**layout, "title": {"text": title}, "margin": margin, "height": _HEIGHT}
    small = go.Figure(data=traces, layout=_round_values(layout))
    # The title takes the place of the legend above the plot; the template would take kilobytes.
    legend = {"orientation": "h", "y": -0.22, "yanchor": "top"}
    small.update_layout(legend=legend, template=go.layout.Template())
    return small


def _trace(trace: dict[str, Any]) -> dict[str, Any]:
    count = len(trace["x"]) if trace.get("x") is not None else 0
    attributes = {key: value for key, value in trace.items() if key not in _LEFT_OUT}
    if count > _MAX_MARKERS and trace.get("mode") == "markers":
        attributes = _thin_markers(attributes, count, -(-count // _MAX_MARKERS))
    small: dict[str, Any] = _round_values(attributes)
    return small


def _thin_markers(value: Any, count: int, step: int) -> Any:
    """Return the attributes of every `step`-th marker."""
    if isinstance(value, dict):
        return {key: _thin_markers(item, count, step) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray) and len(value) == count:
        return value[::step]
    return value


def _round_values(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _round_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_round_values(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
