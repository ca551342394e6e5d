"""A condition on a score beside the study's metric, as `accuracy >= baseline - 0.005`."""

import math
import re
from dataclasses import dataclass, fields
from typing import Final

from sweeper.errors import nearest
from sweeper.scoring import Scores

# A temperature is no goodness.
SCORES: Final = tuple(field.name for field in fields(Scores) if field.name != "temperature")
_NUMBER: Final = r"\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+"
_FORM: Final = re.compile(
    rf"\s*(?P<score>\w+)\s*(?P<sign>>=|<=)\s*(?:(?P<alone>{_NUMBER})"
    rf"|baseline(?:\s*(?P<operation>[-+*])\s*(?P<number>{_NUMBER}))?)\s*"
)


@dataclass(frozen=True)
class Constraint:
    """A bound on a score: a number, or the baseline's score moved or multiplied by one."""

    text: str
    score: str
    at_least: bool
    operation: str  # "" for a bound that is a number by itself
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
        """Return whether a score keeps to the bound; what is no number does not."""
        bound = self.bound(baseline)
        return value >= bound if self.at_least else value <= bound


def parse_constraint(text: str) -> Constraint:
    """Read a constraint; raises ValueError with what is allowed."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError(
            f"{text!r}; write SCORE >= BOUND or SCORE <= BOUND, where BOUND is a number, baseline, "
            "baseline - 0.005 or baseline * 1.1"
        )
    score = found["score"]
    if score not in SCORES:
        raise ValueError(f"no score {score!r}{nearest(score, SCORES)}; allowed: {_listed()}")
    alone = found["alone"]
    operation = "" if alone else found["operation"] or "+"
    number = float(alone or found["number"] or 0.0)
    if not math.isfinite(number):
        raise ValueError(f"{text!r}; the number has to be finite")
    return Constraint(text.strip(), score, found["sign"] == ">=", operation, number)


def _listed() -> str:
    return ", ".join(SCORES)
