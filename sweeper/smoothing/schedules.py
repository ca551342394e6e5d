"""How epsilon falls over the training, or follows the model: one registry of schedules.

An annealed schedule is a factor s(u; r) of progress u in [0, 1] and rate r > 0: 1 at the start,
non-increasing in both. An adaptive one is a gate g in [0, 1] for each sample, without gradient,
and epsilon_i = epsilon · g_i^r.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sweeper.errors import nearest

Annealing = Callable[[Tensor, Any], Tensor]
Gate = Callable[[Tensor, Tensor, int], Tensor]

ANNEALED: Literal["annealed"] = "annealed"
ADAPTIVE: Literal["adaptive"] = "adaptive"

# Where a user's own schedule is tried before it is taken.
_CHECKED_STEPS = 101
_CHECKED_RATES = (0.1, 0.3, 1.0, 3.0, 12.0)
_TOLERANCE = 1e-6
# What makes two functions without a closure one.
_PARTS = ("__code__", "__defaults__", "__kwdefaults__")


def fixed(progress: Tensor, rate: float | Tensor) -> Tensor:
    """Return 1: epsilon stays as it is, and the rate is ignored."""
    return torch.ones_like(progress)


def linear(progress: Tensor, rate: float | Tensor) -> Tensor:
    """Return max(0, 1 - r·u)."""
    return (1 - rate * progress).clamp(min=0)


def cosine(progress: Tensor, rate: float | Tensor) -> Tensor:
    """Return ½·(1 + cos(π·min(1, r·u)))."""
    return 0.5 * (1 + torch.cos(math.pi * (rate * progress).clamp(max=1)))


def exponential(progress: Tensor, rate: float | Tensor) -> Tensor:
    """Return exp(-r·u)."""
    return torch.exp(-rate * progress)


def step(progress: Tensor, rate: float | Tensor) -> Tensor:
    """Return 1 while u < 1/(1 + r) and 0 after: the switch-off of TSLA (Xu et al. 2020)."""
    return (progress < 1 / (1 + rate)).to(progress.dtype)


def confidence(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """Return the largest predicted probability of each sample: smooth where the model is sure."""
    return _gate(_probabilities(logits).amax(1))


def error(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """Return 1 - p_y of each sample, or 1 - Σ q·p: smooth where the model disagrees.

    Ignored samples get the gate of class 0, which their loss never uses.
    """
    probabilities = _probabilities(logits)
    if labels.is_floating_point():
        return _gate(1 - (labels * probabilities).sum(1))
    index = torch.where(labels == ignore_index, 0, labels.long())
    return _gate(1 - probabilities.gather(1, index.unsqueeze(1)).squeeze(1))


def _probabilities(logits: Tensor) -> Tensor:
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    probabilities: Tensor = logits.detach().softmax(1, dtype=wide)
    return probabilities


def _gate(values: Tensor) -> Tensor:
    # A diverged model has NaN logits: its loss says so by being NaN, not by a ValueError
    # about an epsilon that nobody gave.
    return values.nan_to_num(0.0).clamp(0.0, 1.0)


@dataclass(frozen=True)
class Schedule:
    """A named schedule: a factor of progress (`annealed`) or a gate a sample (`adaptive`).

    `function` is (progress, rate) -> factor or (logits, labels, ignore_index) -> gate, in
    tensor operations alone, so that it compiles and is vmapped over rates. `formula` is for
    people.
    """

    name: str
    kind: Literal["annealed", "adaptive"]
    uses_rate: bool
    formula: str
    function: Callable[..., Tensor]

    def factor(self, progress: Tensor, rate: float | Tensor | None) -> Tensor:
        """Return s(u; r), of the shape that progress and rate broadcast to; 1 if adaptive."""
        if self.kind == ADAPTIVE:
            return torch.ones_like(progress)
        factor: Tensor = self.function(progress, 1.0 if rate is None else rate)
        return factor

    def gate(self, logits: Tensor, labels: Tensor, rate: Any, ignore_index: int = -100) -> Tensor:
        """Return g^r of each sample, of the shape of hard labels, without gradient."""
        gate: Tensor = self.function(logits, labels, ignore_index)
        powered: Tensor = gate**rate
        return powered


SCHEDULES: dict[str, Schedule] = {
    schedule.name: schedule
    for schedule in (
        Schedule("fixed", ANNEALED, False, "1", fixed),
        Schedule("linear", ANNEALED, True, "max(0, 1 - r·u)", linear),
        Schedule("cosine", ANNEALED, True, "½·(1 + cos(π·min(1, r·u)))", cosine),
        Schedule("exponential", ANNEALED, True, "exp(-r·u)", exponential),
        Schedule("step", ANNEALED, True, "1 while u < 1/(1 + r), then 0", step),
        Schedule("confidence", ADAPTIVE, True, "(largest predicted probability)^r", confidence),
        Schedule("error", ADAPTIVE, True, "(1 - probability of the label)^r", error),
    )
}


def schedule_named(name: str) -> Schedule:
    """Return a registered schedule, else raise ValueError with the nearest name."""
    if isinstance(name, str) and name in SCHEDULES:
        return SCHEDULES[name]
    raise ValueError(
        f"schedule is {name!r}{nearest(str(name), SCHEDULES)}; it is one of "
        f"{', '.join(SCHEDULES)}; a schedule of your own needs "
        "sweeper.smoothing.register_schedule(name, function) first"
    )


def register_schedule(name: str, function: Annealing, *, uses_rate: bool = True) -> Schedule:
    """Register a user's own annealed schedule and return it.

    `function` takes (progress, rate), a float tensor and a float or tensor, and returns the
    factor of each progress in tensor operations. Registering the same function again is fine.
    Raises ValueError if the name is taken by another, or if on a grid of progress and rates the
    factor is not 1 at the start, leaves [0, 1], or rises; it says where.
    """
    known = SCHEDULES.get(name)
    if known is not None and not _same_function(known.function, function):
        raise ValueError(f"schedule {name!r} is registered already; choose another name")
    if known is not None:
        return known
    for rate in _CHECKED_RATES:
        _check_annealing(name, function, rate)
    schedule = Schedule(name, ANNEALED, uses_rate, f"{name}(u, r)", function)
    SCHEDULES[name] = schedule
    return schedule


def _same_function(known: Callable[..., Tensor], given: Callable[..., Tensor]) -> bool:
    """Return whether two functions are one, also when its file was imported twice."""
    if known is given:
        return True
    if getattr(known, "__closure__", None) or getattr(given, "__closure__", None):
        return False
    parts = [[getattr(f, part, f) for part in _PARTS] for f in (known, given)]
    return parts[0] == parts[1]


def _check_annealing(name: str, function: Annealing, rate: float) -> None:
    progress = torch.linspace(0, 1, _CHECKED_STEPS, dtype=torch.float64)
    factor = _tried(name, function, progress, rate)
    start = factor[0].item()
    if not abs(start - 1) <= _TOLERANCE:
        raise ValueError(f"schedule {name!r} starts at {start:.6g} at rate {rate}; s(0) is 1")
    inside = (factor >= -_TOLERANCE) & (factor <= 1 + _TOLERANCE)
    _check_everywhere(name, inside, progress, factor, rate, "a factor lies in [0, 1]")
    falls = torch.ones_like(inside)
    falls[1:] = factor.diff() <= _TOLERANCE
    _check_everywhere(name, falls, progress, factor, rate, "a factor never rises with progress")


def _tried(name: str, function: Annealing, progress: Tensor, rate: float) -> Tensor:
    try:
        factor = function(progress, rate)
    except Exception as error:
        raise ValueError(
            f"schedule {name!r} raised {type(error).__name__}: {error}; it takes (progress, rate) "
            "and uses tensor operations (torch.where, not if)"
        ) from error
    if not (isinstance(factor, Tensor) and factor.shape == progress.shape):
        raise ValueError(
            f"schedule {name!r} returns {_described(factor)} for progress of shape "
            f"{tuple(progress.shape)}; it returns a tensor of that shape"
        )
    return factor.to(progress.dtype)


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return repr(value)


def _check_everywhere(
    name: str, holds: Tensor, progress: Tensor, factor: Tensor, rate: float, rule: str
) -> None:
    if holds.all():
        return
    where = int((~holds).nonzero()[0].item())
    raise ValueError(
        f"schedule {name!r} is {factor[where].item():.6g} at progress "
        f"{progress[where].item():.2f} and rate {rate}; {rule}"
    )
