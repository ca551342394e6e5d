"""Points of the space: as Optuna models them, as people read them, as the unit cube."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from sweeper.smoothing import SCHEDULES, Smoothing
from sweeper.study.spec import Dimension, Range, Space

Point = Mapping[str, Any]


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return Optuna's distribution of every dimension.

    Every trial has all of them, whatever its schedule: a sampler models jointly only what
    every trial has.
    """
    return {name: _distribution(dimension) for name, dimension in space.dimensions.items()}


class Acting(NamedTuple):
    """The smoothing of a point as people read it: what does not act is not there."""

    epsilon: float
    schedule: str
    rate: float | None


def acting(point: Point) -> Acting:
    """Return what acts of a point's smoothing, also of a schedule whose file is not here."""
    epsilon, schedule = float(point["epsilon"]), str(point["schedule"])
    if epsilon == 0:
        return Acting(0.0, "fixed", None)
    known = SCHEDULES.get(schedule)
    # A schedule of one's own is a function of progress and rate.
    uses_rate = known is None or known.uses_rate
    return Acting(epsilon, schedule, float(point["rate"]) if uses_rate else None)


def smoothing_of(point: Point) -> Smoothing:
    """Return the smoothing of a point; its schedule has to be registered."""
    return Smoothing(*acting(point))


def hparams_of(point: Point) -> dict[str, Any]:
    """Return the hyperparameters beside smoothing."""
    return {
        key: value for key, value in point.items() if key not in ("epsilon", "schedule", "rate")
    }


def canonical(point: Point) -> tuple[Any, ...]:
    """Return what is equal for points that train the same."""
    return (*acting(point), *sorted(hparams_of(point).items()))


def baseline_point(space: Space, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return ε = 0; its other values lie in the space, so that the sampler can learn from it."""
    return {
        "epsilon": 0.0,
        "schedule": "fixed" if "fixed" in space.schedule else space.schedule[0],
        **complete_point({}, space, defaults),
    }


def complete_point(point: Point, space: Space, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the point with what it leaves open: rate 1, the task's defaults, else the middle."""
    open_to = {"rate": 1.0, **defaults}
    filled = {
        name: _settled(open_to.get(name), dimension)
        for name, dimension in space.dimensions.items()
        if name not in ("epsilon", "schedule")
    }
    return {**filled, **{key: value for key, value in point.items() if value is not None}}


def from_unit(space: Space, unit: Mapping[str, float]) -> dict[str, Any]:
    """Map coordinates in [0, 1) to a point of the space, one coordinate a dimension."""
    return {name: _scaled(dimension, unit[name]) for name, dimension in space.dimensions.items()}


def grid_values(dimension: Dimension, points: int) -> list[Any]:
    """Return a dimension's values on a grid: all choices, or evenly spaced with both ends."""
    if not isinstance(dimension, Range):
        return list(dimension)
    values = [_between(dimension, index / (points - 1)) for index in range(points)]
    return list(dict.fromkeys(values))


def _scaled(dimension: Dimension, unit: float) -> Any:
    if isinstance(dimension, Range):
        return _between(dimension, unit)
    return dimension[min(int(unit * len(dimension)), len(dimension) - 1)]


def _between(dimension: Range, share: float) -> float | int:
    low, high = dimension.low, dimension.high
    if dimension.log:
        value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    else:
        value = low + share * (high - low)
    value = min(max(value, low), high)
    return round(value) if dimension.integer else value


def _settled(value: Any, dimension: Dimension) -> Any:
    if not isinstance(dimension, Range):
        return value if value in dimension else dimension[0]
    if value is None:
        return _between(dimension, 0.5)
    clamped = min(max(value, dimension.low), dimension.high)
    return round(clamped) if dimension.integer else clamped


def _distribution(dimension: Dimension) -> BaseDistribution:
    if not isinstance(dimension, Range):
        return CategoricalDistribution(dimension)
    if dimension.integer:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
