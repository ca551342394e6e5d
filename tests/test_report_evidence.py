"""The report's part about a confirmation: verdict, forest, scores, reliability, replicates."""

import math
import re
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from sweeper import formatting as fmt
from sweeper.confirmation.diagnostics import health_notes
from sweeper.confirmation.intervals import Interval
from sweeper.confirmation.surrogate import Surrogate
from sweeper.report import ReportInput, render
from sweeper.report.figures.forest import forest_data, forest_figure, forest_notes
from sweeper.report.figures.registry import figures
from sweeper.report.figures.reliability import reliability_data, reliability_figure
from sweeper.report.figures.response import response_data, response_figure, response_notes
from sweeper.report.report_input import finished_trials, prepare
from sweeper.report.score_table import score_table
from sweeper.report.summary import summarize
from sweeper.report.trial_table import trials_table
from sweeper.report.verdict_section import verdict_section
from sweeper.study.dimensions import Space
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
        ("helps", "Recommended: ε = 0.20, cosine, rate 2.0"),
        ("none", "Recommended: ε = 0 (no label smoothing)"),
        ("hurts", "Recommended: ε = 0 (no label smoothing)"),
    ],
)
def test_recommendation_is_first_on_the_page(case: str, headline: str) -> None:
    text = page(case)
    assert headline in text
    # The first of a heading is the link to it.
    assert text.index(headline) < text.rindex("Each candidate compared with ε = 0")
    assert "Lowest in the search" in text
    finding = {"helps": "rate 2.0 helps:", "none": "No benefit shown:", "hurts": "rate 2.0 hurts:"}
    lowest = "This value is optimistic, because it was selected from 57 trials"
    order = [headline, finding[case], "The pick compared with ε = 0 on the test split:", lowest]
    places = [text.index(part) for part in order]
    assert places == sorted(places)


@pytest.mark.parametrize("case", ["helps", "none", "hurts"])
def test_what_the_search_found_does_not_contradict_the_verdict(case: str) -> None:
    said = {"helps": "helps", "none": "no benefit shown", "hurts": "hurts"}[case]
    shifts = {"helps": -0.04, "none": 0.0, "hurts": 0.05}[case]
    summary = summarize(prepare(confirmed_report(make_evidence((shifts, 0.0, 0.0)))))
    assert "of 57 trials is optimistically biased" in summary.sentences[-1]
    assert (
        "it retrained the pick, trial 3, and ε = 0 on fresh seeds and scored both on test "
        f"examples. Verdict: {said}." in summary.sentences[-1]
    )
    assert summary.tiles == ()
    assert "label_smoothing" not in " ".join(summary.sentences)
    assert summary.warnings == ()


def test_page_contains_verdict_sentences_and_settings() -> None:
    evidence = make_evidence(settings={"constraint": "accuracy >= baseline - 0.5"})
    report = confirmed_report(evidence)
    assert report.verdict is not None
    text = words(render(report))
    for sentence in report.verdict.sentences:
        assert sentence in text
    settings = "6 fresh seeds for each of 4 candidates · 300 test examples"
    assert f"{settings} · pick: lowest smoothed validation NLL · constraint: accuracy >=" in text


def test_pick_violating_the_constraint_is_not_recommended() -> None:
    said = verdict_section(confirmed_report(make_evidence(settings={"constraint": "nll <= 0.001"})))
    assert said.headline == "Recommended: ε = 0 (no label smoothing)"
    assert said.kind == "none"
    assert "ε = 0.20, cosine, rate 2.0 helps" in said.finding
    assert "ε = 0 is recommended instead of the pick: the pick violates" in said.finding
    assert said.usage == ("Train with plain cross-entropy, the default of torch.", "")


@pytest.mark.parametrize("choice", ["best", "one_standard_error", "knee"])
def test_selection_rule_is_shown(choice: str) -> None:
    section = verdict_section(confirmed_report(make_evidence(settings={"choice": choice})))
    expected = {"best": "lowest", "one_standard_error": "smallest ε", "knee": "knee"}
    assert f"pick: {expected[choice]}" in section.settings


def with_pick(point: dict[str, Any]) -> ReportInput:
    """Return the report of a confirmation with another pick."""
    evidence = make_evidence()
    baseline, pick, *others = evidence.candidates
    return confirmed_report(
        replace(evidence, candidates=[baseline, replace(pick, point=point), *others])
    )


def test_label_smoothing_is_shown_only_for_a_fixed_schedule() -> None:
    page = words(render(with_pick({"epsilon": 0.18, "schedule": "fixed", "rate": 1.0})))
    assert "Recommended: ε = 0.18, fixed" in page
    assert "F.cross_entropy(logits, labels, label_smoothing=0.2)" in page  # 0.18 · 10/9
    assert "from_file" not in page


@pytest.mark.parametrize(
    ("schedule", "reason"),
    [
        ("cosine", "the cosine schedule changes ε during training"),
        ("error", "the error schedule gives each example its own ε"),
        ("mine", "the mine schedule changes ε during training"),
    ],
)
def test_page_explains_missing_label_smoothing_and_shows_the_snippet(
    schedule: str, reason: str
) -> None:
    page = words(render(with_pick({"epsilon": 0.18, "schedule": schedule, "rate": 1.0})))
    assert f"torch&#39;s label_smoothing is one constant number, but {reason}" in page.replace(
        "'", "&#39;"
    )
    assert "SmoothingLoss.from_file(" in page
    assert "label_smoothing=" not in page
    assert ("register_schedule" in page) == (schedule == "mine")


def test_the_recommended_configuration_names_the_other_hyperparameters() -> None:
    point = {"epsilon": 0.18, "schedule": "fixed", "rate": 1.0, "lr": 0.25, "layers": 3}
    assert "Other hyperparameters: lr = 0.25, layers = 3." in words(render(with_pick(point)))


def test_the_table_and_the_figures_mark_the_recommended_trial() -> None:
    report = confirmed_report(make_evidence())
    html = render(report)
    assert ">recommended</span>" in html
    for name in ("response", "trade_off"):
        figure = figures(report)[name]
        marks = [trace for trace in figure.data if trace.name == "recommended"]
        assert len(marks) == 1
        if name == "response":
            assert list(marks[0].x) == [0.2]
    unconfirmed = figures(make_report())
    for name in ("response", "trade_off"):
        assert "recommended" not in [trace.name for trace in unconfirmed[name].data]


def test_the_response_marks_epsilon_0_if_the_pick_does_not_help() -> None:
    drawn = figures(confirmed_report(make_evidence((0.0, 0.0, 0.0))))["response"]
    marks = [trace for trace in drawn.data if trace.name == "recommended"]
    assert list(marks[0].x) == [0.0]


def test_unconfirmed_study_shows_the_confirm_command() -> None:
    html = render(make_report())
    text = words(html)
    assert "Recommended" not in text
    assert text.index("No recommendation yet") < text.index("This value is optimistic")
    assert "After the search, run sweeper confirm digits" in text
    for panel in CONFIRMED:
        assert f'<section id="{panel}"' not in html


def test_search_without_candidates_reports_the_reason() -> None:
    said = verdict_section(make_report(unconfirmed="no trial with ε > 0 has finished"))
    assert "nothing to confirm: no trial with ε > 0 has finished." in said.finding
    assert said.command == ""


def test_running_confirmation_shows_only_progress() -> None:
    whole = make_evidence()
    part = replace(whole, replicates=whole.replicates[:13])
    report = confirmed_report(part)
    html = render(report)
    assert "Confirmation in progress: 13 of 24 training runs ended" in words(html)
    for panel in CONFIRMED:
        assert f'<section id="{panel}"' not in html
    assert "replicates: mean, range" not in html


def test_failed_confirmation_is_reported() -> None:
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
    assert "fewer than two pairs of seeds, so no metric can be compared" in text


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
    assert "Only the pick is a pre-specified comparison" in forest_notes(data)[0]


def test_the_forest_is_in_the_studys_metric() -> None:
    evidence = make_evidence(metric="nll_calibrated")
    for replicate in evidence.replicates:
        replicate.examples["nll"][:] = math.nan
    data = forest_data(evidence)
    assert data.rows[0].seeds.mean() == pytest.approx(-0.04, abs=0.01)
    title = forest_figure(data).layout.xaxis.title.text
    assert title.startswith("difference in test NLL after temperature scaling from ε = 0")


def test_forest_bars_are_intervals_with_pick_emphasized() -> None:
    data = forest_data(make_evidence())
    bars = [trace for trace in forest_figure(data).data if trace.mode == "lines+markers"]
    for row, bar in zip(data.rows, bars, strict=True):
        difference = row.comparison.difference
        assert list(bar.x) == [difference.low, difference.high]
    colors = [bar.line.color for bar in bars]
    assert colors[0] not in colors[1:]


def test_distant_candidate_does_not_flatten_the_pick() -> None:
    data = forest_data(make_evidence((-0.04, -0.03, 9.0)))
    low, high = data.limits
    pick = data.rows[0].comparison.difference
    assert low <= pick.low < pick.high <= high < 1
    assert "Arrows" in forest_notes(data)[-1]
    assert "Arrows" not in " ".join(forest_notes(forest_data(make_evidence())))


def test_custom_schedule_name_is_shortened() -> None:
    evidence = make_evidence((-0.04,))
    own = replace(evidence.candidates[1], point={**POINTS["pick"], "schedule": HOSTILE})
    data = forest_data(replace(evidence, candidates=[evidence.candidates[0], own]))
    assert "<b>x" not in data.rows[0].label
    assert "&lt;b&gt;x&lt;/b&gt;" in data.rows[0].label
    assert "…" in data.rows[0].label


# the scores of both


def test_score_table_words() -> None:
    evidence = make_evidence()
    found = {row.name: row for row in score_table(confirmed_report(evidence)).rows}
    assert list(found) == ["accuracy", "raw NLL", "NLL after scaling", "ECE", "AURC × 1000"]
    # The shift moves the NLL alone; who is right and how sure is left as it was.
    assert [row.word for row in found.values()] == ["same", "better", "better", "same", "same"]
    assert [name for name, row in found.items() if row.tested] == ["raw NLL"]
    nll = evidence.compare(1, "nll")
    assert nll is not None
    assert found["raw NLL"].baseline == fmt.nll(nll.baseline)
    assert found["raw NLL"].difference == fmt.difference(nll.difference)


def test_score_table_sentence() -> None:
    text = page()
    assert "Better in raw NLL and NLL after scaling; same in accuracy, ECE and AURC." in text
    assert "Only the study’s metric, NLL, is the pre-specified comparison" in text


def test_generalization_gap_uses_training_split() -> None:
    evidence = make_evidence()
    said = score_table(confirmed_report(evidence)).gap
    nll = evidence.compare(1, "nll")
    assert nll is not None
    assert "training split (labels: 20 % replaced)" in said
    assert f"ε = 0: NLL 0.010 vs. {fmt.nll(nll.baseline)}" in said
    assert f"pick: NLL 0.0060 vs. {fmt.nll(nll.mean)}" in said
    for replicate in evidence.replicates:
        del replicate.scores["train"]  # type: ignore[attr-defined]
    assert score_table(confirmed_report(evidence)).gap == ""


# reliability


def test_the_diagrams_hold_the_pooled_examples_of_both() -> None:
    evidence = make_evidence()
    data = reliability_data(evidence)
    assert [panel.title for panel in data.panels] == ["ε = 0", "ε = 0.20, cosine, rate 2.0"]
    for panel in data.panels:
        for diagram in (panel.raw, panel.scaled):
            assert diagram.samples.sum() == SEEDS * EXAMPLES
    examples = evidence.replicates_by_candidate[1][0].examples
    raw = data.panels[1].raw
    mean = (raw.samples * raw.accuracy).sum() / raw.samples.sum()
    assert mean == pytest.approx(examples["correct"].mean())
    # Confidence is 0.1 above the accuracy, and the scaled one is right.
    over = [d.confidence - d.accuracy for d in (data.panels[0].raw, data.panels[0].scaled)]
    assert over[0].mean() > 0.05 > abs(over[1].mean())


def test_the_ece_of_a_diagram_is_the_one_of_the_table() -> None:
    evidence = make_evidence()
    for replicate in evidence.replicates_by_candidate[1].values():
        replicate.examples["confidence"][:] -= 0.05
    for index, panel in zip((0, 1), reliability_data(evidence).panels, strict=True):
        for diagram, score in ((panel.raw, "ece"), (panel.scaled, "ece_calibrated")):
            found = evidence.compare(index, score)
            assert found is not None
            assert diagram.ece == pytest.approx(found.mean)
    notes = reliability_figure(reliability_data(evidence)).layout.annotations
    ece = evidence.compare(0, "ece")
    assert ece is not None
    assert f"ECE {fmt.percent(ece.mean)}, after scaling" in notes[0].text


def test_marker_area_is_bin_count() -> None:
    data = reliability_data(make_evidence())
    drawn = [trace for trace in reliability_figure(data).data if trace.mode == "lines+markers"]
    assert list(drawn[0].marker.size) == list(data.panels[0].raw.samples)
    assert drawn[0].marker.sizemode == "area"


# the response


def test_line_and_band_match_the_gaussian_process() -> None:
    trials = prepare(make_report()).trials
    data = response_data(trials, "nll", Space())
    line = next(line for line in data.lines if line.schedule == "cosine")
    done = finished_trials(trials)
    best = done[(done["schedule"] == "cosine") & (done["epsilon"] > 0)].iloc[0]
    assert line.rate == best["rate"]
    kept = done[done["value"] <= data.limit].reset_index(drop=True)
    at = best.to_frame().T.assign(epsilon=line.x[10]).infer_objects()
    mean, error = Surrogate(kept, Space(), "value").predict(at)
    assert line.y[10] == pytest.approx(mean[0])
    assert line.low[10] == pytest.approx(mean[0] * math.exp(-1.96 * error[0]))
    assert line.high[10] == pytest.approx(mean[0] * math.exp(1.96 * error[0]))
    assert f"cosine {fmt.two_figures(best['rate'])}" in response_notes(data)[0]


def test_band_is_clipped_at_the_axis() -> None:
    trials = prepare(make_report()).trials
    data = response_data(trials, "nll", Space())
    assert data.limit is not None
    low = min(line.high.max() for line in data.lines)
    bands = [t for t in response_figure(data._replace(limit=low)).data if t.fill == "toself"]
    assert len(bands) == len(data.lines)
    assert max(max(band.y) for band in bands) == low


def test_lines_of_many_trials_use_a_subset_and_note_it() -> None:
    trials = prepare(make_report(make_trials(400))).trials
    data = response_data(trials, "nll", Space())
    assert data.fitted == (250, len(finished_trials(trials)))
    assert f"fitted to 250 of {data.fitted[1]} finished trials" in response_notes(data)[0]


def test_replicates_are_drawn_by_their_validation_values_apart_from_trials() -> None:
    evidence = make_evidence()
    trials = prepare(make_report()).trials
    data = response_data(trials, "nll", Space(), evidence)
    assert [one.epsilon for one in data.replicates] == [0.0, 0.2, 0.3, 0.09]
    for index, one in enumerate(data.replicates):
        expected = [
            r.scores["valid"]["nll"] for r in evidence.replicates_by_candidate[index].values()
        ]
        assert list(one.values) == expected
    drawn = [
        t for t in response_figure(data).data if t.legendgroup == "replicates" and t.error_y.array
    ]
    one = data.replicates[1]
    assert drawn[1].y[0] + drawn[1].error_y.array[0] == pytest.approx(one.values.max())
    assert drawn[1].y[0] - drawn[1].error_y.arrayminus[0] == pytest.approx(one.values.min())
    symbols = {str(t.marker.symbol) for t in response_figure(data).data if not t.legendgroup}
    assert drawn[0].marker.symbol not in symbols
    assert "on the same validation split" in response_notes(data)[1]
    assert response_data(trials, "nll", Space()).replicates == ()


def test_resplit_replicates_are_labeled() -> None:
    evidence = make_evidence(settings={"resplit": True})
    trials = prepare(make_report()).trials
    data = response_data(trials, "nll", Space(), evidence)
    assert "on redrawn validation splits" in response_notes(data)[1]


# the page


def test_every_part_of_a_confirmed_page_names_its_split_and_labels() -> None:
    text = page()
    assert "search scores: validation split (labels: drawn by hand)" in text
    assert "verdict: test split (labels: checked twice)" in text
    assert text.count("Validation split; labels: drawn by hand.") == 6
    # forest, scores, reliability
    assert text.count("Test split; labels: checked twice.") == 3
    # scores, reliability
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
    trials = prepare(make_report()).trials
    rows = trials_table(trials, {"pick": 3, "lowest": 17}).rows
    assert [rows[number].mark for number in (0, 3, 17)] == ["baseline", "pick", "lowest"]
    assert trials_table(trials, {"pick": 3, "lowest": 3}).rows[3].mark == "pick, lowest"


def test_health_notes_are_at_the_top() -> None:
    report = confirmed_report(make_evidence())
    trials = make_trials()
    trials.loc[3, "epsilon"] = 0.399
    checks = health_notes(trials, report.space, report.evidence, report.verdict)
    text = words(render(replace(report, trials=trials, checks=checks)))
    assert text.index("Edge of the range") < text.rindex("Each candidate compared with")


@pytest.mark.parametrize("place", ["schedule", "failure", "label", "reason"])
def test_hostile_confirmation_text_is_escaped(place: str) -> None:
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
    assert fmt.difference(found, factor) == text


@pytest.mark.parametrize(("searched", "outside"), [(0.0795, False), (0.06, True), (None, False)])
def test_search_value_is_called_outside_only_if_it_is(
    searched: float | None, outside: bool
) -> None:
    evidence = make_evidence((-0.04,), searched=searched)
    data = response_data(make_trials(), "nll", Space(), evidence)
    base, pick = data.replicates
    assert base.contradicts_search == (not base.values.min() <= 0.126 <= base.values.max())
    assert pick.values.min() < 0.0795 < pick.values.max()
    [note] = [note for note in response_notes(data) if note.startswith("Dash with a bar")]
    [*_, told] = note.partition("The search value is outside this range for ")
    assert (pick.words in told) == outside
    assert (base.words in told.split("; ")[0].split(". ")) == base.contradicts_search
