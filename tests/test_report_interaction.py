"""Epsilon and the other hyperparameters: the groups, the comparison and its words."""

import math
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from sweeper.report import render
from sweeper.report.figures.interaction import (
    Facet,
    Interaction,
    interaction_data,
    interaction_figure,
    interaction_notes,
)
from sweeper.report.figures.kit.statistics import best_of
from sweeper.report.figures.registry import figures
from sweeper.report.report_input import ReportInput, finished_trials, prepare
from tests.support.report_frames import frame, make_report, make_trial, make_trials

RNG = np.random.default_rng(0)
DROPOUT, WIDTHS = RNG.uniform(0, 0.5, 64), RNG.choice(["narrow", "wide"], 64)


def searched(**columns: Any) -> ReportInput:
    """Return a prepared report of a study that searched these beside smoothing."""
    trials = make_trials().assign(**{f"hp_{name}": column for name, column in columns.items()})
    return prepare(make_report(trials))


def data_of(**columns: Any) -> Interaction:
    return interaction_data(searched(**columns).trials, "nll")


def rows(*points: tuple[float, float, Mapping[str, Any]]) -> Interaction:
    """Return what is drawn of trials of these epsilons, values and hyperparameters."""
    trials = [
        make_trial(number, epsilon, "fixed", math.nan, np.random.default_rng(0))
        | {"value": value, "nll": value}
        | {f"hp_{name}": chosen for name, chosen in more.items()}
        for number, (epsilon, value, more) in enumerate(points)
    ]
    return interaction_data(prepare(make_report(frame(trials))).trials, "nll")


def labels(facet: Facet) -> list[str]:
    return [group.label for group in facet.groups]


USUAL = data_of(dropout=DROPOUT, width=WIDTHS)


# ---- groups --------------------------------------------------------------------------------


def test_a_range_is_shown_by_its_lowest_and_highest_third() -> None:
    (facet, _) = USUAL.facets
    done = finished_trials(searched(dropout=DROPOUT).trials)
    ordered = done.sort_values("hp_dropout")
    third = math.ceil(len(done) / 3)
    for group, expected in zip(facet.groups, (ordered[:third], ordered[-third:]), strict=True):
        assert sorted(group.y) == sorted(expected["value"])
        assert sorted(group.x) == sorted(expected["epsilon"])
    assert facet.left_out == len(done) - 2 * third


def test_few_choices_are_shown_each_and_rare_ones_are_counted() -> None:
    assert labels(USUAL.facets[1]) == ["narrow", "wide"]
    assert USUAL.facets[1].left_out == 0
    many = data_of(model=[f"model {min(n % 8, 4)}" for n in range(64)]).facets[0]
    assert len(many.groups) == 3
    assert "model 4" in labels(many)
    assert many.left_out > 0
    shift = data_of(shift=[number % 3 for number in range(64)]).facets[0]
    assert labels(shift) == ["0", "1", "2"]
    assert labels(data_of(bias=[n % 2 == 0 for n in range(64)]).facets[0]) == ["False", "True"]


def test_dominant_value_is_separated() -> None:
    values = np.where(np.arange(64) % 8, 5.0, np.arange(64) / 100)
    (facet,) = data_of(dropout=values).facets
    sides = [set(group.y) for group in facet.groups]
    assert len(sides) == 2
    assert not sides[0] & sides[1]
    assert facet.left_out == 0


def test_constant_hyperparameters_are_omitted() -> None:
    assert [facet.name for facet in data_of(dropout=DROPOUT, lr=0.1).facets] == ["dropout"]
    assert data_of(lr=0.1).empty
    assert data_of().empty


def test_inactive_hyperparameters_are_skipped() -> None:
    momentum = np.where(WIDTHS == "wide", DROPOUT, math.nan)
    (facet,) = data_of(momentum=momentum).facets
    done = finished_trials(searched(momentum=momentum).trials)
    active = done.dropna(subset="hp_momentum")
    third = math.ceil(len(active) / 3)
    assert [len(group.x) for group in facet.groups] == [third, third]
    assert facet.left_out == len(active) - 2 * third
    assert "–" not in interaction_notes(data_of(momentum=momentum))[0]


def test_a_line_is_drawn_only_where_trials_are_near() -> None:
    sides = [{"dropout": 0.1}, {"dropout": 0.4}]
    lows = [(epsilon, 0.1, sides[0]) for epsilon in (0.0, 0.01, 0.02, 0.38, 0.39, 0.4)]
    alone = [(epsilon, 0.1, sides[1]) for epsilon in (0.0, 0.2, 0.4)]
    low, high = rows(*lows, *alone).facets[0].groups
    assert high.line is None
    assert low.line is not None
    x, y = low.line
    assert np.isnan(y[(x > 0.1) & (x < 0.3)]).all()
    np.testing.assert_allclose(y[(x < 0.05) | (x > 0.35)], 0.1)


def test_outliers_are_clipped_and_excluded_from_lines() -> None:
    points = [(0.02 * n, 0.1 + 0.001 * n, {"dropout": n % 2}) for n in range(12)]
    data = rows(*points, (0.1, 9.0, {"dropout": 0}))
    assert data.limit is not None
    assert 0.111 < data.limit < 0.2
    for group in data.facets[0].groups:
        assert group.line is not None
        assert np.nanmax(group.line[1]) < 0.111
    assert any("at the edge" in note for note in interaction_notes(data))
    assert rows(*points).limit is None


def test_baseline_is_within_the_axis() -> None:
    points = [(0.02 * n + 0.01, 0.1 + 0.001 * n, {"dropout": n % 2}) for n in range(12)]
    data = rows((0.0, 2.0, {"dropout": 0}), *points, (0.1, 9.0, {"dropout": 0}))
    assert data.baseline == 2.0
    assert data.limit is not None
    assert 2.0 < data.limit < 9.0


# ---- the comparison ------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 5, 7])
def test_expected_minimum_equals_mean_over_subsets(count: int) -> None:
    values = np.array([0.3, 0.1, 0.2, 0.9, 0.5, 0.4, 0.4])
    expected = np.mean([min(drawn) for drawn in combinations(values, count)])
    assert best_of(values, count) == pytest.approx(expected)


@pytest.mark.parametrize("count", [0, 8])
def test_expected_minimum_rejects_invalid_counts(count: int) -> None:
    assert math.isnan(best_of(np.ones(7), count))


def test_near_zero_epsilon_is_compared_with_larger() -> None:
    data = rows(
        (0.0, 0.12, {"dropout": 0.0, "optimizer": "sgd"}),
        (0.02, 0.08, {"dropout": 0.3, "optimizer": "adam"}),
        (0.021, 0.07, {"dropout": 0.2, "optimizer": "adam"}),
        (0.4, 0.05, {"dropout": 0.1, "optimizer": "sgd"}),
        (0.3, 0.06, {"dropout": 0.4, "optimizer": "sgd"}),
    )
    assert data.below is not None
    assert data.above is not None
    assert (data.below.trials, data.below.value) == (2, 0.08)
    assert (data.above.trials, data.above.value) == (3, 0.05)
    note, worth, *_ = interaction_notes(data)
    assert "ε up to 0.02: 2 trials) the lowest validation NLL is 0.080" in note
    assert "(trial 1: ε = 0.02, fixed; dropout 0.3, optimizer adam)" in note
    assert "larger ε (3 trials) it is 0.050 (trial 3: ε = 0.40, fixed;" in note
    assert "): −0.030." in note
    drawn = np.mean([min(pair) for pair in combinations((0.07, 0.05, 0.06), 2)])
    assert f"is {drawn:.3f} on average" in note
    assert "does not estimate an effect" in worth


def test_equal_counts_need_no_expected_minimum() -> None:
    data = rows((0.0, 0.12, {"dropout": 0.0}), (0.4, 0.05, {"dropout": 0.1}))
    assert "drawn at random" not in interaction_notes(data)[0]


def test_single_side_is_not_compared() -> None:
    data = rows((0.2, 0.12, {"dropout": 0.0}), (0.4, 0.05, {"dropout": 0.1}))
    assert data.below is None
    assert not any("smoothing" in note for note in interaction_notes(data))


# ---- the figure and the page ---------------------------------------------------------------


def test_plots_share_scales_and_do_not_overlap() -> None:
    columns = {name: np.random.default_rng(n).random(64) for n, name in enumerate("abcde")}
    data = data_of(**columns)
    layout = interaction_figure(data).to_plotly_json()["layout"]
    for places in (layout, layout["meta"]["narrow"]):
        boxes = [
            (places[f"xaxis{n}"]["domain"], places[f"yaxis{n}"]["domain"]) for n in ("", 2, 3, 4, 5)
        ]
        assert all(0 <= low < high <= 1 for box in boxes for low, high in box)
        for (x, y), (other_x, other_y) in combinations(boxes, 2):
            assert min(x[1], other_x[1]) <= max(x[0], other_x[0]) or min(y[1], other_y[1]) < max(
                y[0], other_y[0]
            )
    for kind in ("xaxis", "yaxis"):
        assert len({tuple(layout[f"{kind}{n}"]["range"]) for n in ("", 2, 3, 4, 5)}) == 1


def test_colors_and_markers_are_those_of_the_headings() -> None:
    figure = interaction_figure(USUAL)
    glyphs = {"●": "circle", "◆": "diamond", "■": "square"}
    headings = {
        glyphs[note.text[0]]: note.font.color
        for note in figure.layout.annotations
        if note.text[0] in glyphs
    }
    markers = [trace.marker for trace in figure.data if trace.mode == "markers"]
    drawn = {s: m.color for m in markers for s in m.symbol if s != "arrow-up"}
    assert drawn == headings


def test_panel_requires_other_hyperparameters() -> None:
    assert '<section id="interaction"' not in render(make_report())
    assert '<section id="interaction"' in render(searched(dropout=DROPOUT, width=WIDTHS))
    assert len(figures(searched(dropout=DROPOUT))["interaction"].data) > 2


def test_hostile_names_and_choices_are_escaped() -> None:
    hostile = "<b>x</b>"
    columns = {hostile: np.where(np.arange(64) % 2, hostile, "plain")}
    figure = interaction_figure(data_of(**columns))
    texts = [note.text for note in figure.layout.annotations]
    texts += [text for trace in figure.data for text in trace.text or ()]
    assert any("&lt;b&gt;" in text for text in texts)
    assert not any(hostile in text for text in texts)
