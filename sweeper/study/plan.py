"""The plan of a study: what each ticket tries, laid out once before any worker starts.

Whatever needs no results is laid into the tickets as points: ε = 0, the first points, the
Sobol start of tpe and gp, and all of grid, random and qmc. So these are the same however many
workers run, and only what a model proposes depends on what came back when.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from sweeper.study.space import (
    Point,
    baseline_point,
    canonical,
    complete_point,
    from_unit,
    grid_values,
)
from sweeper.study.spec import Space, StudySpec
from sweeper.training.seeding import derive_seed


def plan(spec: StudySpec, defaults: Mapping[str, Any]) -> list[Point | None]:
    """Return a point for each ticket, None where the sampler is asked; ε = 0 is ticket 0.

    A grid that is smaller than the budget makes the plan as short as itself. A longer plan
    begins with a shorter one, so a study goes on where it stopped.
    """
    given = [
        baseline_point(spec.space, defaults),
        *(complete_point(first.model_dump(), spec.space, defaults) for first in spec.first),
    ]
    proposed = itertools.chain(given, _proposals(spec, given))
    return list(itertools.islice(proposed, spec.budget.trials))


def _proposals(spec: StudySpec, given: list[dict[str, Any]]) -> Iterator[Point | None]:
    count = max(0, spec.budget.trials - len(given))
    match spec.sampler.name:
        case "grid":
            return _without(given, _grid(spec))
        case "random":
            return (_random(spec, len(given) + index) for index in range(count))
        case "qmc":
            return _sobol(spec, count)
        case "tpe" | "gp":
            start = _sobol(spec, max(0, spec.sampler.startup - len(given)))
            return itertools.chain(start, itertools.repeat(None))


def _random(spec: StudySpec, number: int) -> Point:
    generator = np.random.default_rng(derive_seed(spec.study.seed, "random", number))
    names = spec.space.dimensions
    return from_unit(spec.space, dict(zip(names, generator.random(len(names)), strict=True)))


def _sobol(spec: StudySpec, count: int) -> Iterator[Point]:
    if count == 0:
        return
    from scipy.stats import qmc  # half a second, which a worker has no use for

    names = list(spec.space.dimensions)
    engine = qmc.Sobol(len(names), rng=derive_seed(spec.study.seed, "sobol"))
    # Powers of two only: Sobol points are balanced there, and scipy warns elsewhere.
    units = engine.random_base2(math.ceil(math.log2(count)))
    for unit in units[:count]:
        yield from_unit(spec.space, dict(zip(names, unit.tolist(), strict=True)))


def start_point(spec: StudySpec, ticket: int) -> Point:
    """Return what a ticket would try if the Sobol start went on as far as it.

    Raises `ValueError` for a ticket that has ε = 0 or a first point.
    """
    number = ticket - 1 - len(spec.first)
    if number < 0:
        raise ValueError(f"ticket {ticket} has a point of its own; the Sobol start comes after it")
    return next(itertools.islice(_sobol(spec, number + 1), number, None))


def _grid(spec: StudySpec) -> list[Point]:
    """Return the grid without twins, shuffled by the seed so that any beginning of it spreads."""
    points = list(_crossed(spec.space, spec.sampler.points))
    order = np.random.default_rng(derive_seed(spec.study.seed, "grid")).permutation(len(points))
    return list(_without([], (points[index] for index in order)))


def _crossed(space: Space, points: int) -> Iterator[Point]:
    axes = {name: grid_values(of, points) for name, of in space.dimensions.items()}
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def _without(given: list[dict[str, Any]], points: Any) -> Iterator[Point]:
    """Leave out points that train the same as one before them."""
    seen = {canonical(point) for point in given}
    for point in points:
        key = canonical(point)
        if key not in seen:
            seen.add(key)
            yield point
