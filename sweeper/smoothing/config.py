"""The smoothing configuration of a trial, which a study also exports."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

from sweeper.smoothing.conventions import (
    UNIFORM,
    check_classes,
    check_convention,
    check_epsilon,
    check_progress,
    is_number,
    to_uniform,
)
from sweeper.smoothing.names import ADAPTIVE
from sweeper.smoothing.schedules import schedule_named


@dataclass(frozen=True)
class Smoothing:
    """A label smoothing configuration: epsilon, its schedule and the annealing rate.

    `epsilon` in [0, 1] is the initial value of annealed schedules and the maximum of adaptive
    schedules; `convention` ("others" or "uniform") defines its meaning. `rate` > 0 is required by
    schedules with an annealing rate and ignored by others. Raises ValueError for other values.
    """

    epsilon: float
    schedule: str = "fixed"
    rate: float | None = None
    convention: str = "others"

    def __post_init__(self) -> None:
        check_epsilon(self.epsilon)
        check_convention(self.convention)
        if schedule_named(self.schedule).uses_rate:
            _check_rate(self.rate, self.schedule)

    def at(self, progress: float) -> float:
        """Return epsilon at `progress` in [0, 1]; for adaptive schedules, the maximum epsilon."""
        check_progress(progress)
        schedule = schedule_named(self.schedule)
        if schedule.kind == ADAPTIVE:
            return self.epsilon
        factor = schedule.factor(torch.tensor(progress, dtype=torch.float64), self.rate)
        return self.epsilon * factor.item()

    def canonical(self) -> "Smoothing":
        """Return an equivalent configuration without settings that have no effect."""
        if self.epsilon == 0:
            return Smoothing(0.0, convention=self.convention)
        if schedule_named(self.schedule).uses_rate:
            return self
        return Smoothing(self.epsilon, self.schedule, convention=self.convention)

    def label_smoothing(self, classes: int) -> float:
        """Return epsilon for torch's `label_smoothing` argument, which uses `uniform`.

        The result exceeds 1, which torch does not accept, if an `others` epsilon exceeds (K-1)/K.
        """
        check_classes(classes)
        return self.epsilon if self.convention == UNIFORM else to_uniform(self.epsilon, classes)

    def to_dict(self) -> dict[str, Any]:
        return {
            "epsilon": float(self.epsilon),
            "schedule": self.schedule,
            "rate": None if self.rate is None else float(self.rate),
            "convention": self.convention,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Smoothing":
        """Create it from the result of `to_dict`; raises ValueError for missing or unknown keys."""
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if name not in values]
        unknown = [str(name) for name in values if name not in names]
        if missing or unknown:
            raise ValueError(
                f"a smoothing configuration must have the keys {', '.join(names)}"
                + _listed("; missing", missing)
                + _listed("; unknown", unknown)
            )
        return cls(**values)


def _check_rate(rate: float | None, schedule: str) -> None:
    if rate is None or not is_number(rate) or not (math.isfinite(rate) and rate > 0):
        raise ValueError(
            f"rate must be a finite number > 0 for schedule {schedule!r}, got {rate!r}"
        )


def _listed(title: str, names: list[str]) -> str:
    return f"{title}: {', '.join(names)}" if names else ""
