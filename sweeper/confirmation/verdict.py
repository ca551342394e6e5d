"""One test, of the pick made before the confirmation against ε = 0, and what it says in words."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from sweeper.confirmation.evidence import Comparison, Evidence
from sweeper.confirmation.shortlist import Candidate
from sweeper.study.constraint import parse_constraint
from sweeper.study.space import acting

Word = Literal["helps", "no benefit shown", "hurts"]

METRICS: Final = {"nll": "NLL", "nll_calibrated": "NLL after temperature scaling"}


@dataclass(frozen=True)
class Verdict:
    """What a confirmation says of the pick, in the study's metric on the test split.

    `comparison` is the test; `curse` by how much the search's value of the pick fell short of
    the mean of its replicates on the same validation split; `reason` why a pick that has the
    better metric is not exported.
    """

    word: Word
    pick: Candidate
    comparison: Comparison
    replicates: int
    failed: int
    curse: float | None
    reason: str
    sentences: tuple[str, ...]

    @property
    def exported(self) -> bool:
        """Whether the pick is what to use, and not ε = 0."""
        return self.word == "helps" and not self.reason

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as plain data."""
        comparison = self.comparison
        return {
            "word": self.word,
            "split": comparison.split,
            "metric": comparison.score,
            "pick": self.pick.to_dict(),
            "mean": comparison.mean,
            "baseline": comparison.baseline,
            "difference": asdict(comparison.difference),
            "detectable": comparison.difference.detectable,
            "replicates": self.replicates,
            "failed": self.failed,
            "winners_curse": self.curse,
            "reason": self.reason,
            "sentences": list(self.sentences),
        }


def verdict(evidence: Evidence) -> Verdict | None:
    """Return the verdict; None while the pick and the baseline have fewer than two pairs."""
    pick = evidence.pick
    comparison = evidence.compare(pick, evidence.metric)
    if comparison is None:
        return None
    failed = evidence.failed(pick)
    word = _word(comparison, failed)
    curse, reason = _curse(evidence, pick), _reason(evidence, pick)
    replicates = len(evidence.pairs(pick))
    said = Verdict(
        word, evidence.candidates[pick], comparison, replicates, failed, curse, reason, ()
    )
    return Verdict(**{**vars(said), "sentences": tuple(_sentences(evidence, said))})


def describe(candidate: Candidate) -> str:
    """Return a configuration's smoothing in words, as `ε = 0.17, cosine, rate 2.3`."""
    smoothing = acting(candidate.point)
    if smoothing.epsilon == 0:
        return "ε = 0"
    paced = "" if smoothing.rate is None else f", rate {smoothing.rate:.2g}"
    return f"ε = {smoothing.epsilon:.2g}, {smoothing.schedule}{paced}"


def _word(comparison: Comparison, failed: int) -> Word:
    if comparison.word == "worse":
        return "hurts"
    # What some seeds cannot train is no help, however good the others are.
    return "helps" if comparison.word == "better" and not failed else "no benefit shown"


def _curse(evidence: Evidence, pick: int) -> float | None:
    searched = evidence.candidates[pick].searched
    again = evidence.compare(pick, evidence.metric, "valid")
    return None if searched is None or again is None else again.mean - searched


def _reason(evidence: Evidence, pick: int) -> str:
    """Return why the pick breaks the constraint on the validation split, "" if it does not."""
    text = evidence.settings.constraint
    if text is None:
        return ""
    constraint = parse_constraint(text)
    found = evidence.compare(pick, constraint.score, "valid")
    if found is not None and constraint.holds(found.mean, found.baseline):
        return ""
    value = "no number" if found is None else f"{found.mean:.4g}, at ε = 0 {found.baseline:.4g}"
    return f"it breaks the constraint {text}: {constraint.score} on validation is {value}"


def _sentences(evidence: Evidence, said: Verdict) -> list[str]:
    lines = [_finding(evidence, said), _reach(evidence, said)]
    if said.curse is not None and said.pick.searched is not None:
        lines.append(_luck(evidence, said.pick.searched, said.curse))
    if said.failed:
        lines.append(f"{said.failed} of its trainings failed: it is not recommended.")
    if said.reason:
        lines.append(f"ε = 0 is exported in its place: {said.reason}.")
    if evidence.settings.resplit:
        lines.append(
            "Splits were redrawn from rows that the search was judged on, and the interval follows "
            "a rule of thumb: where training sets matter much it is too narrow."
        )
    if evidence.number > 1:
        lines.append(
            f"This test split has answered {evidence.number - 1} confirmation(s) of this study "
            "before: each further look makes the interval a little too narrow."
        )
    return lines


def _finding(evidence: Evidence, said: Verdict) -> str:
    difference, metric = said.comparison.difference, METRICS[evidence.metric]
    on, pick = _population(evidence), describe(said.pick)
    size = f"{abs(difference.estimate):.3g} nats"
    low, high = sorted((difference.low, difference.high))
    interval = f"95 % interval of the difference: {low:+.3g} to {high:+.3g}"
    if said.word == "helps":
        return f"{pick} helps: {on}, its {metric} is lower than at ε = 0 by {size} ({interval})."
    if said.word == "hurts":
        return f"{pick} hurts: {on}, its {metric} is higher than at ε = 0 by {size} ({interval})."
    return (
        f"No benefit shown: {on}, the {metric} of {pick} differs from that at ε = 0 by "
        f"{difference.estimate:+.3g} nats ({interval}). Use ε = 0."
    )


def _population(evidence: Evidence) -> str:
    if evidence.settings.resplit:
        return "on new data like these, for models trained on new samples of them"
    labels = evidence.labels.get("test", "")
    source = f" (labels: {labels})" if labels else ""
    return f"on new data like this test set{source}, for models trained on this training set"


def _reach(evidence: Evidence, said: Verdict) -> str:
    pairs = f"{said.replicates} seeds"
    rows = evidence.pairs(evidence.pick)[0][0].rows.get("test")
    examples = f" and {rows:,} test examples" if rows else ""
    detectable = said.comparison.difference.detectable
    return (
        f"With {pairs}{examples} a true difference of {detectable:.2g} nats would have been told "
        "from none in four cases of five; a smaller one may be there and not be seen."
    )


def _luck(evidence: Evidence, searched: float, curse: float) -> str:
    text = (
        f"The search gave it {searched:.4f} on validation; on fresh seeds it has "
        f"{searched + curse:.4f} there"
    )
    if curse > 0 and math.isfinite(curse):
        return f"{text}: {curse:.2g} of the search's value was the luck of being chosen."
    return f"{text}: being chosen was no luck."
