"""A report of very many trials: what a screen cannot show is left out of the page, and said."""

import json
import re

import numpy as np
import pytest

from sweeper.report import ReportInput, built_in_page, render
from sweeper.report.figures.kit.markers import MAX_DRAWN, distinct_points
from sweeper.report.figures.registry import FIGURES, draw
from sweeper.report.page import Options
from sweeper.report.report_input import prepare
from sweeper.report.trial_table import MAX_ROWS, trials_table
from sweeper.study import results
from tests.support.report_frames import make_report, make_trials

pytestmark = pytest.mark.slow

MANY = 8_000


@pytest.fixture(scope="module")
def large() -> ReportInput:
    return make_report(make_trials(MANY))


def test_few_points_are_all_drawn() -> None:
    x = np.zeros(MAX_DRAWN)
    assert distinct_points(x, x).tolist() == list(range(MAX_DRAWN))


@pytest.mark.parametrize("seed", range(3))
def test_subset_of_points_covers_all_points(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, 0.4, 30_000), rng.normal(0.1, 0.02, 30_000)
    kept = distinct_points(x, y)
    assert len(kept) <= MAX_DRAWN
    assert np.array_equal(kept, np.unique(kept))
    # In shares of the plot's sides: the grid never gets coarser than one cell in twenty.
    across = np.abs(x[:, None] - x[kept]) / np.ptp(x)
    up = np.abs(y[:, None] - y[kept]) / np.ptp(y)
    assert np.maximum(across, up).min(axis=1).max() < 1 / 20


def test_first_of_overlapping_points_is_drawn() -> None:
    x = np.tile([0.1, 0.2], 2000)
    assert distinct_points(x, x).tolist() == [0, 1]


def test_nan_points_are_handled() -> None:
    x = np.full(3000, np.nan)
    x[5], x[6] = np.inf, 1.0
    assert 1 <= len(distinct_points(x, x)) <= 3
    assert len(distinct_points(x[:0], x[:0])) == 0


def test_every_figure_of_many_trials_is_small_and_says_what_it_leaves_out(
    large: ReportInput,
) -> None:
    ready = prepare(large)
    output = 0
    for name in FIGURES:
        drawing = draw(name, ready)
        if drawing.figure is None:
            continue
        for trace in drawing.figure.data:
            assert trace.x is None or len(trace.x) <= max(MAX_DRAWN, 400)
            for value in (trace.text, getattr(trace.marker, "symbol", None)):
                assert isinstance(value, str | None) or len(value) == len(trace.x)
        notes = [note for note in drawing.notes if "overlapping point" in note]
        output += len(notes)
        left = sum(t.meta["left_out"] for t in drawing.figure.data if t.meta)
        assert bool(notes) is bool(left)
        assert not notes or f"{left:,} overlapping points hidden" in notes[0]
    assert output >= 4


def test_hover_texts_are_those_of_the_markers_drawn(large: ReportInput) -> None:
    ready = prepare(large)
    figure = draw("history", ready).figure
    assert figure is not None
    states = dict(zip(ready.trials["number"].astype(int), ready.trials["state"], strict=True))
    checked = 0
    for trace in figure.data:
        if trace.text is None:
            continue
        for x, text in list(zip(trace.x, trace.text, strict=True))[:50]:
            number = int("".join(re.findall(r"\d+", text)[:1]))
            assert x == number
            assert states[number] in ("complete", "pruned")
            checked += 1
    assert checked > 300


def test_the_table_keeps_the_lowest_and_the_marked(large: ReportInput) -> None:
    trials = prepare(large).trials
    worst = int(trials.sort_values("nll")["number"].iloc[-1])
    table = trials_table(trials, {"lowest": 3, "pick": worst})
    assert (len(table.rows), table.total) == (MAX_ROWS, MANY)
    numbers = [int(float(row.cells[0].value)) for row in table.rows]
    assert numbers == sorted(numbers)
    assert {0, 3, worst} <= set(numbers)
    order = trials.sort_values("nll")["number"].astype(int).tolist()
    assert set(order[: MAX_ROWS - 3]) <= set(numbers)


def test_a_page_says_how_many_rows_it_has(large: ReportInput) -> None:
    page = built_in_page("running")
    panels = tuple(
        panel.model_copy(update={"options": Options(rows=5)}) if panel.figure == "trials" else panel
        for panel in page.panels
    )
    text = render(large, page.model_copy(update={"panels": panels}))
    assert text.count("<tr data-state") == 5
    assert f"Showing the 5 of {MANY:,} trials with the lowest NLL" in text
    assert "with the lowest NLL;" not in render(make_report(), page)


def test_page_size_of_many_trials_is_bounded(large: ReportInput) -> None:
    text = render(large)
    assert len(text.encode()) < 15_000_000
    found = re.findall(r'<script type="application/json">(.*?)</script>', text, flags=re.DOTALL)
    assert all(json.loads(figure)["data"] for figure in found)
    best = results.best(large.trials)
    assert best is not None
    assert f">{best['number']}<" in text or f"trial {best['number']}" in text
