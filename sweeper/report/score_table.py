"""What each side of the dispute would say of the pick: accuracy, likelihood, calibration, ranks."""

from collections.abc import Callable
from typing import Final, NamedTuple

from sweeper.confirmation.evidence import Comparison, Evidence
from sweeper.confirmation.verdict import describe
from sweeper.report import wording
from sweeper.report.report_input import ReportInput


class Side(NamedTuple):
    """One score of the pick beside that of ε = 0, formatted; `tested` is the verdict's own."""

    name: str
    who: str
    word: str
    baseline: str
    pick: str
    difference: str
    tested: bool


class Sides(NamedTuple):
    """The table, and what the sides come to; `gap` is "" without the training split."""

    pick: str
    rows: tuple[Side, ...]
    sentence: str
    gap: str

    @property
    def empty(self) -> bool:
        """Whether nothing is confirmed."""
        return not self.rows


def sides(report: ReportInput) -> Sides:
    """Return the scores that the literature disagrees about, on the test split."""
    evidence = report.confirmed
    if evidence is None:
        return Sides("", (), "", "")
    found = [(score, evidence.compare(evidence.pick, score.key)) for score in _SCORES]
    known = [(score, comparison) for score, comparison in found if comparison is not None]
    rows = tuple(_side(score, comparison, evidence) for score, comparison in known)
    pick = describe(evidence.candidates[evidence.pick])
    return Sides(pick, rows, _sentence(rows), _gap(evidence, report))


class _Score(NamedTuple):
    key: str
    name: str
    who: str
    shown: Callable[[float], str]
    factor: float = 1.0
    unit: str = ""


def _thousandth(value: float) -> str:
    return f"{1000 * value:.3g}"


_SCORES: Final = (
    _Score(
        "accuracy",
        "accuracy",
        "the accuracy camp: only the predicted class counts",
        wording.percent,
        100.0,
        " points",
    ),
    _Score("nll", "raw NLL", "the likelihood camp: probabilities count as they come", wording.nll),
    _Score(
        "nll_calibrated",
        "NLL after scaling",
        "those who rescale: a temperature is fitted first anyway",
        wording.nll,
    ),
    _Score(
        "ece",
        "ECE",
        "the calibration camp: confidence has to be accuracy",
        wording.percent,
        100.0,
        " points",
    ),
    _Score(
        "aurc",
        "AURC × 1000",
        "selective classification: the least sure cases are passed on",
        _thousandth,
        1000.0,
    ),
)


def _side(score: _Score, found: Comparison, evidence: Evidence) -> Side:
    return Side(
        name=score.name,
        who=score.who,
        word=found.word,
        baseline=score.shown(found.baseline),
        pick=score.shown(found.mean),
        difference=wording.difference(found.difference, score.factor) + score.unit,
        tested=found.score == evidence.metric,
    )


def _sentence(rows: tuple[Side, ...]) -> str:
    parts = []
    for word in ("better", "same", "worse"):
        names = [row.name.removesuffix(" × 1000") for row in rows if row.word == word]
        parts += [f"{word} in {wording.listed(names)}"] if names else []
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _gap(evidence: Evidence, report: ReportInput) -> str:
    """Return how far training and test lie apart: what a regulariser is there to narrow."""
    pick, found = evidence.pick, {}
    for split in ("train", "test"):
        for score in ("nll", "accuracy"):
            comparison = evidence.compare(pick, score, split)
            if comparison is None:
                return ""
            found[split, score] = comparison
    parts = (
        f"{who}: NLL {_pair(found, 'nll', who, wording.nll)}, "
        f"accuracy {_pair(found, 'accuracy', who, wording.percent)}"
        for who in ("ε = 0", "the pick")
    )
    return (
        f"Regularising gap, training split (labels: {report.labels_of('train')}) against test: "
        f"{'; '.join(parts)}."
    )


def _pair(
    found: dict[tuple[str, str], Comparison], score: str, who: str, shown: Callable[[float], str]
) -> str:
    train, test = (
        found[split, score].baseline if who == "ε = 0" else found[split, score].mean
        for split in ("train", "test")
    )
    return f"{shown(train)} against {shown(test)}"
