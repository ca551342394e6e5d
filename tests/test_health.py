"""Checks of a study's health: each says when it should, and keeps quiet when it should."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sweeper.confirmation.diagnostics import health
from sweeper.confirmation.evidence import Evidence
from sweeper.confirmation.verdict import verdict
from sweeper.study.spec import Range, Space
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
    said = verdict(evidence) if evidence is not None and evidence.complete else None
    return " ".join(health(found, space, evidence, said))


def test_a_sound_study_has_nothing_to_say() -> None:
    assert checks(trials()) == ""
    assert checks(trials(), make_evidence()) == ""


def test_a_study_that_has_not_begun_has_nothing_to_say() -> None:
    assert checks(trials().iloc[:0]) == ""


@pytest.mark.parametrize(("count", "said"), [(9, True), (10, False)])
def test_few_finished_trials_are_called_few(count: int, said: bool) -> None:
    assert ("Few trials" in checks(trials(count))) is said


def test_copied_results_are_no_trials() -> None:
    found = trials(12)
    found.loc[1:3, "copied_from"] = 5
    assert "Few trials: 9 finished" in checks(found)


@pytest.mark.parametrize(("failed", "said"), [(3, False), (4, True)])
def test_more_than_a_tenth_of_failures_is_said_with_causes(failed: int, said: bool) -> None:
    text = checks(trials(30, failed))
    assert ("Failures: 4 of 30 trials failed (4 diverged)" in text) is said
    assert ("Failures" in text) is said


@pytest.mark.parametrize(
    ("best", "said"),
    [
        ({"epsilon": 0.393}, "ε, 0.393, is at the upper end of what was searched (0.4)"),
        ({"epsilon": 0.39}, ""),
        ({"rate": 11.5}, "rate, 11.5, is at the upper end of what was searched (12)"),
        ({"rate": 0.31}, "rate, 0.31, is at the lower end of what was searched (0.3)"),
        ({"rate": 0.5}, ""),
        # Where no rate acts, none is at an end.
        ({"schedule": "fixed", "rate": float("nan")}, ""),
        ({"epsilon": 0.0, "rate": float("nan")}, ""),
    ],
)
def test_the_best_at_an_end_of_a_range_is_said(best: dict[str, Any], said: str) -> None:
    text = checks(trials(**best))
    assert said in text
    assert ("Edge of the range" in text) is bool(said)


def test_the_largest_epsilon_there_is_has_nothing_beyond() -> None:
    whole = Space(epsilon=Range(low=0.0, high=1.0))
    assert checks(trials(epsilon=1.0), space=whole) == ""


def test_with_a_confirmation_it_is_the_pick_that_counts() -> None:
    found = trials()
    found.loc[3, "epsilon"] = 0.399
    assert checks(found) == ""
    text = checks(found, make_evidence())
    assert "the pick's ε, 0.399" in text
    assert "Raise space.epsilon.high" in text
    assert checks(trials(epsilon=0.399), make_evidence()) == ""


def test_the_end_of_a_range_where_nothing_helps_is_not_said() -> None:
    found = trials()
    found.loc[3, "epsilon"] = 0.399
    assert "Edge" not in checks(found, make_evidence((0.05, 0.04, 0.06), searched=0.17))


def test_replicates_that_say_worse_where_the_search_said_better_are_said() -> None:
    text = checks(trials(), make_evidence((0.01, 0.0, 0.0), searched=0.1))
    assert "was better than at ε = 0 (0.100 against 0.126), on fresh seeds it is worse" in text


def test_a_searched_value_beyond_what_luck_explains_is_said() -> None:
    # The replicates' validation mean is 0.08 with a standard deviation of 0.003.
    assert "further apart than seeds" in checks(trials(), make_evidence(searched=0.04))
    assert "further apart than seeds" in checks(trials(), make_evidence(searched=0.124))
    # Below all six replicates, as the best of thirty may well be.
    values = [r.scores["valid"]["nll"] for r in make_evidence().done[1].values()]
    lowest = min(value for value in values if value is not None)
    assert checks(trials(), make_evidence(searched=lowest - 0.002)) == ""


def test_what_the_search_did_not_try_cannot_disagree() -> None:
    assert checks(trials(), make_evidence(searched=None)) == ""


def test_seeds_that_move_more_than_any_candidate_are_said() -> None:
    noisy = make_evidence((-0.002, 0.001, 0.0), searched=None, seed_sd=0.1)
    assert "Noise: from seed to seed the test NLL at ε = 0 varies by" in checks(trials(), noisy)
    one = make_evidence((-0.002, 0.001, 3.0), searched=None, seed_sd=0.1)
    assert "Noise" not in checks(trials(), one)


def test_half_a_confirmation_is_not_asked() -> None:
    noisy = make_evidence((0.001, 0.001, 0.0), searched=0.04, seed_sd=0.1)
    assert "Noise" in checks(trials(), noisy)
    assert checks(trials(), replace(noisy, replicates=noisy.replicates[:-1])) == ""


def test_a_candidate_that_always_failed_stops_no_check() -> None:
    whole = make_evidence()
    failed = [
        replace(r, examples={}, scores={}, failure="x") if r.candidate == 1 else r
        for r in whole.replicates
    ]
    assert checks(trials(), replace(whole, replicates=failed)) == ""
