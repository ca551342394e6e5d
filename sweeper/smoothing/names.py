"""The built-in schedules, with their properties. Does not import torch."""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

ANNEALED: Final[Literal["annealed"]] = "annealed"
ADAPTIVE: Final[Literal["adaptive"]] = "adaptive"


class ScheduleFacts(NamedTuple):
    """The properties of a schedule.

    `annealed` schedules are a factor that depends on progress u and annealing rate r; `adaptive`
    ones are a gate per sample.
    """

    kind: Literal["annealed", "adaptive"]
    uses_rate: bool
    formula: str


# In display order.
BUILT_IN: Final[Mapping[str, ScheduleFacts]] = {
    "fixed": ScheduleFacts(ANNEALED, False, "1"),
    "linear": ScheduleFacts(ANNEALED, True, "max(0, 1 - r·u)"),
    "cosine": ScheduleFacts(ANNEALED, True, "½·(1 + cos(π·min(1, r·u)))"),
    "exponential": ScheduleFacts(ANNEALED, True, "exp(-r·u)"),
    "step": ScheduleFacts(ANNEALED, True, "1 while u < 1/(1 + r), then 0"),
    "confidence": ScheduleFacts(ADAPTIVE, True, "(largest predicted probability)^r"),
    "error": ScheduleFacts(ADAPTIVE, True, "(1 - probability of the label)^r"),
}
