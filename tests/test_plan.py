"""What each ticket tries: laid out before any worker starts, the same for every launch."""

import statistics
from collections import Counter
from typing import Any

import optuna
import pytest
from optuna.trial import create_trial

from sweeper.errors import SweeperError
from sweeper.study.dimensions import Space
from sweeper.study.plan import check_length, iterate_plan, plan, start_point
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
    """Return the plan of a study without a search at ε = 0, which has points of its own."""
    budget = {"trials": trials, "baseline": 0}
    planned = plan(spec(sampler={"name": sampler}, budget=budget, **tables), {})
    assert all(point is not None for point in planned)
    return [point for point in planned if point is not None]


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random", "grid", "qmc"])
def test_ticket_0_is_epsilon_0_with_the_tasks_defaults(sampler: str) -> None:
    first = plan(spec(sampler={"name": sampler}, budget={"trials": 3}), {"width": 64, "lr": 1e-3})
    assert first[0] == {"epsilon": 0.0, "schedule": "fixed", "rate": 1.0, "lr": 1e-3, "width": 64}


def test_baseline_point_with_narrow_space() -> None:
    space = {"schedule": ["cosine"], "rate": {"low": 2.0, "high": 4.0}}
    first = plan(spec(space=space), {})[0]
    assert first == {"epsilon": 0.0, "schedule": "cosine", "rate": 2.0}


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random", "grid", "qmc"])
def test_longer_plan_extends_shorter_plan(sampler: str) -> None:
    def planned(trials: int) -> list[Point | None]:
        return plan(spec(sampler={"name": sampler}, budget={"trials": trials}), {})

    assert planned(40)[:9] == planned(9)
    assert planned(40)[:33] == planned(33)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random", "grid", "qmc"])
@pytest.mark.parametrize("begin", [1, 2, 20, 150, 200])
def test_plan_can_start_at_any_ticket(sampler: str, begin: int) -> None:
    given = [{"epsilon": 0.1}, {"epsilon": 0.2, "schedule": "step"}]
    of = spec(sampler={"name": sampler, "startup": 90}, budget={"trials": 170}, first=given)
    assert list(iterate_plan(of, {}, begin)) == plan(of, {})[begin:]


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random", "grid", "qmc"])
def test_every_point_lies_in_the_space(sampler: str) -> None:
    tables = spec(sampler={"name": sampler}, budget={"trials": 70})
    space = distributions(tables.space)
    for point in plan(tables, {}):
        if point is not None:
            assert point.keys() == space.keys()
            assert all(space[k]._contains(space[k].to_internal_repr(v)) for k, v in point.items())


def test_first_points_follow_baseline_and_are_completed() -> None:
    planned = points(
        "qmc", 3, first=[{"epsilon": 0.1}, {"epsilon": 0.2, "schedule": "step", "lr": 0.01}]
    )
    assert [point["epsilon"] for point in planned] == [0.0, 0.1, 0.2]
    assert [point["rate"] for point in planned] == [1.0, 1.0, 1.0]
    assert planned[2]["lr"] == 0.01
    assert planned[1]["lr"] == pytest.approx((1e-4 * 1e-1) ** 0.5)


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_sampler_proposes_only_after_startup(sampler: str) -> None:
    tables = spec(
        sampler={"name": sampler, "startup": 6},
        budget={"trials": 9, "baseline": 0},
        first=[{"epsilon": 0.1}],
    )
    assert [point is None for point in plan(tables, {})] == [False] * 6 + [True] * 3


def test_grid_has_no_duplicates_and_is_complete() -> None:
    planned = points("grid", 10_000, space={"schedule": ["fixed", "linear"]})
    assert len({canonical(point, Space()) for point in planned}) == len(planned)
    # ε: 5 values, 4 above zero; the fixed schedule has no rate, the linear one 5; and ε = 0.
    assert len(planned) == 1 + 4 * (1 + 5)


def grid_of(points: int, trials: int, **space: Any) -> StudySpec:
    return spec(sampler={"name": "grid", "points": points}, budget={"trials": trials}, space=space)


@pytest.mark.parametrize("points", [3_000, 10_000])
def test_huge_grid_is_sampled(points: int) -> None:
    ranges = {f"lr{index}": {"low": 1e-4, "high": 1e-1, "log": True} for index in range(30)}
    for more in ({}, ranges):
        of = grid_of(points, 300, **more)
        planned = plan(of, {})
        assert planned[:100] == plan(grid_of(points, 100, **more), {})
        assert len({canonical(point, Space()) for point in planned if point is not None}) == 300
        steps = (points - 1) / 0.4
        assert all(
            point["epsilon"] * steps == pytest.approx(round(point["epsilon"] * steps), abs=1e-6)
            for point in planned
            if point is not None
        )


def test_grid_without_rate_is_complete() -> None:
    planned = plan(grid_of(3_000, 5_000, schedule=["fixed"]), {})
    assert len(planned) == 3_000
    assert len({point["epsilon"] for point in planned if point is not None}) == 3_000


@pytest.mark.parametrize(
    ("sampler", "refused"),
    [("tpe", False), ("gp", False), ("random", True), ("qmc", True), ("grid", False)],
)
def test_planned_points_have_a_limit(sampler: str, refused: bool) -> None:
    of = spec(sampler={"name": sampler}, budget={"trials": 1_000_000}, space={})
    if refused:
        with pytest.raises(
            SweeperError, match=rf"^budget.trials: .* 100,000 .*{sampler}.* 1000000$"
        ):
            check_length(of)
    else:
        check_length(of)


def test_a_large_grid_has_that_limit_too() -> None:
    check_length(grid_of(3_000, 100_000))
    with pytest.raises(SweeperError, match=r"^budget.trials: .*grid.* 100001$"):
        check_length(grid_of(3_000, 100_001))


def test_first_grid_points_cover_the_space() -> None:
    planned = points("grid", 40)[1:]
    assert len({point["schedule"] for point in planned}) == 7
    assert len({point["epsilon"] for point in planned}) == 5


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
    def planned(seed: int) -> list[Point | None]:
        return plan(spec(study={"name": "s", "seed": seed}), {})

    assert planned(1) == planned(1)
    assert planned(1)[1:] != planned(2)[1:]


@pytest.mark.parametrize("startup", [0, 16])  # a model without trials, and the start
def test_no_two_tickets_share_a_sampler_seed(startup: int) -> None:
    of = spec(sampler={"startup": startup}, budget={"baseline": 0})

    def draw(ticket: int) -> float:
        return float(propose(optuna.create_study(), of, ticket)["epsilon"])

    assert len({draw(ticket) for ticket in range(1, 20)}) == 19
    assert draw(3) == draw(3)


def test_ticket_with_planned_point_does_not_count_as_startup() -> None:
    of = spec(first=[{"epsilon": 0.1}])
    with pytest.raises(ValueError, match="ticket 1 has a fixed point"):
        start_point(of, 1)
    assert start_point(of, 2) == points("qmc", 3, first=[{"epsilon": 0.1}])[2]


def test_tpe_proposes_near_the_best_trial() -> None:
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


def test_integers_stay_integers() -> None:
    space = {"layers": {"low": 1, "high": 4, "integer": True}}
    planned = points("qmc", 60, space=space)
    assert {point["layers"] for point in planned} == {1, 2, 3, 4}
    assert all(isinstance(point["layers"], int) for point in planned)


def test_integer_hyperparameter_stays_integer_at_range_edge() -> None:
    space = {"width": {"low": 16, "high": 64, "integer": True}}
    first = plan(spec(space=space), {"width": 128})[0]
    assert first is not None
    assert repr(first["width"]) == "64"
