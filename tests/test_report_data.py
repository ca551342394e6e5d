"""The report's arithmetic, on numbers and without drawing."""

import math
from itertools import product
from typing import Any

import numpy as np
import pytest

from sweeper.report import wording
from sweeper.report.figures import scales, style
from sweeper.report.figures.calibrated import calibrated_data, calibrated_notes
from sweeper.report.figures.history import history_data, history_notes
from sweeper.report.figures.importance import importance_data
from sweeper.report.figures.response import response_data, response_notes
from sweeper.report.figures.schedules import Courses, schedules_data, schedules_notes
from sweeper.report.figures.trade_off import trade_off_data, trade_off_notes
from sweeper.report.report_input import finished, prepared
from sweeper.report.summary import summarise
from sweeper.report.trial_table import trials_table
from sweeper.study.spec import Space
from tests.support.report_frames import (
    EPOCHS,
    SCHEDULES,
    frame,
    make_epochs,
    make_report,
    make_trial,
    make_trials,
)

READY = prepared(make_report())


def rows_of(*changes: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the baseline and one fixed trial a change."""
    rng = np.random.default_rng(0)
    rows = [make_trial(0, 0.0, "fixed", math.nan, rng)]
    for number, change in enumerate(changes, start=1):
        rows.append(make_trial(number, 0.05 * number, "fixed", math.nan, rng) | change)
    return rows


def study(*changes: dict[str, Any], **fields: Any) -> Any:
    """Return a prepared report of the baseline and one fixed trial a change."""
    return prepared(make_report(frame(rows_of(*changes)), **fields))


def valued(value: float, **more: Any) -> dict[str, Any]:
    """Return what gives a trial this NLL."""
    return {"value": value, "nll": value, **more}


# scales


@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_the_one_that_comparing_every_pair_finds(seed: int) -> None:
    costs = np.random.default_rng(seed).integers(0, 5, size=(40, 3)).astype(float)
    beaten = {
        i
        for i, j in product(range(40), repeat=2)
        if (costs[j] <= costs[i]).all() and (costs[j] < costs[i]).any()
    }
    assert set(np.flatnonzero(~scales.pareto_front(costs))) == beaten


def test_the_front_of_nothing_is_empty() -> None:
    assert scales.pareto_front(np.empty((0, 3))).size == 0


def test_an_axis_is_cut_only_before_values_far_above_the_others() -> None:
    usual = np.linspace(0.09, 0.13, 20)
    limit = scales.upper_limit(np.append(usual, [7.0, math.inf]))
    assert limit is not None
    assert usual.max() < limit < 7
    assert scales.upper_limit(usual) is None
    assert scales.upper_limit(np.array([0.1, 9.0])) is None


def test_an_axis_is_never_cut_below_the_baseline() -> None:
    values = np.append(np.linspace(0.09, 0.13, 20), [3.0, 7.0])
    assert scales.upper_limit(values, shown=(3.0,)) == 3.0


def test_pruned_trials_do_not_flatten_the_others() -> None:
    values = [valued(0.1 + 0.01 * n) for n in range(6)]
    late = {"state": "pruned", "value": None, "nll": 2.2}
    trials = study(*values, late).trials
    for data in (response_data(trials, "nll", Space()), history_data(trials, "nll")):
        assert data.limit is not None
        assert data.limit < 1


def test_the_axis_of_epsilon_starts_at_zero_and_has_a_length() -> None:
    low, high = scales.epsilon_range(np.array([0.0, 0.4]))
    assert -0.05 < low < 0 < 0.4 < high < 0.5
    assert scales.epsilon_range(np.array([0.0]))[1] > 0.1


def test_values_beyond_the_limit_lie_on_it() -> None:
    np.testing.assert_array_equal(scales.clipped(np.array([1, 3, np.inf]), 2.0), [1, 2, 2])


def test_an_axis_without_spread_still_has_a_length() -> None:
    low, high = scales.axis_range(np.array([0.2, 0.2]), None)
    assert low < 0.2 < high


def test_the_kernel_mean_is_the_weighted_mean() -> None:
    x, y = np.array([0.0, 0.1]), np.array([1.0, 3.0])
    near = math.exp(-0.5 * (0.1 / 0.05) ** 2)
    expected = (1 * near + 3) / (near + 1)
    assert scales.kernel_mean(x, y, np.array([0.1]), 0.05)[0] == pytest.approx(expected)


def test_the_kernel_mean_far_from_all_points_is_finite() -> None:
    x, y = np.array([0.0, 0.1]), np.array([1.0, 3.0])
    assert scales.kernel_mean(x, y, np.array([50.0]), 0.01)[0] == pytest.approx(3.0)


# which trials count


def test_a_copied_result_is_no_new_evidence() -> None:
    copied = READY.trials.dropna(subset=["copied_from"])["number"]
    assert len(copied) == 1
    assert not set(copied) & set(finished(READY.trials)["number"])


def test_a_trial_that_finished_on_no_number_never_wins() -> None:
    report = study(valued(-math.inf), valued(math.nan), valued(math.inf), valued(0.05))
    assert list(finished(report.trials)["number"]) == [4, 0]
    assert "3 trials finished on a value that is no finite number" in " ".join(
        summarise(report).warnings
    )


# response


def test_a_line_needs_four_finished_trials() -> None:
    four = study(*[valued(0.1 + 0.01 * n) for n in range(4)])
    three = study(*[valued(0.1 + 0.01 * n) for n in range(3)])
    assert [line.schedule for line in response_data(four.trials, "nll", Space()).lines] == ["fixed"]
    assert response_data(three.trials, "nll", Space()).lines == ()
    assert "No line is drawn" in " ".join(
        response_notes(response_data(three.trials, "nll", Space()))
    )


def test_a_line_keeps_to_the_range_of_its_trials_and_leaves_out_the_clipped() -> None:
    report = study(*[valued(0.1 + 0.001 * n) for n in range(8)], valued(9.0))
    (line,) = response_data(report.trials, "nll", Space()).lines
    assert (line.x.min(), line.x.max()) == pytest.approx((0.05, 0.4))
    assert line.y.max() < 0.11


def test_the_trials_of_a_study_are_split_by_schedule_without_the_baseline() -> None:
    data = response_data(READY.trials, "nll", Space())
    assert [group.schedule for group in data.finished] == list(SCHEDULES)
    assert all((group.x > 0).all() for group in data.finished)
    assert sum(len(group.x) for group in data.finished) == len(finished(READY.trials)) - 1
    assert data.baseline is not None
    assert data.baseline.x[0] == 0


def test_pruned_trials_are_drawn_only_where_they_have_the_metric() -> None:
    assert sum(len(group.x) for group in response_data(READY.trials, "nll", Space()).pruned) == 5
    assert response_data(READY.trials, "nll_calibrated", Space()).pruned == ()


def test_the_note_counts_what_lies_beyond_the_axis() -> None:
    report = study(*[valued(0.1 + 0.001 * n) for n in range(8)], valued(9.0))
    assert "1 trial above" in " ".join(response_notes(response_data(report.trials, "nll", Space())))


# trade-off


def test_the_front_names_its_members() -> None:
    scores = {"accuracy": 0.9, "ece": 0.02}
    better = {"accuracy": 0.99, "ece": 0.01}
    report = study(valued(0.01, **better), valued(0.2, **scores))
    data = trade_off_data(report.trials)
    assert list(data.number[data.front]) == [1]
    assert "On the front: trial 1." in trade_off_notes(data)[0]
    assert data.error[data.number == 2] == pytest.approx(10.0)


def test_the_baseline_is_never_laid_on_the_edge() -> None:
    near = [valued(0.01 + 0.0001 * n, accuracy=0.999, ece=0.01) for n in range(8)]
    data = trade_off_data(study(*near, valued(9.0, accuracy=0.1, ece=0.5)).trials)
    base = int(np.flatnonzero(data.number == 0)[0])
    error, nll, ece = data.limits
    assert data.error[base] == error
    assert data.nll[base] == nll
    assert ece is not None
    assert data.ece[base] <= ece < 50
    assert "colour ends at" in " ".join(trade_off_notes(data))


def test_a_front_with_many_members_is_not_listed_in_full() -> None:
    many = [valued(0.1 - 0.001 * n, accuracy=0.9 - 0.01 * n) for n in range(30)]
    note = trade_off_notes(trade_off_data(study(*many).trials))[0]
    assert "more. No other" in note
    assert note.count(",") < 20


# calibrated


def test_each_score_picks_its_own_lowest() -> None:
    data = calibrated_data(READY.trials)
    done = finished(READY.trials)
    assert data.raw_best is not None
    assert data.scaled_best is not None
    assert data.raw_best["nll"] == done["nll"].min()
    assert data.scaled_best["nll_calibrated"] == done["nll_calibrated"].min()
    assert not data.agree


@pytest.mark.parametrize(
    ("temperature", "words"), [(0.6, "too cautious"), (1.8, "too sure"), (1.02, None)]
)
def test_the_words_say_which_way_the_temperature_went(
    temperature: float, words: str | None
) -> None:
    report = study(
        valued(0.08, nll_calibrated=0.079),
        valued(0.15, nll_calibrated=0.06, temperature=temperature),
    )
    (note, *_) = calibrated_notes(calibrated_data(report.trials))
    assert "Raw NLL is lowest at ε = 0.05, fixed (trial 1)" in note
    assert "after temperature scaling at ε = 0.10, fixed (trial 2)" in note
    assert [side in note for side in ("too cautious", "too sure")] == [
        side == words for side in ("too cautious", "too sure")
    ]


def test_the_words_are_honest_where_both_scores_agree() -> None:
    report = study(valued(0.05, nll_calibrated=0.04))
    data = calibrated_data(report.trials)
    assert data.agree
    assert "Both scores are lowest at trial 1" in calibrated_notes(data)[0]
    assert "disagree" not in " ".join(calibrated_notes(data))


# schedules


def test_the_courses_are_the_baseline_and_the_best_of_each_schedule() -> None:
    data = schedules_data(READY.trials, READY.epochs)
    assert [course.schedule for course in data.courses] == ["", *SCHEDULES]
    for course in data.courses:
        assert len(course.nll) == EPOCHS
        assert len(course.epsilon) == EPOCHS + 1


def test_a_course_starts_at_the_whole_epsilon() -> None:
    course = next(
        course
        for course in schedules_data(READY.trials, READY.epochs).courses
        if course.schedule == "exponential"
    )
    best = finished(READY.trials).query("schedule == 'exponential'").iloc[0]
    assert course.epsilon[0] == best["epsilon"]
    assert (np.diff(course.epsilon) < 0).all()


def test_the_line_of_an_adaptive_schedule_is_the_mean_that_was_used_where_it_is_known() -> None:
    epochs = READY.epochs.assign(mean_epsilon=0.4 * READY.epochs["epsilon"])
    data = schedules_data(READY.trials, epochs)
    (course,) = (course for course in data.courses if course.schedule == "confidence")
    assert course.kind == "mean"
    assert course.epsilon[1:] == pytest.approx(0.4 * ceilings(data, "confidence"))
    assert "the mean of those" in " ".join(schedules_notes(data))
    assert "ceiling" not in " ".join(schedules_notes(data))


def ceilings(data: Courses, schedule: str) -> Any:
    (course,) = (
        c for c in schedules_data(READY.trials, READY.epochs).courses if c.schedule == schedule
    )
    assert course.epoch.size == data.courses[0].epoch.size
    return course.epsilon[1:]


def test_the_line_of_an_adaptive_schedule_is_called_a_ceiling() -> None:
    notes = " ".join(schedules_notes(schedules_data(READY.trials, READY.epochs)))
    assert "Adaptive (confidence and error)" in notes
    assert "ceiling" in notes
    assert "ceiling" not in " ".join(
        schedules_notes(schedules_data(study({}).trials, READY.epochs))
    )


# history and importance


def test_the_best_so_far_never_rises_and_ends_at_the_best() -> None:
    data = history_data(READY.trials, "nll")
    done = finished(READY.trials)
    assert (np.diff(data.number) > 0).all()
    expected = [done[done["number"] <= number]["value"].min() for number in data.number]
    np.testing.assert_array_equal(data.best, expected)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((0.2, 0.05, 0.1), "The best was trial 2; the 1 trial finished since did not beat it."),
        ((0.2, 0.1, 0.05), "The best was trial 3; none has finished since."),
    ],
)
def test_the_history_says_when_the_best_was_found(values: tuple[float, ...], words: str) -> None:
    report = study(*map(valued, values))
    assert words in history_notes(history_data(report.trials, "nll"))


def test_importance_is_sorted_in_percent_without_what_is_no_number() -> None:
    data = importance_data({"rate": 0.2, "epsilon": 0.8, "hp_dropout": math.nan})
    assert data.names == ("rate", "epsilon")
    assert data.shares == pytest.approx((20, 80))


# summary


def test_the_headline_names_the_best_and_the_difference() -> None:
    report = study(valued(0.1, accuracy=0.98, ece=0.02))
    base = report.trials.loc[0, "value"]
    summary = summarise(report)
    assert summary.headline == "Best found: ε = 0.05, fixed"
    assert f"{0.1 - base:.3f}".replace("-", "−") in summary.sentences[0]
    assert [tile.name for tile in summary.tiles] == ["NLL, nats", "accuracy", "ECE"]
    assert "best of 2 trials is lucky" in summary.warnings[0]
    assert "one split and one seed" in summary.warnings[1]


def test_the_headline_says_that_nothing_was_gained() -> None:
    summary = summarise(study(valued(0.9)))
    assert summary.headline == "ε = 0 was best: no benefit found in this search"
    assert "ε = 0.05, fixed (trial 1)" in summary.sentences[1]
    assert summary.tiles == ()


def test_a_tie_is_no_benefit() -> None:
    base, other = rows_of({})
    tied = other | {"value": base["value"]}
    for numbers in ({"number": 0}, {"number": 1}), ({"number": 1}, {"number": 0}):
        rows = [base | numbers[0], tied | numbers[1]]
        assert summarise(prepared(make_report(frame(rows)))).kind == "none"


def test_another_trial_at_zero_is_no_benefit_of_smoothing() -> None:
    assert summarise(study(valued(0.01, epsilon=0.0), valued(0.02))).kind == "none"


def test_the_short_table_has_the_baseline_and_each_schedule_once() -> None:
    rows = summarise(READY).rows
    assert rows[0].name == "ε = 0 (baseline)"
    assert sorted(row.name for row in rows[1:]) == sorted(SCHEDULES)
    assert sum(row.best for row in rows) == 1


def test_the_metric_after_scaling_decides_where_the_study_says_so() -> None:
    rows = rows_of(valued(0.5, nll_calibrated=0.01) | {"value": 0.01})
    rows[0]["value"] = rows[0]["nll_calibrated"]
    report = prepared(make_report(frame(rows), metric="nll_calibrated"))
    summary = summarise(report)
    assert "validation NLL after temperature scaling of 0.010" in summary.sentences[0]
    assert summary.tiles[0].name == "NLL after scaling, nats"


# table


def test_a_cell_shows_few_digits_and_keeps_them_all() -> None:
    report = study(valued(0.123456789, extra_margin=1.23456, hp_optimiser="sgd"))
    table = trials_table(report.trials, 1)
    cells = dict(zip([c.heading for c in table.columns], table.rows[1].cells, strict=True))
    assert (cells["NLL"].text, cells["NLL"].value) == ("0.123", "0.123456789")
    assert (cells["margin"].text, cells["margin"].number) == ("1.23", True)
    assert (cells["optimiser"].text, cells["optimiser"].number) == ("sgd", False)
    assert [row.mark for row in table.rows] == ["baseline", "best"]


def test_a_failure_shows_its_first_line_and_keeps_the_rest() -> None:
    report = study({"state": "failed", "value": None, "failure": "ValueError: no\nat line 3"})
    note = trials_table(report.trials, 0).rows[1].cells[-1]
    assert note.text == "ValueError: no"
    assert note.value == "ValueError: no\nat line 3"


def test_a_copied_result_says_whose_it_is() -> None:
    report = study(valued(0.1), valued(0.1, copied_from=1))
    assert "trial 1" in trials_table(report.trials, 1).rows[2].cells[-1].text


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
def test_nats_have_no_more_digits_than_mean_anything(value: float, text: str) -> None:
    assert wording.nll(value) == text


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
    assert wording.change(before, after) == text


@pytest.mark.parametrize(
    ("spoken", "text"),
    [
        (wording.percent(0.02345), "2.3 %"),
        (wording.points(0.967, 0.98), "+1.3 points"),
        (wording.points(0.98, 0.98), "±0.0 points"),
        (wording.epsilon(0.1666), "0.17"),
        (wording.epsilon(0.00666), "0.0067"),
        (wording.epsilon(0.0), "0"),
        (wording.figure(2.345), "2.3"),
        (wording.figure(11.9), "12"),
        (wording.figure(2.0), "2.0"),
        (wording.figure(9.97), "10"),
        (wording.figure(0.456), "0.46"),
        (wording.seconds(0.43), "0.4 s"),
        (wording.seconds(600.0), "10 min"),
        (wording.listed(["a"]), "a"),
        (wording.listed(["a", "b", "c"]), "a, b and c"),
        (wording.counted(1, "trial"), "1 trial"),
    ],
)
def test_numbers_in_words(spoken: str, text: str) -> None:
    assert spoken == text


def test_a_ready_schedule_looks_the_same_in_every_study() -> None:
    assert style.styles(["mine.py:slow", "fixed"])["fixed"] == style.styles(["step"])["fixed"]


def test_every_schedule_has_a_colour_and_a_marker_of_its_own() -> None:
    styles = style.styles(f"mine.py:{letter}" for letter in "abcd").values()
    assert len({style.colour for style in styles}) == len(styles) == 11
    assert len({style.symbol for style in styles}) == 11


def test_every_colour_has_one_for_dark_ground() -> None:
    own = [f"mine.py:{letter}" for letter in "abcd"]
    colours = {style.colour for style in style.styles(own).values()} | {style.INK, style.FAINT}
    dark = style.dark_colours()
    assert colours == dark.keys()
    assert len(set(dark.values())) == len(dark)


def test_made_up_epochs_cover_the_finished_trials() -> None:
    trials = make_trials(20)
    done = trials[trials["state"] == "complete"]
    assert set(make_epochs(trials)["number"]) == set(done["number"])
