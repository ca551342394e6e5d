"""The search at ε = 0 over the other hyperparameters, which gives the verdict a tuned baseline.

It has a fixed share of the tickets, spread evenly over the study. Its trials are modeled and pruned
apart from the others: a model of all trials would learn little about ε from those at ε = 0.
"""

import math
from typing import Any, Final

import optuna
from optuna.trial import FrozenTrial

from sweeper.study.dimensions import SMOOTHING_KEYS, Range, Space
from sweeper.study.space import Point, distributions
from sweeper.study.spec import StudySpec

# Fewer configurations than this are all tried, without a model.
FEW: Final = 1_000
# A model needs a few trials to begin with.
MIN_STARTUP: Final = 4
# Because multiples of a share such as 0.1 are rounded.
_ROUNDING: Final = 1e-9


def has_baseline_search(spec: StudySpec) -> bool:
    """Return whether ε = 0 gets tickets of its own.

    A grid contains ε = 0 with all values of the other hyperparameters already.
    """
    searched = (
        not distribution.single()
        for name, distribution in distributions(spec.space).items()
        if name not in SMOOTHING_KEYS
    )
    return any(searched) and spec.budget.baseline > 0 and spec.sampler.name != "grid"


def is_baseline_ticket(spec: StudySpec, ticket: int) -> bool:
    """Return whether a ticket belongs to the search at ε = 0. Ticket 0 is its first."""
    if ticket <= len(spec.first) or not has_baseline_search(spec):
        return ticket == 0
    return baseline_tickets_before(spec, ticket + 1) > baseline_tickets_before(spec, ticket)


def baseline_tickets_before(spec: StudySpec, ticket: int) -> int:
    """Return the number of tickets of the search at ε = 0 before a ticket, without fixed points.

    If the other hyperparameters have only a few values, there are no more tickets than these.
    """
    if not has_baseline_search(spec):
        return 0
    most = count_configurations(spec.space)
    counts = (_count(spec, number) for number in (ticket, 1 + len(spec.first)))
    upper, lower = counts if most is None else (min(count, most) for count in counts)
    return upper - lower


def count_configurations(space: Space) -> int | None:
    """Return the number of values of the other hyperparameters; None if they are many."""
    sizes = [
        len(each)
        if not isinstance(each, Range)
        else int(each.high - each.low) + 1
        if each.integer
        else FEW
        for each in space.extras.values()
    ]
    return size if (size := math.prod(sizes)) < FEW else None


def baseline_startup(spec: StudySpec) -> int:
    """Return the number of trials at ε = 0 that are not proposed by a model."""
    return max(MIN_STARTUP, math.ceil(spec.sampler.startup * spec.budget.baseline))


def _count(spec: StudySpec, tickets: int) -> int:
    return math.ceil(tickets * spec.budget.baseline - _ROUNDING)


class _OneGroup:
    """A storage that contains only the trials at ε = 0, or only the others."""

    def __init__(self, storage: Any, *, at_zero: bool) -> None:
        self._storage, self._at_zero = storage, at_zero

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(self, *args: Any, **kwargs: Any) -> list[FrozenTrial]:
        trials = self._storage.get_all_trials(*args, **kwargs)
        return [trial for trial in trials if at_zero(trial.params) is self._at_zero]


def group_of(study: optuna.Study, spec: StudySpec, point: Point) -> optuna.Study:
    """Return a view of a study with the trials that a trial is compared with to prune it."""
    if not has_baseline_search(spec):
        return study
    storage: Any = _OneGroup(study._storage, at_zero=at_zero(point))
    return optuna.Study(study.study_name, storage, study.sampler, study.pruner)


def at_zero(point: Point) -> bool:
    """Return whether a configuration is trained without smoothing."""
    return bool(point.get("epsilon") == 0)
