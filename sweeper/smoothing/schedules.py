"""Schedules: how epsilon changes during training or with the model's predictions.

An annealed schedule is a factor s(u; r) of progress u in [0, 1] and annealing rate r > 0. It is 1
at the start and non-increasing in u and r. An adaptive schedule is a gate g in [0, 1] per sample,
without gradient; the epsilon of sample i is epsilon · g_i^r.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sweeper.errors import suggestion
from sweeper.smoothing.names import ADAPTIVE, ANNEALED, BUILT_IN

Annealing = Callable[[Tensor, Any], Tensor]
Gate = Callable[[Tensor, Tensor, int], Tensor]

# The grid on which custom schedules are checked.
_CHECKED_STEPS = 101
_CHECKED_RATES = (0.1, 0.3, 1.0, 3.0, 12.0)
_TOLERANCE = 1e-6
# Two functions without a closure are equal if these attributes are.
_PARTS = ("__code__", "__defaults__", "__kwdefaults__")


def fixed(progress: Tensor, rate: float | Tensor) -> Tensor:
    """Return 1; the annealing rate is ignored."""
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
    """Return 1 for u < 1/(1 + r) and 0 afterwards, as in TSLA (Xu et al. 2020)."""
    return (progress < 1 / (1 + rate)).to(progress.dtype)


def confidence(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """Return the largest predicted probability per sample: more smoothing for confident samples."""
    return _gate(_probabilities(logits).amax(1))


def error(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """Return 1 - p_y per sample, or 1 - Σ q·p for soft labels: more smoothing for wrong samples.

    Ignored samples get the gate of class 0, which is not used.
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
    # A diverged model has NaN logits. Its loss should be NaN, instead of a ValueError about an
    # epsilon that is NaN.
    return values.nan_to_num(0.0).clamp(0.0, 1.0)


@dataclass(frozen=True)
class Schedule:
    """A named schedule: a factor of progress (`annealed`) or a gate per sample (`adaptive`).

    `function` is (progress, rate) -> factor or (logits, labels, ignore_index) -> gate. It must use
    only tensor operations, so that it can be compiled and vectorized over annealing rates.
    `formula` is a description for people.
    """

    name: str
    kind: Literal["annealed", "adaptive"]
    uses_rate: bool
    formula: str
    function: Callable[..., Tensor]

    def factor(self, progress: Tensor, rate: float | Tensor | None) -> Tensor:
        """Return s(u; r) with the broadcast shape of progress and rate; 1 if adaptive."""
        if self.kind == ADAPTIVE:
            return torch.ones_like(progress)
        factor: Tensor = self.function(progress, 1.0 if rate is None else rate)
        return factor

    def gate(self, logits: Tensor, labels: Tensor, rate: Any, ignore_index: int = -100) -> Tensor:
        """Return g^r per sample, with the shape of integer labels, without gradient."""
        gate: Tensor = self.function(logits, labels, ignore_index)
        powered: Tensor = gate**rate
        return powered


_FUNCTIONS: tuple[Callable[..., Tensor], ...] = (
    fixed,
    linear,
    cosine,
    exponential,
    step,
    confidence,
    error,
)
SCHEDULES: dict[str, Schedule] = {
    name: Schedule(name, *facts, function)
    for (name, facts), function in zip(BUILT_IN.items(), _FUNCTIONS, strict=True)
}


def schedule_named(name: str) -> Schedule:
    """Return a registered schedule. Raises ValueError, with the nearest name, if unknown."""
    if isinstance(name, str) and name in SCHEDULES:
        return SCHEDULES[name]
    raise ValueError(
        f"unknown schedule {name!r}{suggestion(str(name), SCHEDULES)}; allowed: "
        f"{', '.join(SCHEDULES)}; register a custom schedule with "
        "sweeper.smoothing.register_schedule(name, function)"
    )


def register_schedule(name: str, function: Annealing, *, uses_rate: bool = True) -> Schedule:
    """Register a custom annealed schedule and return it.

    `function` takes progress (a float tensor) and the annealing rate (a float or tensor) and
    returns the factor for each progress, using tensor operations. `uses_rate` is false if it
    ignores the annealing rate. Registering the same function again is a no-op. Raises ValueError
    if the name is used by another function, or if on a grid of progress and annealing rates the
    factor is not 1 at the start, is outside [0, 1], or increases.
    """
    known = SCHEDULES.get(name)
    if known is not None and not _same_function(known.function, function):
        raise ValueError(f"schedule {name!r} is already registered; choose another name")
    if known is not None:
        return known
    for rate in _CHECKED_RATES:
        _check_annealing(name, function, rate)
    schedule = Schedule(name, ANNEALED, uses_rate, f"{name}(u, r)", function)
    SCHEDULES[name] = schedule
    return schedule


def _same_function(known: Callable[..., Tensor], new: Callable[..., Tensor]) -> bool:
    """Return whether two functions are equal, even if their file was imported twice."""
    if known is new:
        return True
    if getattr(known, "__closure__", None) or getattr(new, "__closure__", None):
        return False
    parts = [[getattr(f, part, f) for part in _PARTS] for f in (known, new)]
    return parts[0] == parts[1]


def _check_annealing(name: str, function: Annealing, rate: float) -> None:
    progress = torch.linspace(0, 1, _CHECKED_STEPS, dtype=torch.float64)
    factor = _evaluate(name, function, progress, rate)
    start = factor[0].item()
    if not abs(start - 1) <= _TOLERANCE:
        raise ValueError(
            f"schedule {name!r} starts at {start:.6g} at annealing rate {rate}; it must start at 1"
        )
    inside = (factor >= -_TOLERANCE) & (factor <= 1 + _TOLERANCE)
    _check_everywhere(name, inside, progress, factor, rate, "it must be in [0, 1]")
    falls = torch.ones_like(inside)
    falls[1:] = factor.diff() <= _TOLERANCE
    _check_everywhere(name, falls, progress, factor, rate, "it must not increase with progress")


def _evaluate(name: str, function: Annealing, progress: Tensor, rate: float) -> Tensor:
    try:
        factor = function(progress, rate)
    except Exception as error:
        raise ValueError(
            f"schedule {name!r} raised {type(error).__name__}: {error}; it must take (progress, "
            "rate) and use tensor operations (torch.where instead of if)"
        ) from error
    if not (isinstance(factor, Tensor) and factor.shape == progress.shape):
        raise ValueError(
            f"schedule {name!r} returned {_describe_value(factor)} for progress of shape "
            f"{tuple(progress.shape)}; it must return a tensor of that shape"
        )
    return factor.to(progress.dtype)


def _describe_value(value: object) -> str:
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
        f"{progress[where].item():.2f} and annealing rate {rate}; {rule}"
    )
