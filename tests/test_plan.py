"""What each ticket tries: laid out before any worker starts, the same for every launch."""

import statistics
from collections import Counter
from typing import Any

import optuna
import pytest
from optuna.trial import create_trial

from sweeper.study.plan import plan, start_point
from sweeper.study.sampler import propose
from sweeper.study.space import Point, canonical, distributions
from sweeper.study.spec import StudySpec

DIGITS: dict[str, Any] = {
    "study": {"name": "s", "seed": 5},
    "task": {"use": "digits"},
    "space": {"lr": {"low": 1e-4, "high": 1e-1, "log": True}, "width": [32, 64]},
}


def spec(**tables: Any) -> StudySpec:
    return StudySpec.model_validate({**DIGITS, **tables})


def points(sampler: str, trials: int, **tables: Any) -> list[Point]:
    laid = plan(spec(sampler={"name": sampler}, budget={"trials": trials}, **tables), {})
    assert all(point is not None for point in laid)
    return [point for point in laid if point is not None]


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random", "grid", "qmc"])
def test_ticket_0_is_epsilon_0_with_the_tasks_defaults(sampler: str) -> None:
    first = plan(spec(sampler={"name": sampler}, budget={"trials": 3}), {"width": 64, "lr": 1e-3})
    assert first[0] == {"epsilon": 0.0, "schedule": "fixed", "rate": 1.0, "lr": 1e-3, "width": 64}


def test_a_baseline_lies_in_a_space_that_leaves_no_room_for_its_values() -> None:
    space = {"schedule": ["cosine"], "rate": {"low": 2.0, "high": 4.0}}
    first = plan(spec(space=space), {})[0]
    assert first == {"epsilon": 0.0, "schedule": "cosine", "rate": 2.0}


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random", "grid", "qmc"])
def test_a_longer_plan_begins_with_the_shorter_one(sampler: str) -> None:
    def laid(trials: int) -> list[Point | None]:
        return plan(spec(sampler={"name": sampler}, budget={"trials": trials}), {})

    assert laid(40)[:9] == laid(9)
    assert laid(40)[:33] == laid(33)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random", "grid", "qmc"])
def test_every_point_lies_in_the_space(sampler: str) -> None:
    tables = spec(sampler={"name": sampler}, budget={"trials": 70})
    space = distributions(tables.space)
    for point in plan(tables, {}):
        if point is not None:
            assert point.keys() == space.keys()
            assert all(space[k]._contains(space[k].to_internal_repr(v)) for k, v in point.items())


def test_first_points_follow_the_baseline_and_open_values_are_settled() -> None:
    laid = points(
        "qmc", 3, first=[{"epsilon": 0.1}, {"epsilon": 0.2, "schedule": "step", "lr": 0.01}]
    )
    assert [point["epsilon"] for point in laid] == [0.0, 0.1, 0.2]
    assert [point["rate"] for point in laid] == [1.0, 1.0, 1.0]
    assert laid[2]["lr"] == 0.01
    assert laid[1]["lr"] == pytest.approx((1e-4 * 1e-1) ** 0.5)


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_a_model_is_asked_only_after_its_start(sampler: str) -> None:
    tables = spec(
        sampler={"name": sampler, "startup": 6}, budget={"trials": 9}, first=[{"epsilon": 0.1}]
    )
    assert [point is None for point in plan(tables, {})] == [False] * 6 + [True] * 3


def test_a_grid_has_no_twins_and_ends_where_it_is_complete() -> None:
    laid = points("grid", 10_000, space={"schedule": ["fixed", "linear"]})
    assert len({canonical(point) for point in laid}) == len(laid)
    # ε: 5 values, 4 above zero; the fixed schedule has no rate, the linear one 5; and ε = 0.
    assert len(laid) == 1 + 4 * (1 + 5)


def test_the_beginning_of_a_grid_spreads() -> None:
    laid = points("grid", 40)[1:]
    assert len({point["schedule"] for point in laid}) == 7
    assert len({point["epsilon"] for point in laid}) == 5


def test_qmc_covers_epsilon_more_evenly_than_random() -> None:
    def widest_gap(sampler: str) -> float:
        values = sorted(float(point["epsilon"]) for point in points(sampler, 64))
        return max(b - a for a, b in zip(values, [*values[1:], 0.4], strict=True))

    assert widest_gap("qmc") < 0.02
    assert widest_gap("random") > 0.02


def test_choices_are_met_equally_often() -> None:
    met = Counter(point["schedule"] for point in points("qmc", 141)[1:])
    assert max(met.values()) - min(met.values()) <= 3


def test_the_seed_decides() -> None:
    def laid(seed: int) -> list[Point | None]:
        return plan(spec(study={"name": "s", "seed": seed}), {})

    assert laid(1) == laid(1)
    assert laid(1)[1:] != laid(2)[1:]


@pytest.mark.parametrize("startup", [0, 16])  # a model without trials, and the start
def test_no_two_tickets_share_a_sampler_seed(startup: int) -> None:
    of = spec(sampler={"startup": startup})

    def draw(ticket: int) -> float:
        return float(propose(optuna.create_study(), of, ticket)["epsilon"])

    assert len({draw(ticket) for ticket in range(1, 20)}) == 19
    assert draw(3) == draw(3)


def test_a_ticket_with_a_point_of_its_own_is_none_of_the_start() -> None:
    of = spec(first=[{"epsilon": 0.1}])
    with pytest.raises(ValueError, match="ticket 1 has a point of its own"):
        start_point(of, 1)
    assert start_point(of, 2) == points("qmc", 3, first=[{"epsilon": 0.1}])[2]


def test_tpe_proposes_near_what_was_best() -> None:
    of = spec(space={"epsilon": {"low": 0.0, "high": 0.4}, "schedule": ["fixed"]})
    study = optuna.create_study()
    for epsilon in (0.01 * index for index in range(40)):
        study.add_trial(
            create_trial(
                params={"epsilon": epsilon, "schedule": "fixed", "rate": 1.0},
                distributions=distributions(of.space),
                value=abs(epsilon - 0.3),
            )
        )
    proposed = [propose(study, of, ticket) for ticket in range(20)]
    assert all(point["schedule"] == "fixed" for point in proposed)
    assert statistics.median(abs(point["epsilon"] - 0.3) for point in proposed) < 0.05


def test_whole_numbers_stay_whole() -> None:
    space = {"layers": {"low": 1, "high": 4, "integer": True}}
    laid = points("qmc", 60, space=space)
    assert {point["layers"] for point in laid} == {1, 2, 3, 4}
    assert all(isinstance(point["layers"], int) for point in laid)


def test_a_whole_number_of_the_task_stays_whole_at_the_edge_of_its_range() -> None:
    space = {"width": {"low": 16, "high": 64, "integer": True}}
    first = plan(spec(space=space), {"width": 128})[0]
    assert first is not None
    assert repr(first["width"]) == "64"
