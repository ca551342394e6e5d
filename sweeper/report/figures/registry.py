"""The figures by name."""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol

import plotly.graph_objects as go

from sweeper.confirmation.evidence import Split
from sweeper.report.figures.calibrated import calibrated_data, calibrated_figure, calibrated_notes
from sweeper.report.figures.forest import forest_data, forest_figure, forest_notes
from sweeper.report.figures.history import history_data, history_figure, history_notes
from sweeper.report.figures.importance import importance_data, importance_figure, importance_notes
from sweeper.report.figures.interaction import (
    interaction_data,
    interaction_figure,
    interaction_notes,
)
from sweeper.report.figures.isolation import isolation_data, isolation_figure, isolation_notes
from sweeper.report.figures.kit import captions, markers, style
from sweeper.report.figures.reliability import (
    reliability_data,
    reliability_figure,
    reliability_notes,
)
from sweeper.report.figures.response import response_data, response_figure, response_notes
from sweeper.report.figures.schedules import schedules_data, schedules_figure, schedules_notes
from sweeper.report.figures.trade_off import trade_off_data, trade_off_figure, trade_off_notes
from sweeper.report.report_input import ReportInput, prepare


class Data(Protocol):
    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""


class FigureDefinition(NamedTuple):
    """The functions that compute, draw and describe a figure, and the split of its numbers.

    `scaled`: some numbers use temperatures, which are fitted on the validation split.
    """

    data: Callable[[ReportInput], Any]
    figure: Callable[[Any], go.Figure]
    notes: Callable[[Any], tuple[str, ...]]
    split: Split = "valid"
    scaled: bool = False


class FigureWithNotes(NamedTuple):
    """A figure, or None without data, and sentences computed from its data."""

    figure: go.Figure | None
    notes: tuple[str, ...]


FIGURES: Final[Mapping[str, FigureDefinition]] = {
    "forest": FigureDefinition(
        lambda report: forest_data(report.confirmed), forest_figure, forest_notes, "test"
    ),
    "response": FigureDefinition(
        lambda report: response_data(
            report.trials, report.metric, report.space, report.confirmed, report.recommended
        ),
        response_figure,
        response_notes,
    ),
    "reliability": FigureDefinition(
        lambda report: reliability_data(report.confirmed),
        reliability_figure,
        reliability_notes,
        "test",
        scaled=True,
    ),
    "trade_off": FigureDefinition(
        lambda report: trade_off_data(
            report.trials, None if report.recommended is None else report.recommended.trial
        ),
        trade_off_figure,
        trade_off_notes,
    ),
    "calibrated": FigureDefinition(
        lambda report: calibrated_data(report.trials), calibrated_figure, calibrated_notes
    ),
    "schedules": FigureDefinition(
        lambda report: schedules_data(report.trials, report.epochs),
        schedules_figure,
        schedules_notes,
    ),
    "history": FigureDefinition(
        lambda report: history_data(report.trials, report.metric), history_figure, history_notes
    ),
    "importance": FigureDefinition(
        lambda report: importance_data(report.importance), importance_figure, importance_notes
    ),
    "isolation": FigureDefinition(
        lambda report: isolation_data(report.trials, report.metric, report.space, report.confirmed),
        isolation_figure,
        isolation_notes,
    ),
    "interaction": FigureDefinition(
        lambda report: interaction_data(report.trials, report.metric),
        interaction_figure,
        interaction_notes,
    ),
}


class Figures(dict[str, go.Figure]):
    """Figures by name, which a notebook displays one below the other."""

    def _ipython_display_(self) -> None:
        from IPython.display import display

        for figure in self.values():
            display(figure)


def figures(report: ReportInput) -> Figures:
    """Return all figures of a study by name; a figure without data says "No data yet"."""
    report = prepare(report)
    return Figures({name: draw(name, report).figure or style.empty() for name in FIGURES})


def draw(name: str, report: ReportInput) -> FigureWithNotes:
    """Return one figure of a prepared report with its notes."""
    recipe = FIGURES[name]
    data: Data = recipe.data(report)
    if data.empty:
        return FigureWithNotes(None, ())
    figure, notes = recipe.figure(data), recipe.notes(data)
    overlapping = captions.overlap_note(markers.left_out(figure))
    return FigureWithNotes(figure, (*notes, overlapping) if overlapping else notes)
