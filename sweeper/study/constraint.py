"""Constraints on scores, such as `accuracy >= baseline - 0.005`."""

import math
import re
from dataclasses import dataclass
from typing import Final

from sweeper.errors import suggestion
from sweeper.metrics import METRICS

# Temperature is not a quality metric.
SCORES: Final = tuple(name for name in METRICS if name != "temperature")
_NUMBER: Final = r"\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+"
_FORM: Final = re.compile(
    rf"\s*(?P<score>\w+)\s*(?P<sign>>=|<=)\s*(?:(?P<alone>{_NUMBER})"
    rf"|baseline(?:\s*(?P<operation>[-+*])\s*(?P<number>{_NUMBER}))?)\s*"
)


@dataclass(frozen=True)
class Constraint:
    """A bound on a score.

    With `operation` "+", "-" or "*", the bound is `number` added to, subtracted from or multiplied
    with the baseline's score. With "", it is `number`.
    """

    text: str
    score: str
    at_least: bool
    operation: str
    number: float

    def bound(self, baseline: float) -> float:
        """Return the bound, given the score of the baseline."""
        match self.operation:
            case "+":
                return baseline + self.number
            case "-":
                return baseline - self.number
            case "*":
                return baseline * self.number
        return self.number

    def holds(self, value: float, baseline: float) -> bool:
        """Return whether a score satisfies the constraint; NaN never does."""
        bound = self.bound(baseline)
        return value >= bound if self.at_least else value <= bound


def parse_constraint(text: str) -> Constraint:
    """Parse a constraint; raises ValueError if it is invalid."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError(
            f"invalid constraint {text!r}; write SCORE >= BOUND or SCORE <= BOUND, where BOUND is "
            "a number, baseline, baseline - 0.005 or baseline * 1.1"
        )
    score = match["score"]
    if score not in SCORES:
        raise ValueError(
            f"unknown score {score!r}{suggestion(score, SCORES)}; allowed: {', '.join(SCORES)}"
        )
    alone = match["alone"]
    operation = "" if alone else match["operation"] or "+"
    number = float(alone or match["number"] or 0.0)
    if not math.isfinite(number):
        raise ValueError(f"invalid constraint {text!r}; the number must be finite")
    return Constraint(text.strip(), score, match["sign"] == ">=", operation, number)
