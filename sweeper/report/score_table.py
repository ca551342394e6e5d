"""The effect of the pick by metric: accuracy, NLL, calibration and ranking."""

from collections.abc import Callable
from typing import Final, NamedTuple

from sweeper import formatting as fmt
from sweeper.confirmation.evidence import Comparison, Evidence
from sweeper.confirmation.verdict import describe_smoothing
from sweeper.report.report_input import ReportInput


class ScoreRow(NamedTuple):
    """One metric of the pick and of ε = 0, formatted.

    `relevance` says when the metric matters; `tested` is True for the metric of the verdict.
    """

    name: str
    relevance: str
    word: str
    baseline: str
    pick: str
    difference: str
    tested: bool


class ScoreTable(NamedTuple):
    """The rows and a summary; `gap` is "" without scores of the training split."""

    pick: str
    rows: tuple[ScoreRow, ...]
    sentence: str
    gap: str

    @property
    def empty(self) -> bool:
        """Whether nothing is confirmed."""
        return not self.rows


def score_table(report: ReportInput) -> ScoreTable:
    """Compare the pick with ε = 0 on the test split; empty without a complete confirmation."""
    evidence = report.confirmed
    if evidence is None:
        return ScoreTable("", (), "", "")
    compared = [(score, evidence.compare(evidence.pick, score.key)) for score in _SCORES]
    rows = tuple(
        _row(score, comparison, evidence)
        for score, comparison in compared
        if comparison is not None
    )
    pick = describe_smoothing(evidence.candidates[evidence.pick])
    return ScoreTable(pick, rows, _sentence(rows), _gap(evidence, report))


_BASELINE: Final = "ε = 0"


class _Score(NamedTuple):
    key: str
    name: str
    relevance: str
    shown: Callable[[float], str]
    factor: float = 1.0
    unit: str = ""


def _thousandth(value: float) -> str:
    return f"{1000 * value:.3g}"


_SCORES: Final = (
    _Score(
        "accuracy",
        "accuracy",
        "only the predicted class is used",
        fmt.percent,
        100.0,
        " points",
    ),
    _Score("nll", "raw NLL", "the probabilities are used as the model outputs them", fmt.nll),
    _Score(
        "nll_calibrated",
        "NLL after scaling",
        "a temperature is fitted before the probabilities are used",
        fmt.nll,
    ),
    _Score(
        "ece",
        "ECE",
        "the confidence should match the accuracy",
        fmt.percent,
        100.0,
        " points",
    ),
    _Score(
        "aurc",
        "AURC × 1000",
        "the least confident predictions are rejected (selective classification)",
        _thousandth,
        1000.0,
    ),
)


def _row(score: _Score, comparison: Comparison, evidence: Evidence) -> ScoreRow:
    return ScoreRow(
        name=score.name,
        relevance=score.relevance,
        word=comparison.word,
        baseline=score.shown(comparison.baseline),
        pick=score.shown(comparison.mean),
        difference=fmt.difference(comparison.difference, score.factor) + score.unit,
        tested=comparison.score == evidence.metric,
    )


def _sentence(rows: tuple[ScoreRow, ...]) -> str:
    parts = []
    for word in ("better", "same", "worse"):
        names = [row.name.removesuffix(" × 1000") for row in rows if row.word == word]
        parts += [f"{word} in {fmt.join_words(names)}"] if names else []
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _gap(evidence: Evidence, report: ReportInput) -> str:
    """Return a sentence with the scores on the training and test splits; "" if they are missing."""
    comparisons = {}
    for split in ("train", "test"):
        for score in ("nll", "accuracy"):
            comparison = evidence.compare(evidence.pick, score, split)
            if comparison is None:
                return ""
            comparisons[split, score] = comparison
    parts = (
        f"{name}: NLL {_pair(comparisons, 'nll', name, fmt.nll)}, "
        f"accuracy {_pair(comparisons, 'accuracy', name, fmt.percent)}"
        for name in (_BASELINE, "pick")
    )
    labels = report.labels_of("train")
    source = f" (labels: {labels})" if labels else ""
    return f"Generalization gap, training split{source} vs. test split: {'; '.join(parts)}."


def _pair(
    comparisons: dict[tuple[str, str], Comparison],
    score: str,
    name: str,
    shown: Callable[[float], str],
) -> str:
    train, test = (
        comparisons[split, score].baseline if name == _BASELINE else comparisons[split, score].mean
        for split in ("train", "test")
    )
    return f"{shown(train)} vs. {shown(test)}"
