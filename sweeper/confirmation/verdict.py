"""The verdict of a confirmation: one test of the pick against ε = 0, and its sentences.

The pick was selected before the confirmation, so the test is pre-specified.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from sweeper import formatting as fmt
from sweeper.confirmation.candidate import Candidate
from sweeper.confirmation.evidence import Comparison, Evidence
from sweeper.metrics import METRICS
from sweeper.study.constraint import parse_constraint
from sweeper.study.space import effective_smoothing
from sweeper.training.messages import TEST_GROUPS

Word = Literal["helps", "no benefit shown", "hurts"]


@dataclass(frozen=True)
class Verdict:
    """The verdict on the pick, in the study's metric on the test split.

    `comparison` is the pick against ε = 0. `curse` is the mean validation value of the pick over
    its replicates minus its validation value in the search; None if either is missing. `failed`
    counts the pick's failed training runs. `reason` says how the pick violates the constraint
    ("" if the constraint holds or there is none).
    """

    word: Word
    pick: Candidate
    baseline: Candidate
    comparison: Comparison
    replicates: int
    failed: int
    curse: float | None
    reason: str
    sentences: tuple[str, ...]

    @property
    def recommended(self) -> Candidate:
        """The configuration to use: the pick if it helps and satisfies the constraint, else ε = 0.

        Pages, reports, exports, commands and the API all use this property.
        """
        return self.pick if self.word == "helps" and not self.reason else self.baseline

    def to_dict(self) -> dict[str, Any]:
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
    """Return the verdict; None if the pick and the baseline have fewer than two pairs."""
    pick = evidence.pick
    comparison = evidence.compare(pick, evidence.metric)
    if comparison is None:
        return None
    failed = evidence.failed(pick)
    result = Verdict(
        word=_word(comparison, failed),
        pick=evidence.candidates[pick],
        baseline=evidence.candidates[0],
        comparison=comparison,
        replicates=len(evidence.pairs(pick)),
        failed=failed,
        curse=_curse(evidence),
        reason=_reason(evidence),
        sentences=(),
    )
    return replace(result, sentences=tuple(_sentences(evidence, result)))


def describe_smoothing(candidate: Candidate) -> str:
    """Return a candidate's smoothing in words, as `ε = 0.17, cosine, rate 2.3`."""
    return fmt.smoothing(*effective_smoothing(candidate.point))


def test_examples(rows: Mapping[str, int]) -> str:
    """Return the numbers of test examples and groups as text: `359 test examples in 40 groups`."""
    groups = rows.get(TEST_GROUPS)
    text = fmt.count_noun(rows["test"], "test example")
    return text if groups is None else f"{text} in {fmt.count_noun(groups, 'group')}"


def _word(comparison: Comparison, failed: int) -> Word:
    if comparison.word == "worse":
        return "hurts"
    # A configuration that fails on some seeds is not recommended, even if it is better on others.
    return "helps" if comparison.word == "better" and not failed else "no benefit shown"


def _curse(evidence: Evidence) -> float | None:
    searched = evidence.candidates[evidence.pick].searched
    fresh = evidence.compare(evidence.pick, evidence.metric, "valid")
    return None if searched is None or fresh is None else fresh.mean - searched


def _reason(evidence: Evidence) -> str:
    """Return how the pick violates the constraint on the validation split, "" if it does not."""
    text = evidence.settings.constraint
    if text is None:
        return ""
    constraint = parse_constraint(text)
    metric = METRICS[constraint.score]
    fresh = evidence.compare(evidence.pick, constraint.score, "valid")
    if fresh is not None and constraint.holds(fresh.mean, fresh.baseline):
        return ""
    values = (
        f"validation {metric.label} is not available"
        if fresh is None
        else f"validation {metric.label} is {metric.write(fresh.mean)}; "
        f"at ε = 0: {metric.write(fresh.baseline)}"
    )
    return f"the pick violates the constraint {text} ({values})"


def _sentences(evidence: Evidence, result: Verdict) -> list[str]:
    lines = [_finding(evidence, result)]
    if result.failed:
        lines.append(
            f"The pick is not recommended, because {result.failed} of its "
            f"{fmt.count_noun(evidence.settings.replicates, 'training run')} failed."
        )
    if result.reason:
        lines.append(f"ε = 0 is recommended instead of the pick: {result.reason}.")
    lines.append(_power(evidence, result))
    if result.curse is not None and result.pick.searched is not None:
        lines.append(_search_bias(evidence, result, result.pick.searched))
    if evidence.settings.resplit:
        lines.append(
            "The redrawn test splits contain examples that the search used, and the variance is "
            "the approximation of Nadeau and Bengio (2003). The interval is too narrow if results "
            "depend strongly on the training set."
        )
    if evidence.earlier:
        earlier = fmt.count_noun(evidence.earlier, "earlier confirmation")
        lines.append(
            f"The test split was already used by {earlier} of this study. Each reuse makes the "
            "interval slightly too narrow."
        )
    return lines


def _finding(evidence: Evidence, result: Verdict) -> str:
    difference, metric = result.comparison.difference, METRICS[evidence.metric].label
    data, models = _population(evidence)
    decimals = fmt.interval_decimals(difference)
    pick = describe_smoothing(result.pick)
    if result.word == "no benefit shown":
        return (
            f"No benefit shown: on {data}, {metric} with {pick} differs from {metric} at ε = 0 by "
            f"{fmt.signed(difference.estimate, decimals)} nats (95% CI "
            f"{fmt.interval(difference)}), for models trained on {models}. Use ε = 0."
        )
    size = abs(difference.estimate)
    low, high = sorted((abs(difference.low), abs(difference.high)))
    direction = "lower" if result.word == "helps" else "higher"
    return (
        f"{pick} {result.word}: on {data}, {metric} is {size:.{decimals}f} nats {direction} than "
        f"at ε = 0 (95% CI {low:.{decimals}f} to {high:.{decimals}f} {direction}), for models "
        f"trained on {models}."
    )


def _population(evidence: Evidence) -> tuple[str, str]:
    """Return which data and which training sets the verdict applies to."""
    if evidence.settings.resplit:
        return "new data from the same source", "new samples from this source"
    labels = fmt.stated_labels(evidence.labels.get("test"))
    source = f" (labels: {labels})" if labels else ""
    return f"new data like the test set{source}", "this training set"


def _power(evidence: Evidence, result: Verdict) -> str:
    rows = evidence.pairs(evidence.pick)[0][0].rows
    examples = f" and {test_examples(rows)}" if "test" in rows else ""
    detectable = fmt.two_figures(result.comparison.difference.detectable)
    return (
        f"With {result.replicates} seeds{examples}, this test had about 80% power to detect a true "
        f"difference of {detectable} nats; a smaller one may have been missed."
    )


def _search_bias(evidence: Evidence, result: Verdict, searched: float) -> str:
    """Compare the validation values of the search, which selected the pick, with fresh seeds.

    The gain over ε = 0 is given too, because the search trains both on the same seed: unlike the
    values, it is not affected by how good that seed is.
    """
    fresh = evidence.compare(evidence.pick, evidence.metric, "valid")
    assert fresh is not None
    metric = METRICS[evidence.metric].label
    text = (
        f"Validation {metric} of the pick: {fmt.nll(searched)} in the search (one seed, "
        f"optimistically biased by selection), {fmt.nll(fresh.mean)} on fresh seeds "
        f"(mean of {result.replicates})."
    )
    base = evidence.candidates[0].searched
    if base is None:
        return text
    return (
        f"{text} Gain over ε = 0 on validation: {fmt.change(searched, base)} nats in the search, "
        f"{fmt.change(fresh.mean, fresh.baseline)} on fresh seeds."
    )
