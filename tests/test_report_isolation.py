"""Isolation plots: the best trials in bins of epsilon, their hyperparameters and the words."""

import math
from collections.abc import Callable, Mapping
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from sweeper.bundled import bundled_folder
from sweeper.report import render
from sweeper.report.figures.isolation import (
    TOLERANCE,
    Isolation,
    isolation_data,
    isolation_figure,
    isolation_notes,
)
from sweeper.report.figures.kit.markers import MAX_DRAWN
from sweeper.report.figures.kit.statistics import MAX_BINS, MIN_PER_BIN, epsilon_bins
from sweeper.report.figures.optima import Optima
from sweeper.report.figures.registry import draw, figures
from sweeper.report.report_input import ReportInput, prepare
from sweeper.study.dimensions import Space
from sweeper.study.load import read_study
from sweeper.study.space import from_unit
from tests.support.report_evidence import make_evidence
from tests.support.report_frames import frame, make_report, make_trial, make_trials

Change = Mapping[str, Any]
EPSILONS = (0.0, 0.1, 0.2, 0.3, 0.4)
EXPONENTS = np.arange(-5, -0.9, 0.5)
SPACE = Space.model_validate(
    {
        "weight_decay": {"low": 1e-5, "high": 0.1, "log": True},
        "dropout": {"low": 0.0, "high": 0.5},
        "momentum": {"low": 0.5, "high": 1.0},
        "optimizer": ["sgd", "adam"],
        "width": [64, 32, 128],
        "nesterov": [True, False],
    }
)


def trial(number: int, epsilon: float, value: float, **changes: Any) -> dict[str, Any]:
    row = make_trial(number, epsilon, "fixed", math.nan, np.random.default_rng(0))
    return row | {"value": value, "nll": value} | changes


def report_of(rows: list[dict[str, Any]], **fields: Any) -> ReportInput:
    return prepare(make_report(frame(rows), **{"space": SPACE, **fields}))


def data_of(rows: list[dict[str, Any]], space: Space = SPACE) -> Isolation:
    return isolation_data(report_of(rows).trials, "nll", space)


def landscape(value: Callable[[float, float], float]) -> list[dict[str, Any]]:
    """Return a grid of trials: the value depends on epsilon and the exponent of weight decay."""
    points = [(epsilon, float(exponent)) for epsilon in EPSILONS for exponent in EXPONENTS]
    return [
        trial(number, epsilon, value(epsilon, exponent), hp_weight_decay=10**exponent)
        for number, (epsilon, exponent) in enumerate(points)
    ]


def choices(name: str, *points: tuple[float, float, Any]) -> list[dict[str, Any]]:
    """Return a trial per point: epsilon, value and hyperparameter."""
    return [
        trial(number, epsilon, value, **{f"hp_{name}": setting})
        for number, (epsilon, value, setting) in enumerate(points)
    ]


def only(data: Isolation) -> Optima:
    (optima,) = data.optima
    return optima


def words(data: Isolation) -> str:
    return " ".join(isolation_notes(data))


SHARP = landscape(lambda e, d: 0.1 + (e - 0.2) ** 2 + 0.1 * (d + 2 + 5 * e) ** 2)
FLAT = landscape(lambda e, d: 0.1 + (e - 0.2) ** 2 + (0.5 if d < -4 else 1e-4 * d))


# ---- the best result and where it is ------------------------------------------------------


def test_each_bin_has_the_minimum_over_the_other_hyperparameters() -> None:
    data = data_of(SHARP)
    assert [(each.low, each.high) for each in data.bins] == [(e, e) for e in EPSILONS]
    np.testing.assert_allclose(
        [each.values[0] for each in data.bins], [0.1 + (e - 0.2) ** 2 for e in EPSILONS]
    )
    assert [float(each.best.y[0]) for each in data.bins] == [each.values[0] for each in data.bins]
    assert [each.trials for each in data.bins] == [len(EXPONENTS)] * len(EPSILONS)


def test_the_optimum_of_a_hyperparameter_moves_with_epsilon() -> None:
    optima = only(data_of(SHARP))
    assert [float(each.best.x[0]) for each in optima.optima] == list(EPSILONS)
    np.testing.assert_allclose(
        [float(each.best.y[0]) for each in optima.optima], [10 ** (-2 - 5 * e) for e in EPSILONS]
    )


def test_almost_as_good_trials_are_those_within_the_tolerance() -> None:
    values = [(0.0, 0.1), (0.0, 0.14), (0.0, 0.17), (0.0, 0.3), (0.0, 0.3), (0.2, 0.3), (0.2, 0.5)]
    points = [(epsilon, value, 0.05 * n) for n, (epsilon, value) in enumerate(values)]
    data = data_of(choices("dropout", *points))
    assert data.tolerance == pytest.approx(TOLERANCE * (0.3 - 0.1)) == pytest.approx(0.05)
    optima = only(data)
    assert [sorted(each.near) for each in optima.optima] == [[0.0, 0.05], [0.25]]
    assert sorted(optima.near.y) == [0.0, 0.05, 0.25]
    assert sorted(optima.others[1]) == pytest.approx([0.1, 0.15, 0.2, 0.3])


def test_only_flat_hyperparameters_are_called_flat() -> None:
    assert only(data_of(FLAT)).flat
    assert "For weight_decay, trials that are almost as good cover at least half" in words(
        data_of(FLAT)
    )
    assert not only(data_of(SHARP)).flat
    flat_at_0 = data_of(landscape(lambda e, d: 0.1 + (abs(d + 3) if e else 0.0)))
    shares = [only(flat_at_0).scale.share(each.near) for each in only(flat_at_0).optima]
    assert shares[0] == 1
    assert max(shares[1:]) < 0.5
    assert not only(flat_at_0).flat
    assert "cover at least half" not in words(data_of(SHARP))


def test_bins_without_a_second_good_trial_are_counted() -> None:
    rows = choices("dropout", (0.0, 0.2, 0.1), (0.0, 0.9, 0.2), (0.2, 0.1, 0.3), (0.3, 0.9, 0.4))
    assert "In 2 of 2 cases no other trial of the bin is almost as good" in words(data_of(rows))
    assert "no other trial" not in words(data_of(FLAT))


def test_the_tolerance_is_the_variation_between_seeds_if_it_is_known() -> None:
    evidence = make_evidence()
    pick, base = (
        np.array([r.scores["valid"]["nll"] for r in evidence.replicates if r.candidate == n], float)
        for n in (1, 0)
    )
    noise = np.std(pick - base, ddof=1)
    report = report_of(SHARP, evidence=evidence)
    data = isolation_data(report.trials, "nll", SPACE, evidence)
    assert data.tolerance == pytest.approx(noise)
    assert "standard deviation over seeds" in words(data)
    assert "standard deviation over seeds" in " ".join(draw("isolation", report).notes)
    assert "standard deviation" not in words(data_of(SHARP))


# ---- bins of epsilon ----------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, MIN_PER_BIN, 3 * MIN_PER_BIN, 1000])
def test_bins_partition_the_trials_evenly_with_epsilon_0_apart(count: int) -> None:
    epsilons = np.random.default_rng(0).permutation(
        np.append(np.zeros(3), np.random.default_rng(1).uniform(0.01, 0.4, count) ** 2)
    )
    masks = epsilon_bins(epsilons)
    np.testing.assert_array_equal(np.sum(masks, axis=0), np.ones(len(epsilons)))
    assert (epsilons[masks[0]] == 0).all()
    sizes = [int(mask.sum()) for mask in masks[1:]]
    assert len(sizes) == min(max(count // MIN_PER_BIN, min(count, 1)), MAX_BINS)
    assert max(sizes, default=0) - min(sizes, default=0) <= 1
    ends = [(epsilons[mask].min(), epsilons[mask].max()) for mask in masks]
    assert all(left[1] < right[0] for left, right in pairwise(ends))


def test_equal_values_of_epsilon_share_a_bin() -> None:
    epsilons = np.repeat(np.linspace(0.0, 0.4, 21), 9)
    masks = epsilon_bins(epsilons)
    assert 3 <= len(masks) <= MAX_BINS + 1
    sets = [set(epsilons[mask]) for mask in masks]
    assert all(not one & other for one, other in combinations(sets, 2))


def test_without_trials_there_are_no_bins() -> None:
    assert epsilon_bins(np.empty(0)) == []
    assert len(epsilon_bins(np.zeros(5))) == 1


# ---- kinds of hyperparameters -------------------------------------------------------------


def test_a_choice_is_best_at_its_place_in_the_study_file() -> None:
    rows = choices(
        "optimizer", (0.0, 0.2, "adam"), (0.0, 0.3, "sgd"), (0.2, 0.5, "adam"), (0.2, 0.1, "sgd")
    )
    optima = only(data_of(rows))
    assert optima.scale.choices == ("sgd", "adam")
    assert [float(each.best.y[0]) for each in optima.optima] == [1, 0]
    axis = isolation_figure(data_of(rows)).layout.yaxis2
    assert (list(axis.tickvals), list(axis.ticktext)) == ([0, 1], ["sgd", "adam"])
    assert axis.range[0] > axis.range[1]


@pytest.mark.parametrize(
    ("name", "settings", "shown"),
    [
        ("width", (64, 128, 64, 128), ["64", "128"]),
        ("nesterov", (True, False, False, True), ["True", "False"]),
        ("unknown", ("b", "a", 3, "a"), ["3", "a", "b"]),
        ("unknown", (True, False, True, True), ["False", "True"]),
        ("optimizer", ("adam", "sgd", "removed", "sgd"), ["sgd", "adam", "removed"]),
    ],
)
def test_choices_of_every_type_have_ticks(
    name: str, settings: tuple[Any, ...], shown: list[str]
) -> None:
    values = zip((0.0, 0.0, 0.2, 0.3), (0.2, 0.3, 0.1, 0.15), settings, strict=True)
    figure = isolation_figure(data_of(choices(name, *values)))
    assert list(figure.layout.yaxis2.ticktext) == shown


def test_ranges_show_all_searched_values_on_their_scale() -> None:
    axis = isolation_figure(data_of(SHARP)).layout.yaxis2
    assert axis.type == "log"
    assert axis.range[0] < -5
    assert axis.range[1] > -1
    assert "1e-3" in axis.ticktext
    rows = choices("dropout", (0.0, 0.2, 0.2), (0.1, 0.1, 0.3), (0.3, 0.3, 0.25))
    axis = isolation_figure(data_of(rows)).layout.yaxis2
    assert axis.type is None
    assert axis.range[0] < 0.0 < 0.5 < axis.range[1]


def test_numbers_without_a_range_in_the_space_have_a_linear_axis() -> None:
    rows = choices("lr", (0.0, 0.2, 0.01), (0.1, 0.1, 0.02), (0.3, 0.3, 0.3))
    scale = only(data_of(rows, Space())).scale
    assert (scale.low, scale.high, scale.log, scale.choices) == (0.01, 0.3, False, ())


@pytest.mark.parametrize("missing", [None, math.nan])
def test_inactive_hyperparameters_are_skipped_and_counted(missing: float | None) -> None:
    rows = choices(
        "momentum",
        (0.0, 0.1, missing),
        (0.0, 0.3, 0.9),
        (0.0, 0.4, 0.6),
        (0.2, 0.2, 0.7),
        (0.3, 0.1, missing),
    )
    data = data_of(rows)
    assert [float(each.best.y[0]) for each in only(data).optima] == [0.9, 0.7]
    assert [float(each.values[0]) for each in data.bins] == [0.1, 0.1]
    assert "left out of its plot: momentum (2)" in words(data)
    assert "nan" not in str(isolation_figure(data).to_json()).lower()


def test_hyperparameters_with_one_value_are_omitted() -> None:
    fixed = [row | {"hp_lr": 0.1, "hp_old": None} for row in SHARP]
    assert [each.name for each in data_of(fixed).optima] == ["weight_decay"]


# ---- states of a study --------------------------------------------------------------------


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [trial(0, 0.0, 0.1), trial(1, 0.2, 0.2)],
        choices("dropout", (0.0, 0.1, 0.1), (0.2, 0.2, 0.1)),
        choices("dropout", (0.0, 0.1, 0.1), (0.0, 0.2, 0.2)),
        choices("dropout", (0.2, 0.1, 0.1), (0.3, 0.2, 0.2)),
        [row | {"state": "failed", "value": None} for row in SHARP],
    ],
    ids=["no trial", "nothing else", "one value", "only ε = 0", "one bin", "all failed"],
)
def test_figure_is_empty_if_nothing_can_be_compared(rows: list[dict[str, Any]]) -> None:
    trials = frame(rows) if rows else make_trials(1).iloc[:0]
    assert draw("isolation", prepare(make_report(trials, space=SPACE))).figure is None


@pytest.mark.parametrize(
    "change",
    [
        {"state": "pruned", "value": None, "nll": 0.001},
        {"state": "failed", "value": None, "nll": math.nan},
        {"value": math.nan, "nll": math.nan},
        {"value": -math.inf, "nll": -math.inf},
        {"value": 0.001, "copied_from": 3},
    ],
    ids=["pruned", "failed", "nan", "infinite", "copied"],
)
def test_only_finished_trials_with_a_finite_value_count(change: Change) -> None:
    extra = trial(len(SHARP), 0.2, 0.001, hp_weight_decay=0.1) | dict(change)
    usual, data = data_of(SHARP), data_of([*SHARP, extra])
    assert [each.values.tolist() for each in data.bins] == [
        each.values.tolist() for each in usual.bins
    ]
    assert len(only(data).near.x) == len(only(usual).near.x)
    assert ("1 pruned trial" in words(data)) == (change.get("state") == "pruned")


def test_without_epsilon_0_no_baseline_is_drawn() -> None:
    data = data_of([row for row in SHARP if row["epsilon"] > 0])
    assert data.baseline is None
    assert "No trial with ε = 0 has finished." in words(data)
    assert not [shape for shape in isolation_figure(data).layout.shapes if shape.line.width > 1]


def test_baseline_is_a_line_and_a_cross() -> None:
    figure = isolation_figure(data_of(SHARP))
    (line,) = (shape for shape in figure.layout.shapes if shape.line.dash == "dash")
    assert line.y0 == line.y1 == pytest.approx(0.14)
    crosses = [t for t in figure.data if t.mode == "markers" and "x" in list(t.marker.symbol or [])]
    assert len(crosses) == 3  # in both plots and in the legend


def test_notes_compare_equal_numbers_of_trials() -> None:
    rows = choices(
        "dropout",
        (0.0, 0.2, 0.1),
        (0.0, 0.3, 0.2),
        (0.1, 0.15, 0.3),
        (0.2, 0.1, 0.4),
        (0.3, 0.4, 0.5),
    )
    note = words(data_of(rows))
    assert "the lowest validation NLL is 0.100 (trial 3, the best of 3)" in note
    assert (
        "in the bin with ε from 0.10 to 0.30. With ε = 0 it is 0.200 (trial 0, the best of 2)"
        in note
    )
    expected = np.mean([min(pair) for pair in combinations((0.15, 0.1, 0.4), 2)])
    assert f"the best of 2 trials, drawn at random from those with ε > 0, is {expected:.3f}" in note
    assert "drawn at random" not in words(data_of([*rows[:2], *rows[2:4]]))
    assert "only the confirmation estimates the effect of ε" in note


def test_the_axis_of_the_metric_shows_the_best_trials() -> None:
    bad = [trial(100 + n, 0.2, 50.0 + n, hp_weight_decay=0.01) for n in range(3)]
    data = data_of([*SHARP, *bad])
    assert data.limit is not None
    assert 0.14 < data.limit < 0.2
    figure = isolation_figure(data)
    assert figure.layout.yaxis.range[1] < 0.2
    above = sum(row["value"] > data.limit for row in [*SHARP, *bad])
    assert f"Not drawn: {above} trials above" in words(data)


def test_a_bin_without_a_good_trial_is_an_arrow() -> None:
    data = data_of([*SHARP, *(trial(100 + n, 0.9, 1e6, hp_weight_decay=0.01) for n in range(9))])
    assert data.limit is not None
    assert data.limit < 100
    symbols = [list(t.marker.symbol) for t in isolation_figure(data).data if t.mode == "markers"]
    assert symbols.count(["arrow-up"]) == 1


def test_lines_need_several_trials_of_two_schedules() -> None:
    def studied(*schedules: str) -> Isolation:
        rows = [row | {"schedule": schedules[n % len(schedules)]} for n, row in enumerate(SHARP)]
        return data_of(rows)

    assert studied("fixed").lines == ()
    assert {line.schedule for line in studied("fixed", "cosine").lines} == {"fixed", "cosine"}
    names = ("fixed", "cosine", "linear", "step", "error")
    assert studied(*names).lines == ()  # about two trials of each in a bin
    best = studied("fixed", "cosine")
    lowest = np.min([line.y for line in best.lines], axis=0)
    np.testing.assert_allclose(lowest, [each.values[0] for each in best.smoothed])
    assert "best trials of one schedule" in words(best)


# ---- the figure and the page --------------------------------------------------------------


def every_kind(count: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    optimizer = rng.choice(["sgd", "adam"], count)
    return make_trials(count).assign(
        hp_weight_decay=10 ** rng.uniform(-5, -1, count),
        hp_optimizer=optimizer,
        hp_momentum=np.where(optimizer == "sgd", rng.uniform(0.5, 1, count), math.nan),
    )


def check_boxes(places: Any, count: int) -> None:
    axes = ["", *map(str, range(2, count + 1))]
    boxes = [(places[f"xaxis{n}"]["domain"], places[f"yaxis{n}"]["domain"]) for n in axes]
    for (x, y), (other_x, other_y) in combinations(boxes, 2):
        assert min(x[1], other_x[1]) <= max(x[0], other_x[0]) or min(y[1], other_y[1]) < max(
            y[0], other_y[0]
        )


def test_plots_have_one_scale_of_epsilon_and_do_not_overlap() -> None:
    report = prepare(make_report(every_kind(64), space=SPACE))
    figure = isolation_figure(isolation_data(report.trials, "nll", SPACE))
    layout = figure.to_plotly_json()["layout"]
    check_boxes(layout, 4)
    check_boxes(layout["meta"]["narrow"], 4)
    assert len({tuple(layout[f"xaxis{n}"]["range"]) for n in ("", 2, 3, 4)}) == 1
    headings = [note["text"] for note in layout["annotations"]]
    assert headings == [
        "<b>lowest NLL (nats)</b>",
        "<b>momentum</b>",
        "<b>optimizer</b>",
        "<b>weight_decay (log scale)</b>",
    ]


def test_panel_requires_other_hyperparameters() -> None:
    assert '<section id="isolation"' not in render(make_report())
    searched = make_report(every_kind(64).drop(columns="hp_momentum"))
    assert '<section id="isolation"' in render(searched)
    assert isinstance(figures(searched)["isolation"], go.Figure)


def test_the_example_study_has_a_plot_for_each_of_its_hyperparameters() -> None:
    space = read_study(bundled_folder("studies") / "digits-regularizers.toml").spec.space
    rng = np.random.default_rng(0)
    points = [from_unit(space, dict.fromkeys(space.dimensions, u)) for u in rng.random(20)]
    trials = make_trials(20)
    for name in space.extras:
        trials[f"hp_{name}"] = [point[name] for point in points]
    data = isolation_data(prepare(make_report(trials)).trials, "nll", space)
    assert [each.name for each in data.optima] == list(space.extras)
    assert [each.name for each in data.optima if each.scale.log] == ["l1", "weight_decay"]


def test_thousands_of_trials_are_thinned() -> None:
    report = prepare(make_report(every_kind(6000), space=SPACE, epochs=pd.DataFrame()))
    drawing = draw("isolation", report)
    assert drawing.figure is not None
    assert max(len(trace.x) for trace in drawing.figure.data) <= MAX_DRAWN
    assert any("overlapping points hidden" in note for note in drawing.notes)
    assert len(drawing.figure.to_json()) < 2_500_000


def test_hostile_names_and_choices_are_escaped() -> None:
    hostile = "<b>x</b>"
    rows = choices(
        hostile,
        (0.0, 0.2, hostile),
        (0.0, 0.21, "plain"),
        (0.2, 0.1, hostile),
        (0.3, 0.11, "plain"),
    )
    figure = isolation_figure(data_of(rows))
    texts = [note.text for note in figure.layout.annotations]
    texts += list(figure.layout.yaxis2.ticktext)
    texts += [text for trace in figure.data for text in trace.text or ()]
    assert sum("&lt;b&gt;" in text for text in texts) > 4
    assert not any(hostile in text for text in texts)
