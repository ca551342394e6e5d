"""The plan of a study: the points of its tickets, written once before any worker starts.

All points that do not depend on results are planned: ε = 0, the first points, the Sobol points of
tpe and gp, and all points of grid, random and qmc. They are the same for any number of workers.
Only the points that a model proposes depend on the order in which trials finish.
"""

import bisect
import itertools
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from sweeper import limits
from sweeper.errors import SweeperError
from sweeper.smoothing.names import BUILT_IN
from sweeper.study.baseline_search import (
    baseline_startup,
    baseline_tickets_before,
    count_configurations,
    is_baseline_ticket,
)
from sweeper.study.dimensions import Range, Space
from sweeper.study.space import (
    Point,
    baseline_point,
    canonical,
    complete_point,
    from_unit,
    grid_values,
    hparams_of,
    inactive,
    without_smoothing,
)
from sweeper.study.spec import StudySpec
from sweeper.training.seeds import derive_seed

# The random numbers of the search at ε = 0 differ from those of the main search.
BASELINE: Final = " at epsilon 0"
# Sobol points generated at a time; a power of two, because blocks of this size are balanced.
_BLOCK: Final = 64
# Larger grids are sampled instead of shuffled. They have many more points than a plan, so few
# samples are duplicates.
_LARGEST_SHUFFLED: Final = 8_000_000
# For more combinations of values that conditions depend on, the whole product is built.
_MOST_COMBINATIONS: Final = 10_000


def check_length(spec: StudySpec) -> None:
    """Raise `SweeperError` if the plan would have too many points, without generating them."""
    trials, sampler, key = spec.budget.trials, spec.sampler, "budget.trials"
    dimensions = len(spec.space.dimensions)
    most = min(limits.PLANNED_POINTS, limits.PLANNED_VALUES // dimensions)
    match sampler.name:
        case "tpe" | "gp":
            count, key = min(trials, sampler.startup), "sampler.startup"
        case "grid":
            count = min(trials, _Grid(spec.space, sampler.points).count)
        case _:
            count = trials
    if count > most:
        raise SweeperError(
            f"{key}: must be at most {most:,} with the sampler {sampler.name} and {dimensions} "
            f"hyperparameters, because these points are stored at launch, got {count}"
        )


def plan(spec: StudySpec, defaults: Mapping[str, Any]) -> list[Point | None]:
    """Return the point of each ticket, None if the sampler proposes it later; ticket 0 is ε = 0.

    If the grid is smaller than the budget, the plan is as short as the grid. A plan for more
    trials begins with the plan for fewer, so that a study can be continued.
    """
    return list(iterate_plan(spec, defaults))


def iterate_plan(
    spec: StudySpec, defaults: Mapping[str, Any], first: int = 0, earlier: int = 0
) -> Iterator[Point | None]:
    """Yield the plan from ticket `first` on; points are generated lazily.

    `earlier` trials of an earlier study take the place of as many Sobol points of tpe and gp.
    """
    fixed = [
        baseline_point(spec.space, defaults),
        *(complete_point(first.model_dump(), spec.space, defaults) for first in spec.first),
    ]
    begin = max(first, len(fixed))
    at_zero = baseline_tickets_before(spec, begin)
    baseline = _baseline_proposals(spec, at_zero, fixed[0])
    proposed = _proposals(spec, fixed, begin - len(fixed) - at_zero, earlier)
    for ticket in range(first, spec.budget.trials):
        if ticket < len(fixed):
            yield fixed[ticket]
            continue
        try:
            yield next(baseline if is_baseline_ticket(spec, ticket) else proposed)
        except StopIteration:
            return  # the grid is smaller than the budget


def _baseline_proposals(spec: StudySpec, first: int, zero: Point) -> Iterator[Point | None]:
    """Yield the points of the search at ε = 0 after `zero`, from proposal `first` on."""
    points: Iterator[Point]
    few = count_configurations(spec.space)
    match spec.sampler.name:
        case _ if few is not None:
            points = itertools.islice(_every_configuration(spec, zero), first, None)
        case "random":
            points = (_random(spec, number, BASELINE) for number in itertools.count(first))
        case "qmc":
            points = _sobol(spec, first, BASELINE)
        case _:
            start = max(0, baseline_startup(spec) - first)
            points = itertools.islice(_sobol(spec, first, BASELINE), start)
    yield from (without_smoothing(point, spec.space) for point in points)
    yield from itertools.repeat(None)


def _proposals(
    spec: StudySpec, fixed: Sequence[dict[str, Any]], first: int, earlier: int
) -> Iterator[Point | None]:
    """Yield the points after the fixed ones, from proposal `first` on."""
    match spec.sampler.name:
        case "grid":
            return itertools.islice(_without(fixed, _grid(spec), spec.space), first, None)
        case "random":
            return (_random(spec, number) for number in itertools.count(len(fixed) + first))
        case "qmc":
            return _sobol(spec, first)
        case "tpe" | "gp":
            start = max(0, spec.sampler.startup - earlier - len(fixed) - first)
            return itertools.chain(
                itertools.islice(_sobol(spec, first), start), itertools.repeat(None)
            )


def _every_configuration(spec: StudySpec, zero: Point) -> Iterator[Point]:
    """Yield all values of the other hyperparameters except those of `zero` in random order."""
    extras = {
        name: list(range(int(dimension.low), int(dimension.high) + 1))
        if isinstance(dimension, Range)
        else list(dimension)
        for name, dimension in spec.space.extras.items()
    }
    configurations = list(itertools.product(*extras.values()))
    order = np.random.default_rng(derive_seed(spec.study.seed, "every configuration"))
    for index in order.permutation(len(configurations)):
        point = dict(zip(extras, configurations[index], strict=True))
        if point != hparams_of(zero):
            yield point


def _random(spec: StudySpec, number: int, search: str = "") -> Point:
    generator = np.random.default_rng(derive_seed(spec.study.seed, f"random{search}", number))
    names = spec.space.dimensions
    return from_unit(spec.space, dict(zip(names, generator.random(len(names)), strict=True)))


def _sobol(spec: StudySpec, first: int = 0, search: str = "") -> Iterator[Point]:
    from scipy.stats import qmc  # lazy: it takes half a second, and workers do not need it

    names = list(spec.space.dimensions)
    sobol = qmc.Sobol(len(names), rng=derive_seed(spec.study.seed, f"sobol{search}"))
    if first:
        sobol.fast_forward(first)
    while True:
        for unit in sobol.random(_BLOCK).tolist():
            yield from_unit(spec.space, dict(zip(names, unit, strict=True)))


def start_point(spec: StudySpec, ticket: int) -> Point:
    """Return the point of a ticket in the Sobol sequence, also beyond `sampler.startup`.

    Raises `ValueError` for the ticket of ε = 0 or of a first point.
    """
    number = ticket - 1 - len(spec.first)
    if number < 0:
        raise ValueError(f"ticket {ticket} has a fixed point; the Sobol sequence starts after it")
    at_zero = baseline_tickets_before(spec, ticket)
    if is_baseline_ticket(spec, ticket):
        return without_smoothing(next(_sobol(spec, at_zero, BASELINE)), spec.space)
    return next(_sobol(spec, number - at_zero))


def _grid(spec: StudySpec) -> Iterator[Point]:
    """Yield the points of the grid in random order; there may be duplicates."""
    grid, seed = _Grid(spec.space, spec.sampler.points), derive_seed(spec.study.seed, "grid")
    if grid.count <= _LARGEST_SHUFFLED:
        for index in np.random.default_rng(seed).permutation(grid.count):
            yield grid.point(int(index))
    draws = random.Random(seed)
    while grid.count > _LARGEST_SHUFFLED:
        yield grid.point(draws.randrange(grid.count))


class _Grid:
    """The points of a grid, by index. An inactive hyperparameter has only its first value.

    The grid is the union of one product of axes for each combination of the values that conditions
    depend on.
    """

    def __init__(self, space: Space, points: int) -> None:
        self._axes = _axes(space, points)
        self._products = list(self._by_combination(space)) if space.conditions else [self._axes]
        self._starts = [0, *itertools.accumulate(map(_size, self._products))]

    @property
    def count(self) -> int:
        return self._starts[-1]

    def point(self, index: int) -> Point:
        """Return a point by its index; the last axis varies fastest."""
        number = bisect.bisect_right(self._starts, index) - 1
        axes, index = self._products[number], index - self._starts[number]
        point = {}
        for name in reversed(axes):
            index, position = divmod(index, len(axes[name]))
            point[name] = axes[name][position]
        return {name: point[name] for name in axes}

    def _by_combination(self, space: Space) -> Iterator[dict[str, list[Any]]]:
        depended_on = {parent for when in space.conditions.values() for parent in when}
        names = [name for name in self._axes if name in depended_on]
        axes = {name: self._axes[name] for name in names}
        if _size(axes) > _MOST_COMBINATIONS:
            yield self._axes  # equal configurations are left out later
            return
        for values in itertools.product(*axes.values()):
            combination = {"epsilon": 1.0, "schedule": "", "rate": 1.0}
            combination |= dict(zip(names, values, strict=True))
            unused = inactive(combination, space)
            if all(combination[name] == axes[name][0] for name in unused.intersection(names)):
                yield {
                    name: [combination[name]]
                    if name in axes
                    else axis[:1]
                    if name in unused
                    else axis
                    for name, axis in self._axes.items()
                }


def _axes(space: Space, points: int) -> dict[str, list[Any]]:
    axes = {name: grid_values(dim, points) for name, dim in space.dimensions.items()}
    uses_rate = any(name not in BUILT_IN or BUILT_IN[name].uses_rate for name in space.schedule)
    if not uses_rate and _size(axes) > _LARGEST_SHUFFLED:
        axes["rate"] = axes["rate"][:1]
    return axes


def _size(axes: Mapping[str, list[Any]]) -> int:
    return math.prod(map(len, axes.values()))


def _without(excluded: Sequence[Point], points: Iterable[Point], space: Space) -> Iterator[Point]:
    """Yield points without duplicates of excluded or earlier points, as `canonical` sees them."""
    seen = {canonical(point, space) for point in excluded}
    for point in points:
        key = canonical(point, space)
        if key not in seen:
            seen.add(key)
            yield point
