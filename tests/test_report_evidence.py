"""The report's part about a confirmation: verdict, forest, sides, reliability, replicates."""

import math
import re
from dataclasses import replace
from functools import cache

import pytest

from sweeper.confirmation.intervals import Interval
from sweeper.confirmation.surrogate import Smoothed
from sweeper.report import render, wording
from sweeper.report.figures.forest import forest_data, forest_figure, forest_notes
from sweeper.report.figures.registry import figures
from sweeper.report.figures.reliability import reliability_data, reliability_figure
from sweeper.report.figures.response import response_data, response_figure, response_notes
from sweeper.report.report_input import finished, prepared
from sweeper.report.score_table import sides
from sweeper.report.summary import summarise
from sweeper.report.trial_table import trials_table
from sweeper.report.verdict_section import confirmed
from sweeper.study.spec import Space
from tests.support.report_evidence import (
    EXAMPLES,
    LABELS,
    POINTS,
    SEEDS,
    confirmed_report,
    make_evidence,
)
from tests.support.report_frames import make_report, make_trials
from tests.support.report_pages import CONFIRMED, HOSTILE, own_part, words


@cache
def page(case: str = "helps") -> str:
    """Return the words of a confirmed study's page."""
    shifts = {"helps": (-0.04, -0.03, 0.06), "none": (0.0, 0.0, 0.0), "hurts": (0.05, 0.04, 0.06)}
    return words(render(confirmed_report(make_evidence(shifts[case]))))


# the verdict


@pytest.mark.parametrize(
    ("case", "headline"),
    [
        ("helps", "Helps: use ε = 0.2, cosine, rate 2"),
        ("none", "No benefit shown: use ε = 0"),
        ("hurts", "Hurts: use ε = 0"),
    ],
)
def test_the_verdict_is_the_first_that_a_page_says(case: str, headline: str) -> None:
    text = page(case)
    assert headline in text
    # The first of a heading is the link to it.
    assert text.index(headline) < text.rindex("Each candidate against ε = 0")
    assert "Lowest in the search" in text
    assert "Best found" not in text


@pytest.mark.parametrize("case", ["helps", "none", "hurts"])
def test_what_the_search_found_does_not_contradict_the_verdict(case: str) -> None:
    said = {"helps": "helps", "none": "no benefit shown", "hurts": "hurts"}[case]
    shifts = {"helps": -0.04, "none": 0.0, "hurts": 0.05}[case]
    summary = summarise(prepared(confirmed_report(make_evidence((shifts, 0.0, 0.0)))))
    assert "the search's lucky value" in summary.sentences[-1]
    assert f"the pick, trial 3, on fresh seeds and test examples: {said}." in summary.sentences[-1]
    assert summary.tiles == ()
    assert "label_smoothing" not in " ".join(summary.sentences)
    assert summary.warnings == ()


def test_every_sentence_of_the_verdict_stands_on_the_page_with_its_settings() -> None:
    evidence = make_evidence(settings={"constraint": "accuracy >= baseline - 0.5"})
    report = confirmed_report(evidence)
    assert report.verdict is not None
    text = words(render(report))
    for sentence in report.verdict.sentences:
        assert sentence in text
    settings = "6 fresh seeds for each of 4 candidates · 300 test examples"
    assert f"{settings} · pick: lowest smoothed validation NLL · constraint: accuracy >=" in text


def test_a_pick_that_breaks_the_constraint_is_not_to_be_used() -> None:
    said = confirmed(confirmed_report(make_evidence(settings={"constraint": "nll <= 0.001"})))
    assert said.headline == "Helps in NLL, but not to be used: ε = 0.2, cosine, rate 2"
    assert said.kind == "none"
    assert "label_smoothing" not in " ".join(said.sentences)


@pytest.mark.parametrize("choice", ["best", "one_standard_error", "knee"])
def test_the_rule_of_choice_is_said(choice: str) -> None:
    said = confirmed(confirmed_report(make_evidence(settings={"choice": choice})))
    expected = {"best": "lowest", "one_standard_error": "smallest ε", "knee": "knee"}
    assert f"pick: {expected[choice]}" in said.settings


def test_what_helps_is_said_in_torchs_argument_too() -> None:
    said = confirmed(confirmed_report(make_evidence()))
    # 0.2 · 10/9
    assert said.sentences[-1].endswith("label_smoothing = 0.22 before the schedule acts.")


def test_a_study_without_a_confirmation_says_so_and_how_to_make_one() -> None:
    html = render(make_report())
    text = words(html)
    assert text.index("Not confirmed") < text.index("Best found")
    assert "When the search has ended: sweeper confirm digits" in text
    for panel in CONFIRMED:
        assert f'<section id="{panel}"' not in html


def test_a_search_that_gives_nothing_to_confirm_says_why() -> None:
    said = confirmed(make_report(unconfirmed="no trial with ε > 0 has finished"))
    assert "nothing to confirm: no trial with ε > 0 has finished." in said.sentences[0]
    assert said.command == ""


def test_a_confirmation_under_way_says_how_far_and_shows_no_half_of_it() -> None:
    whole = make_evidence()
    part = replace(whole, replicates=whole.replicates[:13])
    report = confirmed_report(part)
    html = render(report)
    assert "Confirmation under way: 13 of 24 trainings have ended" in words(html)
    for panel in CONFIRMED:
        assert f'<section id="{panel}"' not in html
    assert "replicates: mean, range" not in html


def test_a_confirmation_that_failed_says_so() -> None:
    whole = make_evidence()
    failed = [
        replace(r, examples={}, scores={}, failure="out of memory") if r.candidate == 1 else r
        for r in whole.replicates
    ]
    report = confirmed_report(replace(whole, replicates=failed))
    assert report.verdict is None
    text = words(render(report))
    assert "No verdict: the confirmation failed" in text
    assert "training runs failed, most often with: out of memory" in text
    assert "No score of the confirmation can be compared" in text


# the forest


def test_the_forest_has_the_pick_first_and_the_numbers_of_the_evidence() -> None:
    evidence = make_evidence()
    data = forest_data(evidence)
    assert [row.role for row in data.rows] == ["pick", "runner-up", "default"]
    assert [row.tested for row in data.rows] == [True, False, False]
    for index, row in enumerate(data.rows, start=1):
        assert row.comparison == evidence.compare(index, "nll")
        assert row.seeds.mean() == pytest.approx(row.comparison.difference.estimate)
        assert len(row.seeds) == SEEDS
    assert "The pick's is the one test" in forest_notes(data)[0]


def test_the_forest_is_in_the_studys_metric() -> None:
    evidence = make_evidence(metric="nll_calibrated")
    for replicate in evidence.replicates:
        replicate.examples["nll"][:] = math.nan
    data = forest_data(evidence)
    assert data.rows[0].seeds.mean() == pytest.approx(-0.04, abs=0.01)
    title = forest_figure(data).layout.xaxis.title.text
    assert title.startswith("difference in test NLL after temperature scaling from ε = 0")


def test_a_bar_is_the_interval_and_only_the_picks_is_strong() -> None:
    data = forest_data(make_evidence())
    bars = [trace for trace in forest_figure(data).data if trace.mode == "lines+markers"]
    for row, bar in zip(data.rows, bars, strict=True):
        difference = row.comparison.difference
        assert list(bar.x) == [difference.low, difference.high]
    colours = [bar.line.color for bar in bars]
    assert colours[0] not in colours[1:]


def test_a_candidate_far_away_does_not_flatten_the_pick() -> None:
    data = forest_data(make_evidence((-0.04, -0.03, 9.0)))
    low, high = data.limits
    pick = data.rows[0].comparison.difference
    assert low <= pick.low < pick.high <= high < 1
    assert "Arrows" in forest_notes(data)[-1]
    assert "Arrows" not in " ".join(forest_notes(forest_data(make_evidence())))


def test_a_schedule_of_a_studys_own_is_shown_as_it_is_and_short() -> None:
    evidence = make_evidence((-0.04,))
    own = replace(evidence.candidates[1], point={**POINTS["pick"], "schedule": HOSTILE})
    data = forest_data(replace(evidence, candidates=[evidence.candidates[0], own]))
    assert "<b>x" not in data.rows[0].label
    assert "&lt;b&gt;x&lt;/b&gt;" in data.rows[0].label
    assert "…" in data.rows[0].label


# the sides


def test_each_side_is_better_same_or_worse_by_its_own_score() -> None:
    evidence = make_evidence()
    found = {row.name: row for row in sides(confirmed_report(evidence)).rows}
    assert list(found) == ["accuracy", "raw NLL", "NLL after scaling", "ECE", "AURC × 1000"]
    # The shift moves the NLL alone; who is right and how sure is left as it was.
    assert [row.word for row in found.values()] == ["same", "better", "better", "same", "same"]
    assert [name for name, row in found.items() if row.tested] == ["raw NLL"]
    nll = evidence.compare(1, "nll")
    assert nll is not None
    assert found["raw NLL"].baseline == wording.nll(nll.baseline)
    assert found["raw NLL"].difference == wording.difference(nll.difference)


def test_the_sides_come_to_a_sentence_and_say_what_is_no_test() -> None:
    text = page()
    assert "Better in raw NLL and NLL after scaling; same in accuracy, ECE and AURC." in text
    assert "All but the study’s metric, NLL, is descriptive" in text


def test_the_gap_is_training_against_test_where_there_is_a_training_split() -> None:
    evidence = make_evidence()
    said = sides(confirmed_report(evidence)).gap
    nll = evidence.compare(1, "nll")
    assert nll is not None
    assert "training split (labels: 20 % replaced)" in said
    assert f"ε = 0: NLL 0.010 against {wording.nll(nll.baseline)}" in said
    assert f"the pick: NLL 0.0060 against {wording.nll(nll.mean)}" in said
    for replicate in evidence.replicates:
        del replicate.scores["train"]  # type: ignore[attr-defined]
    assert sides(confirmed_report(evidence)).gap == ""


# reliability


def test_the_diagrams_hold_the_pooled_examples_of_both() -> None:
    evidence = make_evidence()
    data = reliability_data(evidence)
    assert [panel.title for panel in data.panels] == ["ε = 0", "ε = 0.2, cosine, rate 2"]
    for panel in data.panels:
        for diagram in (panel.raw, panel.scaled):
            assert diagram.samples.sum() == SEEDS * EXAMPLES
    examples = evidence.done[1][0].examples
    raw = data.panels[1].raw
    mean = (raw.samples * raw.accuracy).sum() / raw.samples.sum()
    assert mean == pytest.approx(examples["correct"].mean())
    # Confidence is 0.1 above the accuracy, and the scaled one is right.
    over = [d.confidence - d.accuracy for d in (data.panels[0].raw, data.panels[0].scaled)]
    assert over[0].mean() > 0.05 > abs(over[1].mean())


def test_the_ece_of_a_diagram_is_the_one_of_the_table() -> None:
    evidence = make_evidence()
    for replicate in evidence.done[1].values():
        replicate.examples["confidence"][:] -= 0.05
    for index, panel in zip((0, 1), reliability_data(evidence).panels, strict=True):
        for diagram, score in ((panel.raw, "ece"), (panel.scaled, "ece_calibrated")):
            found = evidence.compare(index, score)
            assert found is not None
            assert diagram.ece == pytest.approx(found.mean)
    notes = reliability_figure(reliability_data(evidence)).layout.annotations
    ece = evidence.compare(0, "ece")
    assert ece is not None
    assert f"ECE {wording.percent(ece.mean)}, after scaling" in notes[0].text


def test_a_marker_is_as_large_as_its_bin() -> None:
    data = reliability_data(make_evidence())
    drawn = [trace for trace in reliability_figure(data).data if trace.mode == "lines+markers"]
    assert list(drawn[0].marker.size) == list(data.panels[0].raw.samples)
    assert drawn[0].marker.sizemode == "area"


# the response


def test_line_and_band_are_what_the_process_expects_at_the_rate_of_the_best() -> None:
    trials = prepared(make_report()).trials
    data = response_data(trials, "nll", Space())
    line = next(line for line in data.lines if line.schedule == "cosine")
    done = finished(trials)
    best = done[(done["schedule"] == "cosine") & (done["epsilon"] > 0)].iloc[0]
    assert line.rate == best["rate"]
    kept = done[done["value"] <= data.limit].reset_index(drop=True)
    at = best.to_frame().T.assign(epsilon=line.x[10]).infer_objects()
    mean, error = Smoothed(kept, Space(), "value").at(at)
    assert line.y[10] == pytest.approx(mean[0])
    assert line.low[10] == pytest.approx(mean[0] * math.exp(-1.96 * error[0]))
    assert line.high[10] == pytest.approx(mean[0] * math.exp(1.96 * error[0]))
    assert f"cosine {wording.figure(best['rate'])}" in response_notes(data)[0]


def test_a_band_ends_where_the_axis_does() -> None:
    trials = prepared(make_report()).trials
    data = response_data(trials, "nll", Space())
    assert data.limit is not None
    low = min(line.high.max() for line in data.lines)
    bands = [t for t in response_figure(data._replace(limit=low)).data if t.fill == "toself"]
    assert len(bands) == len(data.lines)
    assert max(max(band.y) for band in bands) == low


def test_lines_of_many_trials_are_made_from_some_and_say_so() -> None:
    trials = prepared(make_report(make_trials(400))).trials
    data = response_data(trials, "nll", Space())
    assert data.fitted == (250, len(finished(trials)))
    assert f"over 250 of {data.fitted[1]} finished trials" in response_notes(data)[0]


def test_replicates_are_drawn_by_their_validation_values_apart_from_trials() -> None:
    evidence = make_evidence()
    trials = prepared(make_report()).trials
    data = response_data(trials, "nll", Space(), evidence)
    assert [one.epsilon for one in data.again] == [0.0, 0.2, 0.3, 0.09]
    for index, one in enumerate(data.again):
        expected = [r.scores["valid"]["nll"] for r in evidence.done[index].values()]
        assert list(one.values) == expected
    drawn = [t for t in response_figure(data).data if t.legendgroup == "again" and t.error_y.array]
    one = data.again[1]
    assert drawn[1].y[0] + drawn[1].error_y.array[0] == pytest.approx(one.values.max())
    assert drawn[1].y[0] - drawn[1].error_y.arrayminus[0] == pytest.approx(one.values.min())
    symbols = {str(t.marker.symbol) for t in response_figure(data).data if not t.legendgroup}
    assert drawn[0].marker.symbol not in symbols
    assert "on the same validation split" in response_notes(data)[1]
    assert response_data(trials, "nll", Space()).again == ()


def test_replicates_on_splits_of_their_own_are_called_so() -> None:
    evidence = make_evidence(settings={"resplit": True})
    trials = prepared(make_report()).trials
    data = response_data(trials, "nll", Space(), evidence)
    assert "on splits of their own" in response_notes(data)[1]


# the page


def test_every_part_of_a_confirmed_page_names_its_split_and_labels() -> None:
    text = page()
    assert "search’s scores are on the validation split (labels: drawn by hand)" in text
    assert "verdict’s on the test split (labels: checked twice)" in text
    assert text.count("Validation split; labels: drawn by hand.") == 6
    # forest, sides, reliability
    assert text.count("Test split; labels: checked twice.") == 3
    # sides, reliability
    said = "Temperatures are fitted on the validation split; labels: drawn by hand."
    assert text.count(f"Test split; labels: checked twice. {said}") == 2


def test_a_confirmed_page_has_every_part_in_order() -> None:
    html = render(confirmed_report(make_evidence()))
    found = re.findall(r"<section id=\"(\w+)\"", html)
    assert found[:3] == ["verdict", "forest", "summary"]
    assert [name for name in found if name in CONFIRMED] == CONFIRMED


def test_figures_for_notebooks_hold_the_confirmations() -> None:
    drawn = figures(confirmed_report(make_evidence()))
    assert len(drawn["forest"].data) > 3
    assert len(drawn["reliability"].data) > 3


def test_the_trial_of_the_pick_is_marked_in_the_table() -> None:
    trials = prepared(make_report()).trials
    rows = trials_table(trials, 17, 3).rows
    assert [rows[number].mark for number in (0, 3, 17)] == ["baseline", "pick", "best"]
    assert trials_table(trials, 3, 3).rows[3].mark == "best, pick"


def test_checks_of_health_stand_at_the_top() -> None:
    trials = make_trials()
    trials.loc[3, "epsilon"] = 0.399
    text = words(render(replace(confirmed_report(make_evidence()), trials=trials)))
    assert text.index("Edge of the range") < text.rindex("Each candidate against")


@pytest.mark.parametrize("place", ["schedule", "failure", "label", "reason"])
def test_hostile_words_of_a_confirmation_stay_words(place: str) -> None:
    evidence = make_evidence()
    if place == "schedule":
        own = replace(evidence.candidates[2], point={**POINTS["runner-up"], "schedule": HOSTILE})
        evidence = replace(evidence, candidates=[*evidence.candidates[:2], own])
        evidence = replace(evidence, replicates=[r for r in evidence.replicates if r.candidate < 3])
    elif place == "failure":
        bad = [
            replace(r, examples={}, failure=HOSTILE) if r.candidate else r
            for r in evidence.replicates
        ]
        evidence = replace(evidence, replicates=bad)
    report = confirmed_report(evidence)
    if place == "label":
        report = replace(report, label_source={**LABELS, "test": HOSTILE})
    elif place == "reason":
        report = make_report(unconfirmed=HOSTILE)
    html = own_part(render(report))
    assert "<script>alert" not in html
    assert "<img" not in html
    assert html.count("</script>") == html.count("<script")
    assert "alert" in html


# words


@pytest.mark.parametrize(
    ("found", "factor", "text"),
    [
        (Interval(-0.0214, -0.0327, -0.00996, 0.0058, 9), 1.0, "−0.021 (−0.033 to −0.010)"),
        (Interval(0.0114, 0.0019, 0.0209, 0.005, 9), 100.0, "+1.14 (+0.19 to +2.09)"),
        (Interval(0.0, 0.0, 0.0, 0.0, 9), 1.0, "0.000 (0.000 to 0.000)"),
        (Interval(31.0, -400.0, 462.0, 1.0, 9), 1.0, "+31 (−400 to +462)"),
        (Interval(math.nan, math.nan, math.nan, 1.0, 9), 1.0, "– (– to –)"),
    ],
)
def test_a_difference_has_the_decimals_that_its_interval_supports(
    found: Interval, factor: float, text: str
) -> None:
    assert wording.difference(found, factor) == text
