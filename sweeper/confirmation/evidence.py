"""What the confirmation found: each score of each candidate, paired with ε = 0."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
import torch
from torch import Tensor

from sweeper.confirmation.intervals import Floats, Interval, redrawn, seeds_and_resamples, two_way
from sweeper.confirmation.shortlist import Candidate
from sweeper.scoring import aurc_of, ece_of
from sweeper.study.spec import Confirm, Metric

Split = str  # valid | test | train

# Means over examples, by the per-example value that each is the mean of.
MEANS: Final = {"nll": "nll", "nll_calibrated": "nll_calibrated", "brier": "brier"} | {
    "accuracy": "correct"
}
# Scores of a whole split, by the confidence that each is worked out from.
WHOLES: Final[Mapping[str, tuple[Callable[..., float | Tensor], str]]] = {
    "ece": (ece_of, "confidence"),
    "ece_calibrated": (ece_of, "confidence_calibrated"),
    "aurc": (aurc_of, "confidence"),
}
COMPARED: Final = (*MEANS, *WHOLES)
# Lower is better in all but these.
HIGHER_IS_BETTER: Final = ("accuracy", "accuracy_top5")
RESAMPLES: Final = 200
# Of a very large test split fewer resamples do, and all of them fit in memory.
FEWEST_RESAMPLES: Final = 30
MOST_DRAWN: Final = 20_000_000


@dataclass(frozen=True, eq=False)
class Replicate:
    """One candidate trained on one fresh seed.

    `scores` are those of each split, `rows` how many examples each has. `examples` are values
    of the test examples, (N,) each: nll, nll_calibrated (at the temperature of the validation
    split), brier, correct, confidence, confidence_calibrated; none where the training failed.
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
    """A score of a candidate against ε = 0: `difference` is candidate minus baseline."""

    candidate: int
    split: Split
    score: str
    mean: float
    baseline: float
    difference: Interval

    @property
    def word(self) -> str:
        """Return better, same or worse: same where the interval holds 0, or is no number."""
        if not (self.difference.low > 0 or self.difference.high < 0):
            return "same"
        higher = self.difference.estimate > 0
        return "better" if higher == (self.score in HIGHER_IS_BETTER) else "worse"


@dataclass(frozen=True, eq=False)
class Evidence:
    """A confirmation with all that its replicates found so far.

    `number` counts the study's confirmations from 1: the test split is fresh for the first.
    Candidate 0 is the baseline.
    """

    number: int
    metric: Metric
    settings: Confirm
    candidates: Sequence[Candidate]
    replicates: Sequence[Replicate]
    labels: Mapping[Split, str] = field(default_factory=dict)

    @property
    def pick(self) -> int:
        """The candidate that the verdict is about."""
        return next(i for i, candidate in enumerate(self.candidates) if candidate.role == "pick")

    @property
    def wanted(self) -> int:
        """How many trainings the confirmation has in all."""
        return len(self.candidates) * self.settings.replicates

    @property
    def complete(self) -> bool:
        """Whether every training has ended."""
        return len(self.replicates) == self.wanted

    @cached_property
    def done(self) -> Mapping[int, Mapping[int, Replicate]]:
        """The replicates that have scores, by candidate and number."""
        found: dict[int, dict[int, Replicate]] = {i: {} for i in range(len(self.candidates))}
        for replicate in self.replicates:
            if replicate.examples:
                found[replicate.candidate][replicate.number] = replicate
        return found

    def failed(self, candidate: int) -> int:
        """Return how many trainings of a candidate failed."""
        return sum(bool(r.failure) for r in self.replicates if r.candidate == candidate)

    def pairs(self, candidate: int) -> list[tuple[Replicate, Replicate]]:
        """Return the replicates of a candidate, each with the baseline's on the same seed."""
        mine, base = self.done[candidate], self.done[0]
        return [(mine[number], base[number]) for number in sorted(mine.keys() & base.keys())]

    @property
    def no_verdict(self) -> str:
        """Why a complete confirmation gives no verdict; "" if it gives one."""
        if len(self.pairs(self.pick)) < 2:
            failures = Counter(r.failure for r in self.replicates if r.failure)
            reason = "fewer than two seeds trained both the pick and ε = 0 to a score"
            for failure, _ in failures.most_common(1):
                count = f"{failures.total()} of {self.wanted} training runs failed"
                return f"{reason}: {count}, most often with: {failure}"
            return reason
        if self._test_rows < 2:
            return "the test split has 1 example; an interval needs at least 2"
        return ""

    @property
    def _test_rows(self) -> int:
        return min((r.rows["test"] for r in self.replicates if "test" in r.rows), default=0)

    def compare(self, candidate: int, score: str, split: Split = "test") -> Comparison | None:
        """Return a score of a candidate against the baseline.

        None with fewer than two pairs, or with fewer than two test examples.

        On the test split both seeds and examples are samples; on the others the interval is of
        the seeds alone.
        """
        pairs = self.pairs(candidate)
        values = [(_score(a, split, score), _score(b, split, score)) for a, b in pairs]
        if len(pairs) < 2 or any(value is None for pair in values for value in pair):
            return None
        if split == "test" and self._test_rows < 2:
            return None
        both = np.array(values, dtype=float)
        mean, baseline = both.mean(0)
        difference = self._interval(candidate, score, split, both[:, 0] - both[:, 1])
        return Comparison(candidate, split, score, float(mean), float(baseline), difference)

    def _interval(self, candidate: int, score: str, split: Split, by_seed: Floats) -> Interval:
        pairs = self.pairs(candidate)
        if split != "test" or score not in COMPARED:
            return redrawn(by_seed, test_share=0.0)
        if self.settings.resplit:
            rows = pairs[0][0].rows
            return redrawn(by_seed, rows["test"] / rows["train"])
        if score in MEANS:
            name = MEANS[score]
            return two_way(np.stack([a.examples[name] - b.examples[name] for a, b in pairs]))
        resampled = np.mean(
            [self._resampled(a, score) - self._resampled(b, score) for a, b in pairs], 0
        )
        return seeds_and_resamples(by_seed, resampled, len(pairs[0][0].examples["nll"]))

    def _resampled(self, replicate: Replicate, score: str) -> Floats:
        """Return a score on resamples (B,) of the test examples."""
        key = replicate.candidate, replicate.number, score
        if key not in self._kept:
            self._kept[key] = _whole(replicate, score, self._weights)
        return self._kept[key]

    @cached_property
    def _kept(self) -> dict[tuple[int, int, str], Floats]:
        return {}

    @cached_property
    def _weights(self) -> Tensor:
        """Bootstrap counts (B, N) of the test examples, the same for all that is compared."""
        count = len(next(iter(self.done[0].values())).examples["nll"])
        resamples = max(MOST_DRAWN // count, FEWEST_RESAMPLES)
        drawn = np.random.default_rng(0).multinomial(
            count, np.full(count, 1 / count), min(resamples, RESAMPLES)
        )
        return torch.from_numpy(drawn.astype(float))


def _score(replicate: Replicate, split: Split, name: str) -> float | None:
    """Return a score; on the test split from the examples, whose temperature is validation's."""
    if split != "test" or name not in COMPARED:
        return replicate.scores.get(split, {}).get(name)
    if name in MEANS:
        return float(replicate.examples[MEANS[name]].mean())
    return float(_whole(replicate, name))


def _whole(replicate: Replicate, name: str, weights: Tensor | None = None) -> Floats:
    of, confidence = WHOLES[name]
    values = [torch.from_numpy(replicate.examples[key]) for key in (confidence, "correct")]
    return np.asarray(of(values[0], values[1] > 0.5, weights), dtype=float)
