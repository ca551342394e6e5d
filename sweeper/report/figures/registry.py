"""The figures by name, as pages and notebooks ask for them."""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol

import plotly.graph_objects as go

from sweeper.confirmation.evidence import Split
from sweeper.report import wording
from sweeper.report.figures import style
from sweeper.report.figures.calibrated import calibrated_data, calibrated_figure, calibrated_notes
from sweeper.report.figures.forest import forest_data, forest_figure, forest_notes
from sweeper.report.figures.history import history_data, history_figure, history_notes
from sweeper.report.figures.importance import importance_data, importance_figure, importance_notes
from sweeper.report.figures.interaction import (
    interaction_data,
    interaction_figure,
    interaction_notes,
)
from sweeper.report.figures.reliability import (
    reliability_data,
    reliability_figure,
    reliability_notes,
)
from sweeper.report.figures.response import response_data, response_figure, response_notes
from sweeper.report.figures.schedules import schedules_data, schedules_figure, schedules_notes
from sweeper.report.figures.trade_off import trade_off_data, trade_off_figure, trade_off_notes
from sweeper.report.report_input import ReportInput, prepared


class Data(Protocol):
    """What a figure is drawn from."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""


class Recipe(NamedTuple):
    """How a figure is made: arithmetic, drawing, words, and the split that its numbers are of.

    `scaled`: some of them are with temperatures, which are the validation split's.
    """

    data: Callable[[ReportInput], Any]
    figure: Callable[[Any], go.Figure]
    notes: Callable[[Any], tuple[str, ...]]
    split: Split = "valid"
    scaled: bool = False


class Drawing(NamedTuple):
    """A figure, or None where there is nothing to draw, and sentences computed from its data."""

    figure: go.Figure | None
    notes: tuple[str, ...]


FIGURES: Final[Mapping[str, Recipe]] = {
    "forest": Recipe(
        lambda report: forest_data(report.confirmed), forest_figure, forest_notes, "test"
    ),
    "response": Recipe(
        lambda report: response_data(report.trials, report.metric, report.space, report.confirmed),
        response_figure,
        response_notes,
    ),
    "reliability": Recipe(
        lambda report: reliability_data(report.confirmed),
        reliability_figure,
        reliability_notes,
        "test",
        scaled=True,
    ),
    "trade_off": Recipe(
        lambda report: trade_off_data(report.trials), trade_off_figure, trade_off_notes
    ),
    "calibrated": Recipe(
        lambda report: calibrated_data(report.trials), calibrated_figure, calibrated_notes
    ),
    "schedules": Recipe(
        lambda report: schedules_data(report.trials, report.epochs),
        schedules_figure,
        schedules_notes,
    ),
    "history": Recipe(
        lambda report: history_data(report.trials, report.metric), history_figure, history_notes
    ),
    "importance": Recipe(
        lambda report: importance_data(report.importance), importance_figure, importance_notes
    ),
    "interaction": Recipe(
        lambda report: interaction_data(report.trials, report.metric),
        interaction_figure,
        interaction_notes,
    ),
}


def figures(report: ReportInput) -> dict[str, go.Figure]:
    """Return every figure of a study by name, for notebooks; an empty one says so."""
    ready = prepared(report)
    return {name: draw(name, ready).figure or style.empty() for name in FIGURES}


def draw(name: str, report: ReportInput) -> Drawing:
    """Return one figure of a prepared report with the words computed for it."""
    recipe = FIGURES[name]
    data: Data = recipe.data(report)
    if data.empty:
        return Drawing(None, ())
    figure, notes = recipe.figure(data), recipe.notes(data)
    if out := style.left_out(figure):
        covered = f"{wording.counted(out, 'marker')} of this figure would lie on others"
        notes = (*notes, f"{covered}: not drawn, and counted in everything else.")
    return Drawing(figure, notes)
