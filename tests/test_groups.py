"""Test examples in groups: the interval is clustered by group."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sweeper import api
from sweeper.confirmation.candidate import Candidate
from sweeper.confirmation.design import Assignment
from sweeper.confirmation.evidence import COMPARED_SCORES, Comparison, Evidence, Replicate
from sweeper.confirmation.examples import GROUP, pack_examples
from sweeper.confirmation.intervals import group_values, two_way_interval
from sweeper.confirmation.read_evidence import StoredScores, replicate_of
from sweeper.confirmation.verdict import verdict
from sweeper.report.verdict_section import verdict_section
from sweeper.scoring import score
from sweeper.study.spec import ConfirmSection
from sweeper.training.messages import TEST_GROUPS
from sweeper.training.replicate_scores import replicate_result
from sweeper.training.run import Evaluation
from tests.support.report_evidence import EXAMPLES, confirmed_report, make_evidence
from tests.support.studies import copy_task


def changed(evidence: Evidence, repeats: int, groups: Any = None) -> Evidence:
    """Return the evidence with each test example repeated, and in groups (N,) if given."""
    replicates = []
    for one in evidence.replicates:
        examples = {name: np.repeat(values, repeats) for name, values in one.examples.items()}
        rows = {**one.rows, "test": EXAMPLES * repeats}
        if groups is not None:
            examples[GROUP] = np.asarray(groups, dtype=float)
            rows[TEST_GROUPS] = len(set(groups))
        replicates.append(replace(one, examples=examples, rows=rows))
    return replace(evidence, replicates=replicates)


def comparison(evidence: Evidence, name: str) -> Comparison:
    found = evidence.compare(1, name)
    assert found is not None
    return found


def width(evidence: Evidence, name: str) -> float:
    difference = comparison(evidence, name).difference
    return difference.high - difference.low


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    """Return a confirmation whose differences vary with the example."""
    made, noise = make_evidence(), np.random.default_rng(5).normal(0, 0.1, (4, EXAMPLES))
    replicates = []
    for one in made.replicates:
        nll = one.examples["nll"] + noise[one.candidate]
        confidence = np.clip(one.examples["confidence"] + noise[one.candidate], 0, 1)
        examples = {**one.examples, "nll": nll, "confidence": confidence}
        replicates.append(replace(one, examples=examples))
    return replace(made, replicates=replicates)


@pytest.mark.parametrize("name", COMPARED_SCORES)
def test_repeated_examples_narrow_the_interval_only_without_groups(
    evidence: Evidence, name: str
) -> None:
    repeated = changed(evidence, 10, np.repeat(np.arange(EXAMPLES), 10))
    expected, found = comparison(evidence, name), comparison(repeated, name)
    # The AURC of repeated examples is slightly different.
    assert found.mean == pytest.approx(expected.mean, rel=0.01)
    assert width(repeated, name) == pytest.approx(width(evidence, name), rel=0.02)
    if name in ("nll", "ece"):
        assert width(changed(evidence, 10), name) < 0.5 * width(evidence, name)


def test_repeated_examples_give_the_same_interval_of_a_mean(evidence: Evidence) -> None:
    repeated = changed(evidence, 10, np.repeat(np.arange(EXAMPLES), 10))
    expected, found = comparison(evidence, "nll"), comparison(repeated, "nll")
    assert vars(found.difference) == pytest.approx(vars(expected.difference), rel=1e-9)


def test_the_variance_over_unequal_groups_by_hand() -> None:
    differences = np.array([[1.0, 2.0, 3.0, 6.0, 8.0]]).repeat(2, 0)
    groups = np.array([2, 0, 0, 1, 2])
    # m = 4; the sums of d - m are -3 in group 0, 2 in group 1 and 1 in group 2.
    found = two_way_interval(group_values(differences, groups))
    assert found.estimate == pytest.approx(4)
    assert found.error == pytest.approx((3 / 2 * (9 + 4 + 1) / 25) ** 0.5)
    assert found.freedom == pytest.approx(2)


def test_each_example_as_its_own_group_changes_nothing(evidence: Evidence) -> None:
    alone = changed(evidence, 1, np.arange(EXAMPLES))
    for name in COMPARED_SCORES:
        expected, found = comparison(evidence, name), comparison(alone, name)
        assert vars(found.difference) == pytest.approx(vars(expected.difference), rel=1e-9)


def test_a_group_effect_is_covered_only_by_the_clustered_interval() -> None:
    """Examples of a group share an effect; the mean effect is 0."""
    rng, missed = np.random.default_rng(0), {"groups": 0, "examples": 0}
    groups = np.repeat(np.arange(40), 25)
    for _ in range(200):
        shared = rng.normal(0, 1, 40)[groups] + rng.normal(0, 1, 1000)
        differences = shared + rng.normal(0, 0.1, (5, 1000))
        for name, given in (
            ("groups", group_values(differences, groups)),
            ("examples", differences),
        ):
            found = two_way_interval(given)
            missed[name] += not found.low <= 0 <= found.high
    assert missed["groups"] <= 20  # 5% of 200, and 3 standard deviations
    assert missed["examples"] > 80


def test_the_verdict_and_the_report_say_how_many_groups(evidence: Evidence) -> None:
    grouped = changed(evidence, 1, np.arange(EXAMPLES) % 40)
    found = verdict(grouped)
    assert found is not None
    assert any("and 300 test examples in 40 groups, this test" in text for text in found.sentences)
    section = verdict_section(confirmed_report(grouped))
    assert "· 300 test examples in 40 groups ·" in section.settings
    assert "groups" not in verdict_section(confirmed_report(evidence)).settings


@pytest.mark.parametrize(
    "change", ["one group", "other groups", "without groups", "fewer examples"]
)
def test_no_verdict_for_groups_that_do_not_allow_one(evidence: Evidence, change: str) -> None:
    groups = np.arange(EXAMPLES) % (1 if change == "one group" else 40)
    grouped = changed(evidence, 1, groups)
    last = grouped.replicates[-1]
    examples = dict(last.examples)
    if change == "other groups":
        examples[GROUP] = examples[GROUP][::-1]
    elif change == "without groups":
        del examples[GROUP]
    elif change == "fewer examples":
        examples = {name: values[:-40] for name, values in examples.items()}
    replicates = [*grouped.replicates[:-1], replace(last, examples=examples)]
    found = replace(grouped, replicates=replicates)
    assert verdict(found) is None
    expected = (
        "has 1 group;" if change == "one group" else "different groups; every run must report"
    )
    assert expected in found.no_verdict
    resplit = replace(found, settings=ConfirmSection(replicates=6, resplit=True))
    assert (verdict(resplit) is None) == (change == "one group")


STUDY = """
[study]
name = "sequences"
[task]
use = "sequences.py:train"
[budget]
trials = 3
[confirm]
replicates = 3
shortlist = 1
"""


@pytest.mark.slow
def test_a_study_of_sequences_reported_in_batches(tmp_path: Path, storage: str) -> None:
    copy_task(tmp_path, "sequences.py")
    path = tmp_path / "sequences.toml"
    path.write_text(STUDY)
    study = api.launch(path, workers=0, storage=storage, results=tmp_path / "results")
    assert set(study.frame()["state"]) == {"complete"}
    found = study.verdict()
    assert found is not None
    assert found.word == "helps"
    assert any("and 240 test examples in 30 groups" in text for text in found.sentences)
    again = study.evidence()
    assert again is not None
    kept = again.replicates[0].examples[GROUP]
    assert kept.tolist() == [text for text in range(30) for _ in range(6 if text < 10 else 9)]


@pytest.fixture
def stored(tmp_path: Path) -> Evidence:
    """Return a confirmation of two models of sequences, read from what a trial stores."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (8, 6), generator=generator)
    labels[0, 3:] = -100
    replicates = list[Replicate]()
    for number in range(3):
        for candidate in range(2):
            logits = torch.randn(8, 3, 6, generator=generator) * (1 - candidate / 2)
            splits: Any = {"test": lambda given=logits: (given, labels)}
            evaluation = Evaluation(logits, labels, 1.0, splits=splits)
            valid = score(evaluation.logits, evaluation.labels, groups=evaluation.groups)
            result = replicate_result(evaluation, valid)
            result.save(tmp_path / "examples.npz")
            packed = pack_examples(tmp_path / "examples.npz")
            kept = StoredScores(result.scores, result.rows, packed)
            run = Assignment(candidate, number, number, number, {})
            replicates.append(replicate_of(run, kept))
    point = {"epsilon": 0.0, "schedule": "fixed", "rate": 1.0}
    candidates = Candidate("baseline", point), Candidate("pick", {**point, "epsilon": 0.1})
    return Evidence(1, "nll", ConfirmSection(replicates=3), candidates, replicates)


def test_sequences_are_the_groups_of_their_positions(stored: Evidence) -> None:
    found = verdict(stored)
    assert found is not None
    assert any("45 test examples in 8 groups" in text for text in found.sentences)
    pairs = stored.pairs(1)
    differences = np.stack([a.examples["nll"] - b.examples["nll"] for a, b in pairs])
    groups = np.array([0] * 3 + [i for i in range(1, 8) for _ in range(6)])
    expected = two_way_interval(group_values(differences, groups))
    assert found.comparison.difference == expected
