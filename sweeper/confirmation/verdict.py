"""The verdict of a confirmation: one test of the pick against ε = 0, and its sentences.

The pick was selected before the confirmation, so the test is pre-specified.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from sweeper import formatting as fmt
from sweeper.confirmation.candidate import Candidate
from sweeper.confirmation.evidence import Comparison, Evidence
from sweeper.confirmation.recommendation import describe_hparams
from sweeper.metrics import METRICS
from sweeper.study.constraint import parse_constraint
from sweeper.study.space import effective_smoothing
from sweeper.training.messages import TEST_GROUPS

Word = Literal["helps", "no benefit shown", "hurts"]
REFERENCES: Final[Mapping[str, str]] = {
    "baseline": "ε = 0 with the pick's other hyperparameters",
    "tuned baseline": "ε = 0 with its own best hyperparameters",
}


@dataclass(frozen=True)
class Verdict:
    """The verdict on the pick, in the study's metric on the test split.

    `comparison` is the pick against `baseline`, the better of the candidates at ε = 0. `contrasts`
    are the pick against each of them. `curse` is the validation difference between the pick and
    ε = 0 on fresh seeds minus that difference in the search; None if either is missing. `failed`
    counts the pick's failed training runs. `reason` says how the pick violates the constraint
    ("" if the constraint holds or there is none).
    """

    word: Word
    pick: Candidate
    baseline: Candidate
    comparison: Comparison
    contrasts: Mapping[str, Comparison]
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
            "against": self.baseline.to_dict(),
            "baseline": comparison.baseline,
            "difference": asdict(comparison.difference),
            "detectable": comparison.difference.detectable,
            "contrasts": {
                role: {
                    "mean": contrast.mean,
                    "baseline": contrast.baseline,
                    "difference": asdict(contrast.difference),
                }
                for role, contrast in self.contrasts.items()
            },
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
        baseline=evidence.candidates[evidence.reference],
        comparison=comparison,
        contrasts={
            evidence.candidates[index].role: contrast
            for index in evidence.baselines
            if (contrast := evidence.compare(pick, evidence.metric, against=index)) is not None
        },
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
    gains = search_gains(evidence)
    return None if gains is None else gains[1].difference.estimate - gains[0]


def search_gains(evidence: Evidence) -> tuple[float, Comparison] | None:
    """Return the validation difference between the pick and ε = 0: in the search, on fresh seeds.

    The search trains both on the same seed. So the difference, unlike the values, is not affected
    by how good that seed is. ε = 0 is the reference if the search has trained it, else the other
    candidate at ε = 0. Return None if the search has trained neither.
    """
    searched = evidence.candidates[evidence.pick].searched
    for index in (evidence.reference, *evidence.baselines):
        base = evidence.candidates[index].searched
        fresh = evidence.compare(evidence.pick, evidence.metric, "valid", against=index)
        if searched is not None and base is not None and fresh is not None:
            return searched - base, fresh
    return None


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
    lines += _two_baselines(evidence, result)
    lines += _calibrated(evidence)
    lines.append(_power(evidence, result))
    lines += _small_effect(evidence, result)
    lines += _search_bias(evidence, result)
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


def _two_baselines(evidence: Evidence, result: Verdict) -> Iterator[str]:
    """Yield which ε = 0 the verdict is about, and the difference from the other one."""
    if len(evidence.baselines) < 2:
        return
    metric = METRICS[evidence.metric].label
    hparams = describe_hparams(result.baseline)
    yield (
        f"The verdict compares with {REFERENCES[result.baseline.role]} ({hparams}), which has the "
        f"better validation {metric} of the two on fresh seeds."
    )
    for role, contrast in result.contrasts.items():
        if role != result.baseline.role:
            yield (
                f"Compared with {REFERENCES[role]}, the difference in test {metric} is "
                f"{fmt.difference(contrast.difference)}."
            )


def _calibrated(evidence: Evidence) -> Iterator[str]:
    """Yield raw and temperature-scaled NLL, and a warning if they disagree."""
    raw, scaled = (evidence.compare(evidence.pick, score) for score in ("nll", "nll_calibrated"))
    if raw is None or scaled is None:
        return
    yield (
        f"Test NLL minus that at ε = 0, with 95% CI: {fmt.difference(raw.difference)} raw, "
        f"{fmt.difference(scaled.difference)} after temperature scaling."
    )
    opposite = raw.difference.estimate * scaled.difference.estimate < 0
    if opposite and raw.word == "better":
        finding = "the pick is worse" if scaled.word == "worse" else "the pick shows no benefit"
        yield f"After temperature scaling, {finding}: if you calibrate afterwards, use ε = 0."
    elif opposite and scaled.word == "better":
        yield (
            "After temperature scaling, the pick is better than ε = 0, although its raw NLL is "
            'not; if you calibrate afterwards, search with objective.metric = "nll_calibrated".'
        )


def _small_effect(evidence: Evidence, result: Verdict) -> Iterator[str]:
    """Yield a sentence if the whole interval lies within `confirm.minimum_effect` of 0."""
    minimum, difference = evidence.settings.minimum_effect, result.comparison.difference
    if minimum is not None and -minimum < difference.low <= difference.high < minimum:
        yield f"The difference is smaller than your minimum effect ({minimum:g})."


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


def _search_bias(evidence: Evidence, result: Verdict) -> Iterator[str]:
    """Yield how much of the difference in the search remains on fresh seeds."""
    gains = search_gains(evidence)
    if gains is None:
        return
    searched, fresh = gains[0], gains[1].difference
    metric = METRICS[evidence.metric].label
    decimals = fmt.interval_decimals(fresh)
    data = (
        "The gap includes sampling variation of the validation set, which is redrawn too."
        if evidence.settings.resplit
        else "The gap includes seed variation; both use the same validation set, whose own "
        "sampling variation favors the selected configuration in both."
    )
    yield (
        f"Validation {metric}, pick minus ε = 0: {fmt.signed(searched, decimals)} in the search "
        f"(one seed, optimistically biased by selection), {fmt.signed(fresh.estimate, decimals)} "
        f"on fresh seeds (mean of {result.replicates}). {data}"
    )
