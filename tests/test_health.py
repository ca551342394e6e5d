"""Checks of a study's health: each says when it should, and keeps quiet when it should."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sweeper.confirmation.diagnostics import health_notes
from sweeper.confirmation.evidence import Evidence
from sweeper.confirmation.verdict import verdict
from sweeper.store.records import EpochRow
from sweeper.study.dimensions import Range, Space
from tests.support.report_evidence import make_evidence
from tests.support.report_frames import FAILED, frame, make_trial

SPACE = Space()


def trials(count: int = 30, failed: int = 0, **best: Any) -> pd.DataFrame:
    """Return a search; `best` are fields of its best trial."""
    rng = np.random.default_rng(0)
    rows = [make_trial(0, 0.0, "fixed", float("nan"), rng)]
    rows += [make_trial(n, 0.1 + 0.005 * n, "cosine", 2.0, rng) for n in range(1, count)]
    rows[-1] |= {"value": 0.01, "nll": 0.01, "epsilon": 0.2, **best}
    for row in rows[1 : 1 + failed]:
        row |= FAILED
    found = frame(rows)
    found["cause"] = ["diverged" if state == "failed" else "" for state in found["state"]]
    return found


def checks(found: pd.DataFrame, evidence: Evidence | None = None, space: Space = SPACE) -> str:
    """Return all sentences in one."""
    result = verdict(evidence) if evidence is not None and evidence.complete else None
    return " ".join(health_notes(found, space, evidence, result))


def test_healthy_study_has_no_notes() -> None:
    assert checks(trials()) == ""
    assert checks(trials(), make_evidence()) == ""


def test_empty_study_has_no_notes() -> None:
    assert checks(trials().iloc[:0]) == ""


@pytest.mark.parametrize(("count", "noted"), [(9, True), (10, False)])
def test_few_finished_trials_are_noted(count: int, noted: bool) -> None:
    assert ("Few trials" in checks(trials(count))) is noted


def test_copied_results_do_not_count_as_trials() -> None:
    found = trials(12)
    found.loc[1:3, "copied_from"] = 5
    assert "Few trials: 9 finished" in checks(found)


@pytest.mark.parametrize(("failed", "noted"), [(3, False), (4, True)])
def test_failure_rate_above_10_percent_is_noted(failed: int, noted: bool) -> None:
    text = checks(trials(30, failed))
    assert ("Failures: 4 of 30 trials failed (4 diverged)" in text) is noted
    assert ("Failures" in text) is noted


@pytest.mark.parametrize(
    ("best", "noted"),
    [
        ({"epsilon": 0.393}, "ε, 0.39, is at the upper end of the searched range (0.4)"),
        ({"epsilon": 0.39}, ""),
        ({"rate": 11.5}, "rate, 12, is at the upper end of the searched range (12)"),
        ({"rate": 0.31}, "rate, 0.31, is at the lower end of the searched range (0.3)"),
        ({"rate": 0.5}, ""),
        # Where no rate acts, none is at an end.
        ({"schedule": "fixed", "rate": float("nan")}, ""),
        ({"epsilon": 0.0, "rate": float("nan")}, ""),
    ],
)
def test_best_value_at_range_edge_is_noted(best: dict[str, Any], noted: str) -> None:
    text = checks(trials(**best))
    assert noted in text
    assert ("Edge of the range" in text) is bool(noted)


def test_epsilon_upper_bound_is_not_noted() -> None:
    whole = Space(epsilon=Range(low=0.0, high=1.0))
    assert checks(trials(epsilon=1.0), space=whole) == ""


def test_edge_note_uses_the_pick_after_confirmation() -> None:
    found = trials()
    found.loc[3, "epsilon"] = 0.399
    assert checks(found) == ""
    text = checks(found, make_evidence())
    assert "the pick's ε, 0.40" in text
    assert "Raise space.epsilon.high" in text
    assert checks(trials(epsilon=0.399), make_evidence()) == ""


def test_edge_is_not_noted_without_benefit() -> None:
    found = trials()
    found.loc[3, "epsilon"] = 0.399
    assert "Edge" not in checks(found, make_evidence((0.05, 0.04, 0.06), searched=0.17))


def test_contradicting_replicates_are_noted() -> None:
    text = checks(trials(), make_evidence((0.01, 0.0, 0.0), searched=0.1))
    assert "pick minus ε = 0, was −0.0260 in the search and is +0.0" in text
    assert "Rely on the fresh seeds" in text


def test_search_value_outside_prediction_interval_is_noted() -> None:
    # The replicates' validation mean is 0.08 with a standard deviation of 0.003.
    assert "selection among 30 trials are unlikely to explain" in checks(
        trials(), make_evidence(searched=0.04)
    )
    assert "selection among 30 trials are unlikely to explain" in checks(
        trials(), make_evidence(searched=0.124)
    )
    # Below all six replicates, as the best of thirty may well be.
    values = [r.scores["valid"]["nll"] for r in make_evidence().replicates_by_candidate[1].values()]
    lowest = min(value for value in values if value is not None)
    assert checks(trials(), make_evidence(searched=lowest - 0.002)) == ""


def test_untried_pick_has_no_disagreement_note() -> None:
    assert checks(trials(), make_evidence(searched=None)) == ""


def test_noise_of_an_undecided_difference_is_noted() -> None:
    noisy = make_evidence((0.0, 0.0, 0.0), searched=None)
    assert "between the pick and ε = 0 has a standard deviation of 0.00" in checks(trials(), noisy)
    # A seed that affects both alike is no noise in their difference.
    both = make_evidence((-0.04, 0.0, 0.0), searched=None, seed_sd=1.0)
    assert "Noise" not in checks(trials(), both)


def test_few_test_examples_are_noted() -> None:
    few = make_evidence()
    replicates = [
        replace(
            r,
            rows={**r.rows, "test": 29},
            examples={name: values[:29] for name, values in r.examples.items()},
        )
        for r in few.replicates
    ]
    text = checks(trials(), replace(few, replicates=replicates))
    assert "Few test examples: the test split has 29 independent examples" in text
    grouped = [replace(r, rows={**r.rows, "test_groups": 12}) for r in few.replicates]
    assert "12 independent groups" in checks(trials(), replace(few, replicates=grouped))


@pytest.mark.parametrize(
    ("last", "noted"), [(0.5, "fell by 0.5 in the last 10% of training"), (0.99, ""), (1.1, "")]
)
def test_a_baseline_that_still_improves_is_noted(last: float, noted: str) -> None:
    curve = [
        EpochRow(epoch, epoch / 10, 0.0, None, nll, None, None, None)
        for epoch, nll in ((8, 1.2), (9, 1.0), (10, last))
    ]
    evidence = make_evidence()
    text = " ".join(health_notes(trials(), SPACE, evidence, verdict(evidence), curve))
    assert noted in text
    assert ("Baseline still improving" in text) is bool(noted)


def test_incomplete_confirmation_is_not_checked() -> None:
    noisy = make_evidence((0.0, 0.0, 0.0), searched=0.04)
    assert "Noise" in checks(trials(), noisy)
    assert checks(trials(), replace(noisy, replicates=noisy.replicates[:-1])) == ""


def test_failed_candidate_does_not_prevent_checks() -> None:
    whole = make_evidence()
    failed = [
        replace(r, examples={}, scores={}, failure="x") if r.candidate == 1 else r
        for r in whole.replicates
    ]
    assert checks(trials(), replace(whole, replicates=failed)) == ""
