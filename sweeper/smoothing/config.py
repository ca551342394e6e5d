"""One smoothing configuration: what a trial tries and what a study exports."""

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
from sweeper.smoothing.schedules import ADAPTIVE, schedule_named


@dataclass(frozen=True)
class Smoothing:
    """How labels are smoothed: epsilon, its schedule, and the schedule's rate.

    `epsilon` in [0, 1] is the start (annealed) or the ceiling (adaptive), in the meaning that
    `convention` names. `rate` > 0 is required by every schedule that uses one and ignored by
    the others. Raises ValueError for anything else.
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
        """Return epsilon at a progress in [0, 1]; of an adaptive schedule, its ceiling."""
        check_progress(progress)
        schedule = schedule_named(self.schedule)
        if schedule.kind == ADAPTIVE:
            return self.epsilon
        factor = schedule.factor(torch.tensor(progress, dtype=torch.float64), self.rate)
        return self.epsilon * factor.item()

    def canonical(self) -> "Smoothing":
        """Return the equal configuration without what does not act."""
        if self.epsilon == 0:
            return Smoothing(0.0, convention=self.convention)
        if schedule_named(self.schedule).uses_rate:
            return self
        return Smoothing(self.epsilon, self.schedule, convention=self.convention)

    def label_smoothing(self, classes: int) -> float:
        """Return epsilon as torch's `label_smoothing` argument, which is `uniform`.

        Exceeds 1, which torch refuses, where an `others` epsilon exceeds (K-1)/K.
        """
        check_classes(classes)
        return self.epsilon if self.convention == UNIFORM else to_uniform(self.epsilon, classes)

    def to_dict(self) -> dict[str, Any]:
        """Return the four fields as plain data."""
        return {
            "epsilon": float(self.epsilon),
            "schedule": self.schedule,
            "rate": None if self.rate is None else float(self.rate),
            "convention": self.convention,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Smoothing":
        """Return the configuration that `to_dict` gave; ValueError names keys that do not fit."""
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if name not in values]
        unknown = [str(name) for name in values if name not in names]
        if missing or unknown:
            raise ValueError(
                f"a smoothing has the keys {', '.join(names)}"
                + _listed("; missing", missing)
                + _listed("; unknown", unknown)
            )
        return cls(**values)


def _check_rate(rate: float | None, schedule: str) -> None:
    if rate is None or not is_number(rate) or not (math.isfinite(rate) and rate > 0):
        raise ValueError(f"rate is {rate!r}; schedule {schedule!r} needs a finite number above 0")


def _listed(title: str, names: list[str]) -> str:
    return f"{title}: {', '.join(names)}" if names else ""
