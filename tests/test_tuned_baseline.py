"""The verdict compares the pick with the better of two candidates at ε = 0."""

import shutil
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweeper import api
from sweeper.api import Study
from sweeper.confirmation.candidate import Candidate
from sweeper.confirmation.evidence import Evidence, EvidenceSummary
from sweeper.confirmation.shortlist import select_candidates
from sweeper.confirmation.verdict import Verdict, verdict
from sweeper.report.figures.forest import forest_data, forest_notes
from sweeper.study.baseline_search import has_baseline_search, is_baseline_ticket
from sweeper.study.plan import iterate_plan, plan
from sweeper.study.spec import ConfirmSection, StudySpec
from tests.support.report_evidence import LABELS, make_replicate
from tests.support.report_frames import frame, make_trial
from tests.support.studies import TASKS

Launch = Callable[..., Study]

SEEDS = 6
ZERO = {"epsilon": 0.0, "schedule": "fixed", "rate": 1.0}
CANDIDATES = (
    Candidate("baseline", {**ZERO, "decay": 1.0}),
    Candidate("tuned baseline", {**ZERO, "decay": 3.0}, 7, 0.09),
    Candidate("pick", {"epsilon": 0.2, "schedule": "cosine", "rate": 2.0, "decay": 1.0}, 4, 0.08),
)


def evidence_of(
    test: tuple[float, float, float],
    valid: tuple[float, float, float] | None = None,
    scaled: tuple[float, float, float] | None = None,
    **settings: Any,
) -> Evidence:
    """Return a confirmation; the shifts are those of ε = 0, the tuned ε = 0 and the pick."""
    replicates = []
    for number in range(SEEDS):
        for index, shift in enumerate(test):
            run = make_replicate(index, number, shift, 0.0)
            examples = dict(run.examples)
            if scaled is not None:
                examples["nll_calibrated"] = examples["nll"] - shift + scaled[index]
            values = dict(run.scores)
            if valid is not None:
                values["valid"] = {**values["valid"], "nll": 0.1 + valid[index]}
            replicates.append(replace(run, examples=examples, scores=values))
    section = ConfirmSection(replicates=SEEDS, **settings)
    return Evidence(1, "nll", section, CANDIDATES, replicates, LABELS)


def verdict_of(evidence: Evidence) -> Verdict:
    found = verdict(evidence)
    assert found is not None
    return found


def test_smoothing_must_beat_the_tuned_baseline() -> None:
    found = verdict_of(evidence_of((0.0, -0.03, -0.03)))
    assert found.word == "no benefit shown"
    assert found.contrasts["baseline"].word == "better"
    assert found.contrasts["tuned baseline"].word == "same"
    assert found.recommended is CANDIDATES[1]
    text = " ".join(found.sentences)
    assert "The verdict compares with ε = 0 with its own best hyperparameters (decay = 3)" in text
    assert "Compared with ε = 0 with the pick's other hyperparameters, the difference" in text


def test_forest_names_the_baseline_that_all_rows_are_compared_with() -> None:
    data = forest_data(evidence_of((0.0, -0.03, -0.06)))
    assert [row.role for row in data.rows] == ["pick", "baseline"]
    assert "All rows are compared with ε = 0 with its own best hyperparameters." in forest_notes(
        data
    )


def test_a_gain_over_both_baselines_helps() -> None:
    found = verdict_of(evidence_of((0.0, -0.03, -0.06)))
    assert found.word == "helps"
    assert found.recommended is CANDIDATES[2]
    assert found.comparison.difference.estimate == pytest.approx(-0.03, abs=0.005)


def test_reference_is_chosen_by_validation_scores_alone() -> None:
    for valid, reference in (((0.0, -0.01, -0.05), 1), ((-0.01, 0.0, -0.05), 0)):
        evidence = evidence_of((0.0, -0.2, -0.1), valid)
        assert evidence.reference == reference
        flipped = evidence_of((-0.2, 0.0, -0.1), valid)
        assert flipped.reference == reference
        assert evidence.compare(2, "nll") == evidence.compare(2, "nll", against=reference)


def test_reference_is_the_baseline_that_did_not_fail() -> None:
    evidence = evidence_of((0.0, -0.2, -0.1))
    failed = [
        replace(r, examples={}, scores={}, failure="x") if r.candidate == 1 else r
        for r in evidence.replicates
    ]
    found = verdict_of(replace(evidence, replicates=failed))
    assert found.baseline is CANDIDATES[0]
    assert list(found.contrasts) == ["baseline"]


def test_summary_of_two_baselines_gives_the_same_verdict() -> None:
    evidence = evidence_of((0.0, -0.03, -0.06))
    stored = EvidenceSummary.from_dict(EvidenceSummary.from_evidence(evidence).to_dict())
    assert verdict(replace(evidence, summary=stored)) == verdict(evidence)


def test_gain_of_the_search_is_compared_with_the_baseline_it_trained() -> None:
    found = verdict_of(evidence_of((0.0, -0.03, -0.06), (0.0, -0.01, -0.015)))
    assert found.curse == pytest.approx(-0.005 - (0.08 - 0.09))


def test_a_benefit_that_temperature_scaling_removes_is_stated() -> None:
    worse = " ".join(verdict_of(evidence_of((0, 0, -0.06), scaled=(0, 0, 0.02))).sentences)
    assert "After temperature scaling, the pick is worse: if you calibrate afterwards" in worse
    same = " ".join(verdict_of(evidence_of((0, 0, -0.06), scaled=(0, 0, -0.06))).sentences)
    assert "after temperature scaling." in same
    assert "if you calibrate" not in same
    better = " ".join(verdict_of(evidence_of((0, 0, 0.02), scaled=(0, 0, -0.06))).sentences)
    assert 'objective.metric = "nll_calibrated"' in better


@pytest.mark.parametrize(("minimum", "small"), [(0.2, True), (0.0001, False), (None, False)])
def test_difference_below_the_minimum_effect_is_stated(minimum: float | None, small: bool) -> None:
    found = verdict_of(evidence_of((0.0, 0.0, -0.02), minimum_effect=minimum))
    assert ("smaller than your minimum effect" in " ".join(found.sentences)) is small


def spec_of(**space: Any) -> StudySpec:
    return StudySpec.model_validate(
        {"study": {"name": "x"}, "task": {"use": "digits"}, "space": space}
    )


def test_best_trial_at_epsilon_0_is_a_candidate() -> None:
    rng = np.random.default_rng(0)
    rows = [
        make_trial(n, epsilon, "fixed", float("nan"), rng)
        | {"value": value, "nll": value, "hp_weight_decay": decay}
        for n, (epsilon, value, decay) in enumerate(
            [(0.0, 0.5, 1e-3), (0.0, 0.2, 1e-2), (0.1, 0.1, 1e-4), (0.0, 0.4, 1e-5)]
        )
    ]
    space = {"weight_decay": {"low": 1e-6, "high": 1e-1, "log": True}}
    [base, tuned, pick, *_] = select_candidates(spec_of(**space), frame(rows), classes=10)
    assert (base.role, tuned.role, pick.role) == ("baseline", "tuned baseline", "pick")
    assert base.point["weight_decay"] == pick.point["weight_decay"] == 1e-4
    assert (tuned.point["weight_decay"], tuned.trial) == (1e-2, 1)


# ---- the search at ε = 0 -----------------------------------------------------------------------

NUISANCE = """
[study]
name = "nuisance"
[task]
use = "nuisance.py:train"
[space]
schedule = ["fixed"]
{space}
[budget]
trials = {trials}
{budget}
[sampler]
{sampler}
[pruner]
{pruner}
[confirm]
replicates = 6
shortlist = 1
"""
DECAY = "decay = { low = 0.0, high = 1.5 }"


def nuisance(
    trials: int = 48,
    budget: str = "",
    sampler: str = 'name = "tpe"',
    pruner: str = 'name = "none"',
    space: str = DECAY,
) -> str:
    return NUISANCE.format(**locals())


@pytest.fixture
def launch(write_study: Callable[..., Path], storage: str, tmp_path: Path) -> Launch:
    """Return a function that launches a study of tests/tasks/nuisance.py in this process."""

    def launched(text: str, **more: Any) -> Study:
        shutil.copy(TASKS / "nuisance.py", tmp_path)
        path = write_study(text)
        options = {"workers": 0, "results": tmp_path / "results", **more}
        return api.launch(path, storage=storage, **options)

    return launched


@pytest.mark.slow
def test_a_gain_only_at_the_picks_settings_is_no_benefit(launch: Launch) -> None:
    found = launch(nuisance(budget="baseline = 0.25")).verdict()
    assert found is not None
    assert found.contrasts["baseline"].word == "better"
    assert found.word == "no benefit shown"
    assert found.baseline.role == "tuned baseline"
    assert found.baseline.point["decay"] == pytest.approx(1.0, abs=0.25)


@pytest.mark.slow
def test_without_a_baseline_search_the_gain_looks_real(launch: Launch) -> None:
    study = launch(nuisance(budget="baseline = 0.0"))
    assert (study.frame()["epsilon"] == 0).sum() == 1
    found = study.verdict()
    assert found is not None
    assert found.word == "helps"


@pytest.mark.parametrize(("sampler", "startup"), [("tpe", 8), ("random", 0), ("qmc", 0)])
def test_a_fixed_share_of_the_tickets_is_at_epsilon_0(sampler: str, startup: int) -> None:
    text = f'name = "{sampler}"' + (f"\nstartup = {startup}" if startup else "")
    spec = StudySpec.model_validate(tomllib.loads(nuisance(40, sampler=text)))
    points = plan(spec, {})
    baseline = [n for n in range(40) if is_baseline_ticket(spec, n)]
    assert baseline == list(range(0, 40, 4))
    planned = {n: point for n, point in enumerate(points) if point is not None}
    assert [n for n, point in planned.items() if point["epsilon"] == 0] == [
        n for n in baseline if n in planned
    ]
    decays = [planned[n]["decay"] for n in baseline if n in planned]
    assert len(set(decays)) == len(decays) > 2
    # A longer plan begins with the shorter one, and may be continued anywhere.
    longer = StudySpec.model_validate(tomllib.loads(nuisance(80, sampler=text)))
    assert plan(longer, {})[:40] == points
    assert list(iterate_plan(longer, {}, 17)) == plan(longer, {})[17:]


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_few_configurations_are_tried_once_at_epsilon_0(sampler: str) -> None:
    space = "decay = [0.5, 1.0, 1.5]\nlayers = { low = 1, high = 2, integer = true }"
    text = nuisance(60, sampler=f'name = "{sampler}"', space=space)
    spec = StudySpec.model_validate(tomllib.loads(text))
    points = plan(spec, {})
    zero = [point for point in points if point is not None and point["epsilon"] == 0]
    assert len(points) == 60
    assert len(zero) == len({(point["decay"], point["layers"]) for point in zero}) == 6
    assert [n for n in range(60) if is_baseline_ticket(spec, n)] == [0, 4, 8, 12, 16, 20]
    assert list(iterate_plan(spec, {}, 13)) == points[13:]


def test_nothing_changes_if_nothing_else_is_searched() -> None:
    spec = StudySpec.model_validate(tomllib.loads(nuisance(space="")))
    assert not has_baseline_search(spec)
    assert [n for n in range(48) if is_baseline_ticket(spec, n)] == [0]


@pytest.mark.slow
def test_the_search_at_epsilon_0_finds_its_own_optimum(launch: Launch) -> None:
    frame = launch(nuisance(80), confirm=False).frame()
    zero = frame[frame["epsilon"] == 0].sort_values("number")
    assert len(zero) == 20
    modeled = zero["hp_decay"].tail(10)
    assert abs(modeled.median() - 1.0) < 0.2
    smoothed = frame[frame["epsilon"] > 0].sort_values("number")["hp_decay"].tail(30)
    assert abs(smoothed.median() - 1.0) > abs(modeled.median() - 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("pruner", ["median", "percentile", "halving", "hyperband"])
def test_epsilon_0_is_pruned_only_against_epsilon_0(launch: Launch, pruner: str) -> None:
    text = nuisance(64, pruner=f'name = "{pruner}"\nwarmup = 0.25\nstartup = 2')
    frame = launch(text + "[task.options]\npenalty = 5.0\n", confirm=False).frame()
    zero = frame[frame["epsilon"] == 0]
    assert (zero["number"].iloc[0], zero["state"].iloc[0]) == (0, "complete")
    # With the penalty, every trial at ε = 0 is worse than all others.
    assert (zero["state"].iloc[4:] == "complete").any()
    assert (zero["state"] == "pruned").any()
    assert (frame.loc[frame["epsilon"] > 0, "state"] == "pruned").any()
