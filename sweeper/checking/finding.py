"""The result of a check: one line per question."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

Kind = Literal[
    "fails",
    "no-effect",
    "hidden-smoothing",
    "smoothed-validation",
    "redrawn-split",
    "shuffled-split",
    "probabilities",
    "training-mode",
    "shared-rows",
    "missing-classes",
]
Outcome = Literal["ok", "finding", "not checked"]


@dataclass(frozen=True)
class CheckLine:
    """One question of a check and its answer.

    `kind` is the name of a finding, "" if the outcome is not a finding. A finding that `stops` a
    launch makes the result of the study meaningless. `seconds` is the training time that the
    question needed.
    """

    question: str
    outcome: Outcome
    text: str
    kind: Kind | Literal[""] = ""
    stops: bool = False
    seconds: float = 0.0


@dataclass(frozen=True)
class Check:
    """The result of the check of a study.

    `share` is the share of the budget that its runs took, `code` a digest of the code that was
    checked, and `seconds` the time of the check.
    """

    study: str
    lines: Sequence[CheckLine]
    epochs: int
    share: float
    seconds: float
    code: str = ""

    @property
    def findings(self) -> list[CheckLine]:
        """The lines that are findings."""
        return [line for line in self.lines if line.outcome == "finding"]

    @property
    def stops(self) -> bool:
        """Whether a finding makes the result of the study meaningless."""
        return any(line.stops for line in self.findings)

    @property
    def count(self) -> str:
        """The number of findings, in words."""
        found = len(self.findings)
        return f"{found} finding{'' if found == 1 else 's'}" if found else "no finding"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {**asdict(self), "lines": [asdict(line) for line in self.lines]}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """Return the check of the result of `to_dict`."""
        return cls(**{**plain, "lines": [CheckLine(**line) for line in plain["lines"]]})

    def _repr_html_(self) -> str:
        from html import escape

        cells = [(line.question, line.outcome, line.text) for line in self.lines]
        rows = "".join(
            f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in cells
        )
        return f"<table>{rows}</table>"


def ok(question: str, text: str) -> CheckLine:
    """Return the line of a question without a finding."""
    return CheckLine(question, "ok", text)


def unchecked(question: str, reason: str) -> CheckLine:
    """Return the line of a question that could not be answered."""
    return CheckLine(question, "not checked", reason)


def finding(question: str, kind: Kind, text: str, *, stops: bool) -> CheckLine:
    """Return the line of a finding."""
    return CheckLine(question, "finding", text, kind, stops)
