"""What is picked from a search, and what else is worth confirming."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sweeper.confirmation.candidate import Candidate
from sweeper.confirmation.evidence import Comparison
from sweeper.confirmation.intervals import Interval
from sweeper.confirmation.shortlist import MIN_DISTANCE, knee, select_candidates, shortlist
from sweeper.confirmation.surrogate import Surrogate, distances, embed, one_row
from sweeper.errors import SweeperError
from sweeper.study.constraint import parse_constraint
from sweeper.study.dimensions import Space
from sweeper.study.load import parse_spec
from sweeper.study.results import TRIAL_COLUMNS
from sweeper.study.spec import StudySpec

Rows = list[dict[str, Any]]


def spec_of(space: dict[str, Any] | None = None, **confirm: Any) -> StudySpec:
    tables = {"study": {"name": "s"}, "task": {"use": "digits"}, "confirm": confirm}
    return parse_spec({**tables, "space": space or {}})


def frame(rows: Rows, baseline: float = 1.0, **of_baseline: Any) -> pd.DataFrame:
    """Return the trials of a search: ε = 0, then these."""
    zero = {"epsilon": 0.0, "schedule": "fixed", "rate": math.nan, "value": baseline}
    full = [
        {"state": "complete", "accuracy": 0.9, **row, "number": number, "ticket": number}
        for number, row in enumerate([{**zero, **of_baseline}, *rows])
    ]
    columns = [*TRIAL_COLUMNS, *(key for key in full[-1] if key not in TRIAL_COLUMNS)]
    made = pd.DataFrame(full, columns=columns)
    made["copied_from"] = pd.array([pd.NA] * len(made), dtype="Int64")
    return made


def trial(epsilon: float, value: float, schedule: str = "linear", **more: Any) -> dict[str, Any]:
    rate = math.nan if schedule == "fixed" else 1.0
    return {"epsilon": epsilon, "schedule": schedule, "rate": rate, "value": value, **more}


def valley(count: int = 24, seed: int = 0, noise: float = 0.0) -> Rows:
    """Return trials of one schedule whose value is lowest at ε = 0.2."""
    drawn = np.random.default_rng(seed).normal(0, noise, count)
    epsilons = np.linspace(0.01, 0.4, count)
    return [
        trial(e, math.exp(4 * abs(e - 0.2) ** 1.5 + d))
        for e, d in zip(epsilons, drawn, strict=True)
    ]


# ---- distance ------------------------------------------------------------------------------------


def apart(left: dict[str, Any], right: dict[str, Any], space: Space | None = None) -> float:
    both = pd.concat([one_row(left), one_row(right)], ignore_index=True)
    points = embed(both, space or Space())
    return float(distances(points[:1], points[1])[0])


def point(epsilon: float, schedule: str = "linear", rate: float | None = 1.0) -> dict[str, Any]:
    return {"epsilon": epsilon, "schedule": schedule, "rate": rate}


def test_embedding_at_epsilon_0_is_one_point() -> None:
    assert apart(point(0.0), point(0.0, "fixed", None)) == 0
    assert apart(point(0.0, rate=0.3), point(0.0, rate=12.0)) == 0


def test_distance_increases_with_epsilon_rate_and_schedule() -> None:
    assert apart(point(0.1), point(0.2)) > apart(point(0.1), point(0.15)) > 0
    assert apart(point(0.4), point(0.4, "cosine")) == pytest.approx(1.0)
    assert apart(point(0.4), point(0.4, "cosine")) > apart(point(0.1), point(0.1, "cosine")) > 0
    assert apart(point(0.4, rate=1.0), point(0.4, rate=12.0)) > 0


def test_distance_includes_other_hyperparameters() -> None:
    space = Space.model_validate(
        {"width": [64, 128], "lr": {"low": 1e-4, "high": 1e-2, "log": True}}
    )
    base = {**point(0.1), "width": 64, "lr": 1e-3}
    assert apart(base, {**base, "width": 128}, space) == pytest.approx(1.0)
    assert apart(base, {**base, "lr": 1e-2}, space) == pytest.approx(0.5)


# ---- the estimate -----------------------------------------------------------------------------


def test_surrogate_reduces_the_error() -> None:
    truth = np.array([row["value"] for row in valley()])
    wins = 0
    for seed in range(10):
        rows = frame(valley(seed=seed, noise=0.1)).iloc[1:].reset_index(drop=True)
        means, errors = Surrogate(rows, Space(), "value").estimates()
        wins += np.abs(means - truth).mean() < np.abs(rows["value"] - truth).mean()
        assert (errors > 0).all()
    assert wins == 10


def test_surrogate_of_few_or_equal_trials_is_identity() -> None:
    for rows in (valley(3), [trial(e, 2.0) for e in np.linspace(0.1, 0.4, 9)]):
        given = frame(rows).iloc[1:]
        means, errors = Surrogate(given, Space(), "value").estimates()
        assert means.tolist() == given["value"].tolist()
        assert not errors.any()


def test_pick_is_the_smoothed_minimum() -> None:
    selected = trial(0.39, 0.97)
    (pick, *_) = shortlist(spec_of(), frame([*valley(), selected]))
    assert pick.point["epsilon"] == pytest.approx(0.2, abs=0.04)
    assert pick.searched is not None
    assert pick.searched > selected["value"]


# ---- the shortlist ----------------------------------------------------------------------------


def test_shortlist_contains_distinct_configurations() -> None:
    spec = spec_of(shortlist=3)
    twins = [trial(0.2 + 0.001 * i, 0.5 + 0.001 * i) for i in range(6)]
    others = [trial(0.3, 0.6, "cosine"), trial(0.05, 0.7, "fixed")]
    chosen = shortlist(spec, frame([*twins, *others]))
    assert [c.role for c in chosen] == ["pick", "runner-up", "runner-up"]
    assert {c.point["schedule"] for c in chosen} == {"linear", "cosine", "fixed"}
    for left in chosen:
        for right in chosen:
            assert left is right or apart(dict(left.point), dict(right.point)) > MIN_DISTANCE


def test_shortlist_of_similar_trials_takes_the_next_best() -> None:
    twins = [trial(0.2 + 0.001 * i, 0.5 + 0.001 * i) for i in range(6)]
    assert len(shortlist(spec_of(shortlist=4), frame(twins))) == 4
    assert len(shortlist(spec_of(shortlist=4), frame(twins[:2]))) == 2


def test_epsilon_0_and_the_common_default_have_the_picks_other_hyperparameters() -> None:
    spec = spec_of({"width": [64, 128]})
    rows = [trial(e, 0.5 + e, hp_width=128) for e in (0.1, 0.2, 0.3)]
    chosen = select_candidates(spec, frame(rows, hp_width=64), classes=10)
    assert chosen[0].role == "baseline"
    by_role = {c.role: c for c in chosen}
    assert by_role["baseline"].point == {**point(0.0, "fixed"), "width": 128}
    assert by_role["baseline"].trial is None
    assert by_role["default"].point["width"] == 128
    assert by_role["default"].point["epsilon"] == pytest.approx(0.09)


def test_baseline_candidate_is_trial_0() -> None:
    zero = select_candidates(spec_of(), frame([trial(0.1, 0.5)]), classes=10)[0]
    assert (zero.trial, zero.searched) == (0, 1.0)


def test_pick_equal_to_default_is_confirmed_once() -> None:
    chosen = select_candidates(spec_of(), frame([trial(0.09, 0.5, "fixed")]), classes=10)
    assert [c.role for c in chosen] == ["baseline", "pick"]


def test_pruned_failed_and_copied_trials_are_excluded() -> None:
    rows = [trial(0.1, 0.9), trial(0.2, 0.1, state="pruned"), trial(0.3, 0.1, state="failed")]
    copied = frame([*rows, trial(0.1, 0.9)])
    copied.loc[4, "copied_from"] = 1
    assert [c.trial for c in shortlist(spec_of(), copied)] == [1]


# ---- rules and constraints ----------------------------------------------------------------------


def test_one_standard_error_rule_selects_smallest_epsilon() -> None:
    rows = [
        trial(e, math.exp(-e / 10 + d))
        for e, d in zip(
            np.linspace(0.02, 0.4, 20), np.random.default_rng(1).normal(0, 0.05, 20), strict=True
        )
    ]
    best, smallest = (
        shortlist(spec_of(choice=choice), frame(rows))[0]
        for choice in ("best", "one_standard_error")
    )
    assert smallest.point["epsilon"] < best.point["epsilon"]
    assert smallest.smoothed is not None
    assert best.smoothed is not None
    means, errors = Surrogate(
        frame(rows).iloc[1:].reset_index(drop=True), Space(), "value"
    ).estimates()
    assert math.log(smallest.smoothed) <= math.log(best.smoothed) + errors[means.argmin()] + 1e-9


def test_the_knee_is_the_corner_of_the_front() -> None:
    costs = np.array([0.0, 0.1, 0.2, 0.6, 1.0, 0.5])
    others = np.array([1.0, 0.5, 0.1, 0.05, 0.0, 0.9])
    assert knee(costs, others) == 2
    assert knee(np.array([0.3, 0.1]), np.array([0.1, 0.3])) == 1
    assert knee(np.array([0.0, 0.5, 1.0]), np.array([1.0, 0.5, 0.0])) == 0
    assert knee(np.array([0.2]), np.array([0.2])) == 0


def test_the_knee_rule_gives_up_some_nll_for_accuracy() -> None:
    rows = [
        trial(e, math.exp(e), accuracy=0.9 + min(e, 0.2) / 4) for e in np.linspace(0.02, 0.4, 20)
    ]
    pick = shortlist(spec_of(choice="knee"), frame(rows))[0]
    assert 0.1 < pick.point["epsilon"] < 0.3
    assert shortlist(spec_of(choice="best"), frame(rows))[0].point["epsilon"] < 0.1


def test_a_constraint_acts_on_the_shortlist() -> None:
    rows = [trial(0.1, 0.5, accuracy=0.80), trial(0.2, 0.6, accuracy=0.896), trial(0.3, 0.7)]
    kept = shortlist(spec_of(constraint="accuracy >= baseline - 0.005"), frame(rows))
    assert sorted(c.point["epsilon"] for c in kept) == [0.2, 0.3]
    with pytest.raises(SweeperError, match=r"none of 3 .* accuracy is 90\.0% at ε = 0"):
        shortlist(spec_of(constraint="accuracy >= 0.95"), frame(rows))


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        ("accuracy >= 0.5", 0.5, True),
        ("accuracy >= 0.5", 0.49, False),
        ("ece <= baseline", 0.8, True),
        ("ece<=baseline", 0.81, False),
        ("nll <= baseline * 1.5", 1.2, True),
        ("nll <= baseline*1.5", 1.21, False),
        ("brier <= baseline + .1", 0.9, True),
        ("brier >= baseline - 1e-1", 0.69, False),
        ("accuracy >= 0.5", math.nan, False),
    ],
)
def test_constraint_comparison(text: str, value: float, holds: bool) -> None:
    assert parse_constraint(text).holds(value, 0.8) is holds


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("accuracy > 0.5", "SCORE >= BOUND"),
        ("accuracy", "SCORE >= BOUND"),
        ("accuracy >= base", "SCORE >= BOUND"),
        ("accuracy >= 0.5 and ece <= 1", "SCORE >= BOUND"),
        ("acuracy >= 0.5", "did you mean 'accuracy'"),
        ("temperature >= 1", "unknown score 'temperature'"),
        ("nll <= 1e999", "finite"),
    ],
)
def test_invalid_constraint_is_explained(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_constraint(text)
    with pytest.raises(SweeperError, match=r"confirm\.constraint"):
        spec_of(constraint=text)


def test_nothing_to_confirm_is_an_error() -> None:
    with pytest.raises(SweeperError, match="no trial with ε > 0"):
        select_candidates(spec_of(), frame([]), classes=3)
    with pytest.raises(SweeperError, match="ε = 0 has not finished"):
        select_candidates(spec_of(), frame([trial(0.1, 0.5)], state="failed"), classes=3)


def test_nan_difference_is_not_a_finding() -> None:
    unknown = Interval(*[math.nan] * 5)
    assert Comparison(1, 0, "test", "nll", math.nan, 0.1, unknown).word == "same"


def test_many_trials_are_thinned() -> None:
    rows = [trial(0.2, 0.5), *(trial(e, 1 + e) for e in np.linspace(0.01, 0.4, 3000))]
    chosen = shortlist(spec_of(), frame(rows))
    assert isinstance(chosen[0], Candidate)
    assert chosen[0].trial is not None
