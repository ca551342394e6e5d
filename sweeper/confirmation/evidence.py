"""The results of a confirmation: the scores of each candidate, paired with ε = 0 by seed."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, Self

import numpy as np

from sweeper.confirmation.candidate import BASELINES, Candidate
from sweeper.confirmation.examples import GROUP
from sweeper.confirmation.intervals import (
    Floats,
    Integers,
    Interval,
    bootstrap_interval,
    group_values,
    resplit_interval,
    two_way_interval,
)
from sweeper.metrics import METRICS
from sweeper.study.spec import ConfirmSection, Metric
from sweeper.training.messages import TEST_GROUPS

if TYPE_CHECKING:
    from torch import Tensor

Split = str  # valid | test | train

# Scores that are means over examples, with the per-example value that each averages.
MEAN_SCORES: Final = {"nll": "nll", "nll_calibrated": "nll_calibrated", "brier": "brier"} | {
    "accuracy": "correct"
}
# Scores of a whole split, with the confidence that each is computed from.
SPLIT_SCORES: Final = {
    "ece": "confidence",
    "ece_calibrated": "confidence_calibrated",
    "aurc": "confidence",
}
COMPARED_SCORES: Final = (*MEAN_SCORES, *SPLIT_SCORES)
CONFIDENCE_VALUES: Final = ("confidence", "confidence_calibrated")
RESAMPLES: Final = 200
# Large test splits get fewer resamples, so that all bootstrap counts fit in memory.
MIN_RESAMPLES: Final = 30
MAX_BOOTSTRAP_COUNTS: Final = 20_000_000


@dataclass(frozen=True, eq=False)
class Replicate:
    """One candidate trained on one fresh seed.

    `scores` are the scores of each split, `rows` the number of examples of each split, and of
    groups of test examples (TEST_GROUPS) if there are any. `examples` are values of the test
    examples, (N,) each: nll, nll_calibrated (at the temperature of the validation split), brier,
    correct, confidence, confidence_calibrated, and the number of the group if there are groups. A
    script that does not deliver logits has only nll and correct. It is empty if the training run
    failed. `seconds` is the duration.
    """

    candidate: int
    number: int
    seed: int
    scores: Mapping[Split, Mapping[str, float | None]] = field(default_factory=dict)
    rows: Mapping[Split, int] = field(default_factory=dict)
    examples: Mapping[str, Floats] = field(default_factory=dict)
    failure: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Comparison:
    """A score of a candidate compared with the candidate `against`, which is at ε = 0.

    `mean` and `baseline` are means over paired seeds; `difference` is candidate minus baseline.
    """

    candidate: int
    against: int
    split: Split
    score: str
    mean: float
    baseline: float
    difference: Interval

    @property
    def word(self) -> str:
        """Return "better", "worse", or "same" if the interval contains 0 or is NaN."""
        if not (self.difference.low > 0 or self.difference.high < 0):
            return "same"
        higher = self.difference.estimate > 0
        return "better" if higher == METRICS[self.score].higher_is_better else "worse"


@dataclass(frozen=True, eq=False)
class Evidence:
    """A confirmation with the results of its replicates so far.

    `number` counts the study's confirmations from 1. `earlier` is the number of those before it
    that have scored the test split. Candidate 0 is the baseline with the pick's other
    hyperparameters. `labels` says for each split where its labels come from. If there is a
    `summary`, test scores are read from it, not computed.
    """

    number: int
    metric: Metric
    settings: ConfirmSection
    candidates: Sequence[Candidate]
    replicates: Sequence[Replicate]
    labels: Mapping[Split, str] = field(default_factory=dict)
    summary: "EvidenceSummary | None" = None
    earlier: int = 0

    @property
    def pick(self) -> int:
        """The candidate that the verdict is about."""
        return next(i for i, candidate in enumerate(self.candidates) if candidate.role == "pick")

    @property
    def baselines(self) -> Sequence[int]:
        """The candidates at ε = 0: one, or two if other hyperparameters are searched."""
        return [i for i, each in enumerate(self.candidates) if each.role in BASELINES]

    @cached_property
    def reference(self) -> int:
        """The candidate at ε = 0 that all others are compared with.

        Of two, it is the one with the better mean validation score over the seeds that both have;
        test scores play no role. With fewer than two such seeds, it is the one with more seeds.
        """
        first, *rest = self.baselines
        for second in rest:
            pairs = self.pairs(second, first)
            if len(pairs) < 2:
                mine, other = (len(self.replicates_by_candidate[i]) for i in (second, first))
                first = second if mine > other else first
                continue
            difference = self.seed_differences(second, first, "valid").mean()
            higher_is_better = METRICS[self.metric].higher_is_better
            is_better = difference > 0 if higher_is_better else difference < 0
            first = second if is_better else first
        return first

    @property
    def planned_runs(self) -> int:
        """Number of training runs of the whole confirmation."""
        return len(self.candidates) * self.settings.replicates

    @property
    def complete(self) -> bool:
        """Whether every training run has ended."""
        return len(self.replicates) == self.planned_runs

    @cached_property
    def replicates_by_candidate(self) -> Mapping[int, Mapping[int, Replicate]]:
        """The replicates that have test examples, by candidate and number."""
        results: dict[int, dict[int, Replicate]] = {i: {} for i in range(len(self.candidates))}
        for replicate in self.replicates:
            if replicate.examples:
                results[replicate.candidate][replicate.number] = replicate
        return results

    def failed(self, candidate: int) -> int:
        """Return the number of failed training runs of a candidate."""
        return sum(bool(r.failure) for r in self.replicates if r.candidate == candidate)

    def pairs(
        self, candidate: int, against: int | None = None
    ) -> list[tuple[Replicate, Replicate]]:
        """Return pairs of replicates with the same seed: a candidate's and that of ε = 0.

        `against` is a candidate at ε = 0, by default the reference.
        """
        mine = self.replicates_by_candidate[candidate]
        base = self.replicates_by_candidate[self.reference if against is None else against]
        return [(mine[number], base[number]) for number in sorted(mine.keys() & base.keys())]

    def seed_differences(self, candidate: int, against: int, split: Split) -> Floats:
        """Return the study's metric minus that of a candidate at ε = 0, (n,), one per seed."""
        pairs = self.pairs(candidate, against)
        scores = [[self.score(r, split, self.metric) for r in pair] for pair in pairs]
        values: Floats = np.array(scores, dtype=float)
        differences: Floats = values[:, 0] - values[:, 1]
        return differences

    @property
    def no_verdict(self) -> str:
        """The reason why a complete confirmation has no verdict; "" if it has one."""
        if len(self.pairs(self.pick)) < 2:
            failures = Counter(r.failure for r in self.replicates if r.failure)
            reason = (
                "too few confirmation runs completed; at least two seeds need scores for both the "
                "pick and ε = 0"
            )
            for failure, _ in failures.most_common(1):
                count = f"{failures.total()} of {self.planned_runs} training runs failed"
                return f"{reason}: {count}, most often with: {failure}"
            return reason
        if self.independent_examples < 2:
            unit = "group" if self.grouped else "example"
            return f"the test split has 1 {unit}; a confidence interval needs at least 2"
        if not self._same_test_examples:
            return (
                "the training runs have different numbers of test examples or different groups; "
                "every run must report the same test examples, in the same order and with the same "
                "groups"
            )
        return ""

    @property
    def grouped(self) -> bool:
        """Whether the test examples belong to groups."""
        return any(TEST_GROUPS in r.rows for r in self.replicates)

    @property
    def independent_examples(self) -> int:
        """Number of groups of the test split, or of examples if there are no groups."""
        sizes = [
            r.rows.get(TEST_GROUPS, r.rows["test"]) for r in self.replicates if "test" in r.rows
        ]
        return min(sizes, default=0)

    @cached_property
    def _groups(self) -> Integers | None:
        """The group (N,) of each test example; None if each example is one."""
        groups = next(self._all_examples).get(GROUP)
        return None if groups is None else groups.astype(np.int64)

    @cached_property
    def _same_test_examples(self) -> bool:
        """Whether the runs have the same number of test examples and the same groups."""
        if self.settings.resplit:
            return True
        first = next(self._all_examples)
        return all(
            len(each["nll"]) == len(first["nll"])
            and np.array_equal(each.get(GROUP, ()), first.get(GROUP, ()))
            for each in self._all_examples
        )

    @property
    def _all_examples(self) -> Iterator[Mapping[str, Floats]]:
        return (r.examples for r in self.replicates if r.examples)

    def compare(
        self, candidate: int, score: str, split: Split = "test", against: int | None = None
    ) -> Comparison | None:
        """Compare a score of a candidate with a candidate at ε = 0, by default the reference.

        Return None if there are fewer than two pairs, if a score is missing, or if the test
        examples do not allow an interval (`no_verdict` says why). On the test split, the interval
        includes the variation of both seeds and examples, or groups of examples; on other splits,
        only of seeds.
        """
        against = self.reference if against is None else against
        if self.summary is not None and split == "test" and score in COMPARED_SCORES:
            return self.summary.comparisons[candidate, against, score]
        pairs = self.pairs(candidate, against)
        values = [(self.score(a, split, score), self.score(b, split, score)) for a, b in pairs]
        if len(pairs) < 2 or any(value is None for pair in values for value in pair):
            return None
        if split == "test" and (self.independent_examples < 2 or not self._same_test_examples):
            return None
        both = np.array(values, dtype=float)
        mean, baseline = both.mean(0)
        difference = self._interval(pairs, score, split, both[:, 0] - both[:, 1])
        return Comparison(
            candidate, against, split, score, float(mean), float(baseline), difference
        )

    def score(self, replicate: Replicate, split: Split, name: str) -> float | None:
        """Return a score of a replicate, None if it has none.

        Test scores are computed from the examples, calibrated ones at the validation temperature.
        """
        if split != "test" or name not in COMPARED_SCORES:
            return replicate.scores.get(split, {}).get(name)
        if self.summary is not None:
            return self.summary.scores[replicate.candidate, replicate.number].get(name)
        return _test_score(replicate, name)

    def reliability(self, candidate: int, confidence: str) -> "Bins":
        """Return the reliability diagram of a candidate's test examples, pooled over seeds.

        Only seeds that have scores for both the candidate and the baseline are used (for the
        baseline: for the pick). `confidence` is "confidence" or "confidence_calibrated".
        """
        if self.summary is not None:
            return self.summary.reliability[candidate, confidence]
        import torch

        from sweeper.scoring import reliability

        if candidate == self.reference:
            pooled = [base for _, base in self.pairs(self.pick)]
        else:
            pooled = [mine for mine, _ in self.pairs(candidate)]
        if any(confidence not in each.examples for each in pooled):
            return Bins(*np.zeros((3, 0)))
        values, correct = (
            torch.from_numpy(np.concatenate([each.examples[name] for each in pooled]))
            for name in (confidence, "correct")
        )
        diagram = reliability(values, correct > 0.5)
        filled = diagram.samples > 0
        columns = (diagram.confidence, diagram.accuracy, diagram.samples.double())
        return Bins(*(np.asarray(column[filled], dtype=float) for column in columns))

    def _interval(
        self,
        pairs: Sequence[tuple[Replicate, Replicate]],
        score: str,
        split: Split,
        by_seed: Floats,
    ) -> Interval:
        if split != "test" or score not in COMPARED_SCORES:
            return resplit_interval(by_seed, test_share=0.0)
        if self.settings.resplit:
            rows = pairs[0][0].rows
            return resplit_interval(by_seed, rows["test"] / rows["train"])
        if score in MEAN_SCORES:
            name = MEAN_SCORES[score]
            differences = np.stack([a.examples[name] - b.examples[name] for a, b in pairs])
            if self._groups is not None:
                differences = group_values(differences, self._groups)
            return two_way_interval(differences)
        resampled = np.mean(
            [self._resample_score(a, score) - self._resample_score(b, score) for a, b in pairs], 0
        )
        return bootstrap_interval(by_seed, resampled, self.independent_examples)

    def _resample_score(self, replicate: Replicate, score: str) -> Floats:
        """Return a score on each bootstrap resample (B,) of the test examples."""
        key = replicate.candidate, replicate.number, score
        if key not in self._resampled_scores:
            self._resampled_scores[key] = _whole_score(replicate, score, self._weights)
        return self._resampled_scores[key]

    @cached_property
    def _resampled_scores(self) -> dict[tuple[int, int, str], Floats]:
        return {}

    @cached_property
    def _weights(self) -> "Tensor":
        """Bootstrap counts (B, N) of the test examples, the same for all replicates.

        Groups are drawn if there are groups; the examples of a group have the same counts.
        """
        import torch  # lazy: reading stored results does not need torch

        resamples = max(MAX_BOOTSTRAP_COUNTS // len(next(self._all_examples)["nll"]), MIN_RESAMPLES)
        count = self.independent_examples
        drawn = np.random.default_rng(0).multinomial(
            count, np.full(count, 1 / count), min(resamples, RESAMPLES)
        )
        if self._groups is not None:
            drawn = drawn[:, self._groups]
        return torch.from_numpy(drawn.astype(float))


class Bins(NamedTuple):
    """The non-empty bins of a reliability diagram: three columns (B,)."""

    confidence: Floats
    accuracy: Floats
    samples: Floats


@dataclass(frozen=True, eq=False)
class EvidenceSummary:
    """The test results of a complete confirmation, computed once and stored.

    `comparisons` are by candidate, candidate at ε = 0 and score, None if it could not be computed.
    `scores` are by candidate and replicate number, for replicates that have examples.
    `reliability` has the diagrams of the reference and of the pick, by candidate and confidence; it
    is empty with fewer than two pairs of seeds.
    """

    # Increase this when the computed numbers change for the same replicates.
    VERSION: ClassVar = 2

    comparisons: Mapping[tuple[int, int, str], Comparison | None]
    scores: Mapping[tuple[int, int], Mapping[str, float]]
    reliability: Mapping[tuple[int, str], Bins]

    @classmethod
    def from_evidence(cls, evidence: Evidence) -> Self:
        """Compute the summary of a complete confirmation."""
        comparisons = {
            (candidate, against, score): evidence.compare(candidate, score, against=against)
            for candidate in range(len(evidence.candidates))
            for against in evidence.baselines
            for score in COMPARED_SCORES
        }
        scores = {
            (replicate.candidate, replicate.number): {
                name: value
                for name in COMPARED_SCORES
                if (value := _test_score(replicate, name)) is not None
            }
            for replicate in evidence.replicates
            if replicate.examples
        }
        paired = len(evidence.pairs(evidence.pick)) >= 2
        reliability = {
            (candidate, confidence): evidence.reliability(candidate, confidence)
            for candidate in (evidence.reference, evidence.pick)
            for confidence in CONFIDENCE_VALUES
            if paired
        }
        return cls(comparisons, scores, reliability)

    def to_dict(self) -> dict[str, Any]:
        return {
            "comparisons": [
                [*key, None if comparison is None else _plain(comparison)]
                for key, comparison in self.comparisons.items()
            ],
            "scores": [[*key, dict(scores)] for key, scores in self.scores.items()],
            "reliability": [
                [*key, [column.tolist() for column in bins]]
                for key, bins in self.reliability.items()
            ],
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """Read a summary from the result of `to_dict`."""
        comparisons = {
            (candidate, against, score): None
            if values is None
            else Comparison(
                candidate, against, "test", score, values[0], values[1], Interval(*values[2:])
            )
            for candidate, against, score, values in plain["comparisons"]
        }
        scores = {(candidate, number): scores for candidate, number, scores in plain["scores"]}
        reliability = {
            (candidate, confidence): Bins(*map(np.array, columns))
            for candidate, confidence, columns in plain["reliability"]
        }
        return cls(comparisons, scores, reliability)


def _plain(comparison: Comparison) -> list[float]:
    return [comparison.mean, comparison.baseline, *vars(comparison.difference).values()]


def _test_score(replicate: Replicate, name: str) -> float | None:
    """Return a score of the test examples, None if they lack the value that it is computed from."""
    if (MEAN_SCORES | SPLIT_SCORES)[name] not in replicate.examples:
        return None
    if name in MEAN_SCORES:
        return float(replicate.examples[MEAN_SCORES[name]].mean())
    return float(_whole_score(replicate, name))


def _whole_score(replicate: Replicate, name: str, weights: "Tensor | None" = None) -> Floats:
    import torch

    from sweeper.scoring import weighted_aurc, weighted_ece

    score_of: Callable[..., Any] = weighted_aurc if name == "aurc" else weighted_ece
    values = [torch.from_numpy(replicate.examples[key]) for key in (SPLIT_SCORES[name], "correct")]
    return np.asarray(score_of(values[0], values[1] > 0.5, weights), dtype=float)
