"""The data and the notes of the figures, without drawing."""

import math
from itertools import product
from typing import Any

import numpy as np
import pytest

from sweeper import formatting as fmt
from sweeper.report.figures.calibrated import calibrated_data, calibrated_notes
from sweeper.report.figures.history import history_data, history_notes
from sweeper.report.figures.importance import importance_data
from sweeper.report.figures.kit import axes, statistics, style
from sweeper.report.figures.response import response_data, response_figure, response_notes
from sweeper.report.figures.schedules import EpsilonCurves, schedules_data, schedules_notes
from sweeper.report.figures.trade_off import trade_off_data, trade_off_notes
from sweeper.report.report_input import finished_trials, prepare
from sweeper.report.summary import summarize
from sweeper.report.trial_table import trials_table
from sweeper.study.dimensions import Space
from tests.support.report_frames import (
    EPOCHS,
    SCHEDULES,
    frame,
    make_epochs,
    make_report,
    make_trial,
    make_trials,
)

BUILT_IN_TASKS = prepare(make_report())


def rows_of(*changes: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the baseline and one fixed trial a change."""
    rng = np.random.default_rng(0)
    rows = [make_trial(0, 0.0, "fixed", math.nan, rng)]
    for number, change in enumerate(changes, start=1):
        rows.append(make_trial(number, 0.05 * number, "fixed", math.nan, rng) | change)
    return rows


def study(*changes: dict[str, Any], **fields: Any) -> Any:
    """Return a prepared report of the baseline and one fixed trial a change."""
    return prepare(make_report(frame(rows_of(*changes)), **fields))


def valued(value: float, **more: Any) -> dict[str, Any]:
    """Return what gives a trial this NLL."""
    return {"value": value, "nll": value, **more}


# scales


@pytest.mark.parametrize("seed", range(5))
def test_pareto_front_matches_pairwise_comparison(seed: int) -> None:
    costs = np.random.default_rng(seed).integers(0, 5, size=(40, 3)).astype(float)
    beaten = {
        i
        for i, j in product(range(40), repeat=2)
        if (costs[j] <= costs[i]).all() and (costs[j] < costs[i]).any()
    }
    assert set(np.flatnonzero(~statistics.pareto_front(costs))) == beaten


def test_pareto_front_of_no_points_is_empty() -> None:
    assert statistics.pareto_front(np.empty((0, 3))).size == 0


def test_axis_is_cut_only_for_outliers() -> None:
    usual = np.linspace(0.09, 0.13, 20)
    limit = axes.upper_limit(np.append(usual, [7.0, math.inf]))
    assert limit is not None
    assert usual.max() < limit < 7
    assert axes.upper_limit(usual) is None
    assert axes.upper_limit(np.array([0.1, 9.0])) is None


def test_an_axis_is_never_cut_below_the_baseline() -> None:
    values = np.append(np.linspace(0.09, 0.13, 20), [3.0, 7.0])
    assert axes.upper_limit(values, shown=(3.0,)) == 3.0


def test_pruned_trials_do_not_flatten_the_others() -> None:
    values = [valued(0.1 + 0.01 * n) for n in range(6)]
    late = {"state": "pruned", "value": None, "nll": 2.2}
    trials = study(*values, late).trials
    for data in (response_data(trials, "nll", Space()), history_data(trials, "nll")):
        assert data.limit is not None
        assert data.limit < 1


def test_the_axis_of_epsilon_starts_at_zero_and_has_a_length() -> None:
    low, high = axes.epsilon_range(np.array([0.0, 0.4]))
    assert -0.05 < low < 0 < 0.4 < high < 0.5
    assert axes.epsilon_range(np.array([0.0]))[1] > 0.1


def test_values_above_limit_are_clipped() -> None:
    np.testing.assert_array_equal(axes.clipped(np.array([1, 3, np.inf]), 2.0), [1, 2, 2])


def test_an_axis_without_spread_still_has_a_length() -> None:
    low, high = axes.axis_range(np.array([0.2, 0.2]), None)
    assert low < 0.2 < high


def test_the_kernel_mean_is_the_weighted_mean() -> None:
    x, y = np.array([0.0, 0.1]), np.array([1.0, 3.0])
    near = math.exp(-0.5 * (0.1 / 0.05) ** 2)
    expected = (1 * near + 3) / (near + 1)
    assert statistics.kernel_mean(x, y, np.array([0.1]), 0.05)[0] == pytest.approx(expected)


def test_the_kernel_mean_far_from_all_points_is_finite() -> None:
    x, y = np.array([0.0, 0.1]), np.array([1.0, 3.0])
    assert statistics.kernel_mean(x, y, np.array([50.0]), 0.01)[0] == pytest.approx(3.0)


# which trials count


def test_copied_results_are_not_counted_as_evidence() -> None:
    copied = BUILT_IN_TASKS.trials.dropna(subset=["copied_from"])["number"]
    assert len(copied) == 1
    assert not set(copied) & set(finished_trials(BUILT_IN_TASKS.trials)["number"])


def test_trial_with_nan_value_is_never_best() -> None:
    report = study(valued(-math.inf), valued(math.nan), valued(math.inf), valued(0.05))
    assert list(finished_trials(report.trials)["number"]) == [4, 0]
    assert "3 trials finished with a non-finite value" in " ".join(summarize(report).warnings)


# response


def test_a_line_needs_four_finished_trials() -> None:
    four = study(*[valued(0.1 + 0.01 * n) for n in range(4)])
    three = study(*[valued(0.1 + 0.01 * n) for n in range(3)])
    assert [line.schedule for line in response_data(four.trials, "nll", Space()).lines] == ["fixed"]
    assert response_data(three.trials, "nll", Space()).lines == ()
    assert "No line is drawn" in " ".join(
        response_notes(response_data(three.trials, "nll", Space()))
    )


def test_line_covers_unclipped_trials_only() -> None:
    report = study(*[valued(0.1 + 0.001 * n) for n in range(8)], valued(9.0))
    (line,) = response_data(report.trials, "nll", Space()).lines
    assert (line.x.min(), line.x.max()) == pytest.approx((0.05, 0.4))
    assert line.y.max() < 0.11


def test_the_trials_of_a_study_are_split_by_schedule_without_the_baseline() -> None:
    data = response_data(BUILT_IN_TASKS.trials, "nll", Space())
    assert [group.schedule for group in data.finished] == list(SCHEDULES)
    assert all((group.x > 0).all() for group in data.finished)
    assert (
        sum(len(group.x) for group in data.finished)
        == len(finished_trials(BUILT_IN_TASKS.trials)) - 1
    )
    assert data.baseline is not None
    assert data.baseline.x[0] == 0


def test_pruned_trials_are_drawn_only_where_they_have_the_metric() -> None:
    assert (
        sum(len(group.x) for group in response_data(BUILT_IN_TASKS.trials, "nll", Space()).pruned)
        == 5
    )
    assert response_data(BUILT_IN_TASKS.trials, "nll_calibrated", Space()).pruned == ()


def test_every_schedule_that_is_drawn_is_in_the_legend() -> None:
    report = study(valued(0.1), valued(0.2), valued(0.3, state="pruned", schedule="cosine"))
    figure = response_figure(response_data(report.trials, "nll", Space()))
    names = {trace.name for trace in figure.data if trace.showlegend is not False}
    assert {"fixed", "cosine", "pruned"} <= names


def test_note_counts_clipped_values() -> None:
    report = study(*[valued(0.1 + 0.001 * n) for n in range(8)], valued(9.0))
    assert "1 trial above" in " ".join(response_notes(response_data(report.trials, "nll", Space())))


# trade-off


def test_the_front_names_its_members() -> None:
    scores = {"accuracy": 0.9, "ece": 0.02}
    better = {"accuracy": 0.99, "ece": 0.01}
    report = study(valued(0.01, **better), valued(0.2, **scores))
    data = trade_off_data(report.trials)
    assert list(data.number[data.front]) == [1]
    assert "Pareto front: trial 1." in trade_off_notes(data)[0]
    assert data.error[data.number == 2] == pytest.approx(10.0)


def test_baseline_is_never_clipped() -> None:
    near = [valued(0.01 + 0.0001 * n, accuracy=0.999, ece=0.01) for n in range(8)]
    data = trade_off_data(study(*near, valued(9.0, accuracy=0.1, ece=0.5)).trials)
    base = int(np.flatnonzero(data.number == 0)[0])
    error, nll, ece = data.limits
    assert data.error[base] == error
    assert data.nll[base] == nll
    assert ece is not None
    assert data.ece[base] <= ece < 50
    assert "color scale ends at" in " ".join(trade_off_notes(data))


def test_long_pareto_front_is_abbreviated() -> None:
    many = [valued(0.1 - 0.001 * n, accuracy=0.9 - 0.01 * n) for n in range(30)]
    note = trade_off_notes(trade_off_data(study(*many).trials))[0]
    assert "more. No other" in note
    assert note.count(",") < 20


# calibrated


def test_each_score_picks_its_own_lowest() -> None:
    data = calibrated_data(BUILT_IN_TASKS.trials)
    done = finished_trials(BUILT_IN_TASKS.trials)
    assert data.raw_best is not None
    assert data.scaled_best is not None
    assert data.raw_best["nll"] == done["nll"].min()
    assert data.scaled_best["nll_calibrated"] == done["nll_calibrated"].min()
    assert not data.agree


@pytest.mark.parametrize(
    ("temperature", "words"), [(0.6, "underconfident"), (1.8, "overconfident"), (1.02, None)]
)
def test_note_states_temperature_direction(temperature: float, words: str | None) -> None:
    report = study(
        valued(0.08, nll_calibrated=0.079),
        valued(0.15, nll_calibrated=0.06, temperature=temperature),
    )
    (note, *_) = calibrated_notes(calibrated_data(report.trials))
    assert "Raw NLL is lowest at ε = 0.05, fixed (trial 1)" in note
    assert "after temperature scaling at ε = 0.10, fixed (trial 2)" in note
    assert [side in note for side in ("underconfident", "overconfident")] == [
        side == words for side in ("underconfident", "overconfident")
    ]


def test_note_when_both_scores_agree() -> None:
    report = study(valued(0.05, nll_calibrated=0.04))
    data = calibrated_data(report.trials)
    assert data.agree
    assert "Both scores are lowest at trial 1" in calibrated_notes(data)[0]
    assert "differ because" not in " ".join(calibrated_notes(data))


# schedules


def test_the_curves_are_the_baseline_and_the_best_of_each_schedule() -> None:
    data = schedules_data(BUILT_IN_TASKS.trials, BUILT_IN_TASKS.epochs)
    assert [curve.schedule for curve in data.curves] == ["", *SCHEDULES]
    for curve in data.curves:
        assert len(curve.nll) == EPOCHS
        assert len(curve.epsilon) == EPOCHS + 1


def test_a_curve_starts_at_the_whole_epsilon() -> None:
    curve = next(
        curve
        for curve in schedules_data(BUILT_IN_TASKS.trials, BUILT_IN_TASKS.epochs).curves
        if curve.schedule == "exponential"
    )
    best = finished_trials(BUILT_IN_TASKS.trials).query("schedule == 'exponential'").iloc[0]
    assert curve.epsilon[0] == best["epsilon"]
    assert (np.diff(curve.epsilon) < 0).all()


def test_adaptive_schedule_line_is_mean_epsilon_if_known() -> None:
    epochs = BUILT_IN_TASKS.epochs.assign(mean_epsilon=0.4 * BUILT_IN_TASKS.epochs["epsilon"])
    data = schedules_data(BUILT_IN_TASKS.trials, epochs)
    (curve,) = (curve for curve in data.curves if curve.schedule == "confidence")
    assert curve.kind == "mean"
    assert curve.epsilon[1:] == pytest.approx(0.4 * ceilings(data, "confidence"))
    assert "the mean ε over the examples" in " ".join(schedules_notes(data))
    assert "ceiling" not in " ".join(schedules_notes(data))


def ceilings(data: EpsilonCurves, schedule: str) -> Any:
    (curve,) = (
        c
        for c in schedules_data(BUILT_IN_TASKS.trials, BUILT_IN_TASKS.epochs).curves
        if c.schedule == schedule
    )
    assert curve.epoch.size == data.curves[0].epoch.size
    return curve.epsilon[1:]


def test_adaptive_schedule_line_is_labeled_ceiling() -> None:
    notes = " ".join(schedules_notes(schedules_data(BUILT_IN_TASKS.trials, BUILT_IN_TASKS.epochs)))
    assert "Adaptive (confidence and error)" in notes
    assert "ceiling" in notes
    assert "ceiling" not in " ".join(
        schedules_notes(schedules_data(study({}).trials, BUILT_IN_TASKS.epochs))
    )


# history and importance


def test_the_best_so_far_never_rises_and_ends_at_the_best() -> None:
    data = history_data(BUILT_IN_TASKS.trials, "nll")
    done = finished_trials(BUILT_IN_TASKS.trials)
    assert (np.diff(data.number) > 0).all()
    expected = [done[done["number"] <= number]["value"].min() for number in data.number]
    np.testing.assert_array_equal(data.best, expected)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((0.2, 0.05, 0.1), "Lowest: trial 2; 1 later trial finished without a lower value."),
        ((0.2, 0.1, 0.05), "Lowest: trial 3; no later trial has finished."),
    ],
)
def test_the_history_says_when_the_best_was_found(values: tuple[float, ...], words: str) -> None:
    report = study(*map(valued, values))
    assert words in history_notes(history_data(report.trials, "nll"))


def test_importance_is_sorted_and_omits_nan() -> None:
    data = importance_data({"rate": 0.2, "epsilon": 0.8, "hp_dropout": math.nan})
    assert data.names == ("rate", "epsilon")
    assert data.shares == pytest.approx((20, 80))


# summary


def test_the_headline_names_the_best_and_the_difference() -> None:
    report = study(valued(0.1, accuracy=0.98, ece=0.02))
    base = report.trials.loc[0, "value"]
    summary = summarize(report)
    assert summary.headline == "Lowest in the search: ε = 0.05, fixed"
    assert f"{0.1 - base:.3f}".replace("-", "−") in summary.sentences[0]
    assert [tile.name for tile in summary.tiles] == ["NLL, nats", "accuracy", "ECE"]
    assert "best of 2 trials is optimistically biased" in summary.warnings[0]
    assert "one split and one seed" in summary.warnings[1]


def test_headline_without_benefit() -> None:
    summary = summarize(study(valued(0.9)))
    assert summary.headline == "Lowest in the search: ε = 0"
    assert "ε = 0.05, fixed (trial 1)" in summary.sentences[1]
    assert summary.tiles == ()


def test_a_tie_is_no_benefit() -> None:
    base, other = rows_of({})
    tied = other | {"value": base["value"]}
    for numbers in ({"number": 0}, {"number": 1}), ({"number": 1}, {"number": 0}):
        rows = [base | numbers[0], tied | numbers[1]]
        assert summarize(prepare(make_report(frame(rows)))).kind == "none"


def test_second_epsilon_0_trial_is_not_a_benefit() -> None:
    assert summarize(study(valued(0.01, epsilon=0.0), valued(0.02))).kind == "none"


def test_the_short_table_has_the_baseline_and_each_schedule_once() -> None:
    rows = summarize(BUILT_IN_TASKS).rows
    assert rows[0].name == "ε = 0 (baseline)"
    assert sorted(row.name for row in rows[1:]) == sorted(SCHEDULES)
    assert sum(row.best for row in rows) == 1


def test_calibrated_metric_decides_if_configured() -> None:
    rows = rows_of(valued(0.5, nll_calibrated=0.01) | {"value": 0.01})
    rows[0]["value"] = rows[0]["nll_calibrated"]
    report = prepare(make_report(frame(rows), metric="nll_calibrated"))
    summary = summarize(report)
    assert "validation NLL after temperature scaling of 0.010" in summary.sentences[0]
    assert summary.tiles[0].name == "NLL after scaling, nats"


# table


def test_a_cell_shows_few_digits_and_keeps_them_all() -> None:
    report = study(valued(0.123456789, extra_margin=1.23456, hp_optimizer="sgd"))
    table = trials_table(report.trials, {"lowest": 1})
    cells = dict(zip([c.heading for c in table.columns], table.rows[1].cells, strict=True))
    assert (cells["NLL"].text, cells["NLL"].value) == ("0.123", "0.123456789")
    assert (cells["margin"].text, cells["margin"].number) == ("1.23", True)
    assert (cells["optimizer"].text, cells["optimizer"].number) == ("sgd", False)
    assert [row.mark for row in table.rows] == ["baseline", "lowest"]


def test_a_failure_shows_its_first_line_and_keeps_the_rest() -> None:
    report = study({"state": "failed", "value": None, "failure": "ValueError: no\nat line 3"})
    note = trials_table(report.trials, {"lowest": 0}).rows[1].cells[-1]
    assert note.text == "ValueError: no"
    assert note.value == "ValueError: no\nat line 3"


def test_copied_result_names_its_source() -> None:
    report = study(valued(0.1), valued(0.1, copied_from=1))
    assert "trial 1" in trials_table(report.trials, {"lowest": 1}).rows[2].cells[-1].text


# words and looks


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0871234, "0.087"),
        (2.302585, "2.303"),
        (12.3456, "12.3"),
        (0.00871, "0.0087"),
        (0.0, "0.000"),
        (123456.0, "1.2e+05"),
        (math.nan, "–"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
    ],
)
def test_nll_has_meaningful_digits(value: float, text: str) -> None:
    assert fmt.nll(value) == text


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (0.126, 0.087, "−0.039"),
        (0.126, 0.1301, "+0.004"),
        (0.126, 0.1261, "0.000"),
        (0.0081, 0.0072, "−0.0009"),
        (0.1, math.nan, "–"),
    ],
)
def test_a_change_has_a_sign_and_the_decimals_of_its_values(
    before: float, after: float, text: str
) -> None:
    assert fmt.change(before, after) == text


@pytest.mark.parametrize(
    ("spoken", "text"),
    [
        (fmt.percent(0.02345), "2.3%"),
        (fmt.points(0.967, 0.98), "+1.3 points"),
        (fmt.points(0.98, 0.98), "±0.0 points"),
        (fmt.epsilon(0.1666), "0.17"),
        (fmt.epsilon(0.00666), "0.0067"),
        (fmt.epsilon(0.0), "0"),
        (fmt.two_figures(2.345), "2.3"),
        (fmt.two_figures(11.9), "12"),
        (fmt.two_figures(2.0), "2.0"),
        (fmt.two_figures(9.97), "10"),
        (fmt.two_figures(0.456), "0.46"),
        (fmt.duration(0.43), "0.4 s"),
        (fmt.duration(600.0), "10 min"),
        (fmt.join_words(["a"]), "a"),
        (fmt.join_words(["a", "b", "c"]), "a, b and c"),
        (fmt.count_noun(1, "trial"), "1 trial"),
    ],
)
def test_number_formatting(spoken: str, text: str) -> None:
    assert spoken == text


def test_built_in_schedule_style_is_constant() -> None:
    assert style.styles(["mine.py:slow", "fixed"])["fixed"] == style.styles(["step"])["fixed"]


def test_schedule_styles_are_distinct() -> None:
    styles = style.styles(f"mine.py:{letter}" for letter in "abcd").values()
    assert len({style.color for style in styles}) == len(styles) == 11
    assert len({style.symbol for style in styles}) == 11


def test_every_color_has_a_dark_variant() -> None:
    own = [f"mine.py:{letter}" for letter in "abcd"]
    colors = {style.color for style in style.styles(own).values()} | {style.INK, style.FAINT}
    dark = style.dark_colors()
    assert colors == dark.keys()
    assert len(set(dark.values())) == len(dark)


def test_synthetic_epochs_cover_finished_trials() -> None:
    trials = make_trials(20)
    done = trials[trials["state"] == "complete"]
    assert set(make_epochs(trials)["number"]) == set(done["number"])
