"""Points of the search space and their conversions."""

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from sweeper.smoothing.names import BUILT_IN
from sweeper.study.dimensions import Dimension, Range, Space

Point = Mapping[str, Any]


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return the Optuna distribution of each dimension.

    Every trial has all dimensions, even if its schedule ignores the rate, because a sampler
    models only dimensions that all trials have jointly.
    """
    return {name: _distribution(dimension) for name, dimension in space.dimensions.items()}


class EffectiveSmoothing(NamedTuple):
    """The smoothing of a point without values that have no effect.

    At epsilon 0 the schedule is "fixed". The rate is None if the schedule does not use it.
    """

    epsilon: float
    schedule: str
    rate: float | None


def effective_smoothing(point: Point) -> EffectiveSmoothing:
    """Return the effective smoothing of a point; custom schedules need not be loadable."""
    epsilon, schedule = float(point["epsilon"]), str(point["schedule"])
    if epsilon == 0:
        return EffectiveSmoothing(0.0, "fixed", None)
    known = BUILT_IN.get(schedule)
    # A custom schedule is a function of progress and rate.
    uses_rate = known is None or known.uses_rate
    return EffectiveSmoothing(epsilon, schedule, float(point["rate"]) if uses_rate else None)


def hparams_of(point: Point) -> dict[str, Any]:
    """Return the hyperparameters of a point without those of smoothing."""
    return {
        key: value for key, value in point.items() if key not in ("epsilon", "schedule", "rate")
    }


def inactive(point: Point, space: Space) -> frozenset[str]:
    """Return the hyperparameters whose conditions a point does not meet.

    A hyperparameter that is missing in the point does not meet any condition.
    """
    if not space.conditions:
        return frozenset()
    # Conditions on what is missing are never met: None is no value of a hyperparameter.
    values = defaultdict[str, Any](lambda: None, {**point, **space.fixed})
    values["schedule"] = effective_smoothing(point).schedule
    names = set[str]()
    for name, condition in space.conditions.items():
        if any(
            parent in names or values[parent] not in allowed
            for parent, allowed in condition.items()
        ):
            names.add(name)
    return frozenset(names)


def active_point(point: Point, space: Space) -> dict[str, Any]:
    """Return a point without its inactive hyperparameters."""
    unused = inactive(point, space)
    return {name: value for name, value in point.items() if name not in unused}


def run_hparams(point: Point, space: Space) -> dict[str, Any]:
    """Return the hyperparameters that a training run gets: fixed and active ones."""
    return {**space.fixed, **hparams_of(active_point(point, space))}


def canonical(point: Point, space: Space) -> tuple[Any, ...]:
    """Return a key that is equal for points with the same training run."""
    hparams = hparams_of(active_point(point, space))
    return (*effective_smoothing(point), *sorted(hparams.items()))


def baseline_point(space: Space, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the point of ε = 0; its other values are in the space, so that samplers can use it."""
    return without_smoothing(complete_point({}, space, defaults), space)


def without_smoothing(point: Point, space: Space) -> dict[str, Any]:
    """Return a point at ε = 0 with the other hyperparameters of `point`."""
    schedule = "fixed" if "fixed" in space.schedule else space.schedule[0]
    smoothing = {"epsilon": 0.0, "schedule": schedule, "rate": _default_value(1.0, space.rate)}
    return {**smoothing, **hparams_of(point)}


def complete_point(point: Point, space: Space, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in missing values of a point: rate 1, the task's defaults, else the middle of a range.

    Defaults outside the space are moved into it.
    """
    preferred = {"rate": 1.0, **defaults}
    filled = {
        name: _default_value(preferred.get(name), dimension)
        for name, dimension in space.dimensions.items()
        if name not in ("epsilon", "schedule")
    }
    given = {
        key: value for key, value in point.items() if value is not None and key in space.dimensions
    }
    return {**filled, **given}


def from_unit(space: Space, unit: Mapping[str, float]) -> dict[str, Any]:
    """Map coordinates in [0, 1), one per dimension, to a point of the space."""
    return {name: _scaled(dimension, unit[name]) for name, dimension in space.dimensions.items()}


def requirements(space: Space, name: str) -> Iterator[tuple[str, Collection[Any]]]:
    """Yield what an active hyperparameter requires: names and allowed values of dimensions."""
    for parent, allowed in space.conditions.get(name, {}).items():
        if parent in space.dimensions:
            yield parent, allowed
        yield from requirements(space, parent)


def grid_values(dimension: Dimension, points: int) -> list[Any]:
    """Return the grid values of a dimension: all choices, or even steps from end to end."""
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


def _default_value(value: Any, dimension: Dimension) -> Any:
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
