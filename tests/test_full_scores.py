"""The scores in full against other people's code, their definitions, and cases to count by hand."""

import math
import subprocess
import sys
from collections.abc import Callable
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import entropy
from sklearn.calibration import calibration_curve
from torch import Tensor

from sweeper.scoring import (
    examples,
    fit_temperature,
    reliability,
    score,
    weighted_aurc,
    weighted_ece,
)
from tests.support.logits import batch

Floats = NDArray[np.float64]
Pairs = list[tuple[float, bool]]

SIZES = [(300, 2), (300, 10), (150, 40), (405, 1000)]
# Few different values: most of them are tied.
coarse = st.tuples(st.integers(0, 6).map(lambda n: n / 6), st.booleans())
fine = st.tuples(st.floats(0, 1), st.booleans())
pairs = st.lists(st.one_of(coarse, fine), min_size=1, max_size=30)


def tensors(samples: Pairs) -> tuple[Tensor, Tensor]:
    confidence, correct = zip(*samples, strict=True)
    return torch.tensor(confidence, dtype=torch.float64), torch.tensor(correct)


def predicted(samples: Pairs) -> tuple[Tensor, Tensor]:
    """Return logits of two classes with these largest probabilities, and labels."""
    larger = [0.5 + confidence / 2 for confidence, _ in samples]
    p = torch.tensor([[c, 1 - c] for c in larger], dtype=torch.float64)
    return p.log(), torch.tensor([0 if right else 1 for _, right in samples])


def of(samples: Pairs, name: str) -> float:
    value = score(*predicted(samples)).to_dict()[name]
    assert value is not None
    return value


def sure(logits: Tensor, labels: Tensor) -> tuple[Floats, Floats]:
    # Classes first, as the scores are computed: the last bit, and so what is tied, is the same.
    p = logits.t().contiguous().log_softmax(0).exp().numpy()
    return p.max(0), (p.argmax(0) == labels.numpy()).astype(float)


def binned_gap(p: Floats, hits: Floats, bins: int = 15) -> float:
    """Return the ECE by its definition, a bin at a time."""
    total = 0.0
    for b in range(bins):
        inside = [n for n in range(len(p)) if min(int(p[n] * bins), bins - 1) == b]
        total += abs(sum(p[n] for n in inside) - sum(hits[n] for n in inside))
    return total / len(p)


def area(order: list[bool]) -> float:
    """Return the AURC of samples, the surest first, by its definition."""
    risks = [order[: n + 1].count(False) / (n + 1) for n in range(len(order))]
    return sum(risks) / len(order)


class TestAgainstOthers:
    """Against scikit-learn, SciPy and, where it is installed, relplot."""

    @pytest.mark.parametrize(("samples", "classes"), SIZES)
    def test_reliability(self, samples: int, classes: int) -> None:
        confidence, hits = sure(*batch(samples, classes))
        accuracy, mean = calibration_curve(hits, confidence, n_bins=15, strategy="uniform")
        ours = reliability(torch.from_numpy(confidence), torch.from_numpy(hits) > 0)
        filled = ours.samples > 0
        assert ours.accuracy[filled].numpy() == pytest.approx(accuracy)
        assert ours.confidence[filled].numpy() == pytest.approx(mean)
        assert ours.accuracy[~filled].isnan().all()
        assert ours.confidence[~filled].isnan().all()
        share = ours.samples[filled].numpy() / samples
        expected = (share * abs(accuracy - mean)).sum()
        assert score(*batch(samples, classes)).ece == pytest.approx(expected)

    @pytest.mark.parametrize(("samples", "classes"), SIZES)
    def test_ece_adaptive(self, samples: int, classes: int) -> None:
        confidence, hits = sure(*batch(samples, classes))
        assert len(set(confidence)) == samples
        accuracy, mean = calibration_curve(hits, confidence, n_bins=15, strategy="quantile")
        ours = score(*batch(samples, classes)).ece_adaptive
        assert ours == pytest.approx(abs(accuracy - mean).mean())

    @pytest.mark.parametrize(("samples", "classes"), SIZES)
    def test_entropy(self, samples: int, classes: int) -> None:
        logits, labels = batch(samples, classes)
        expected = entropy(logits.softmax(1).numpy(), axis=1).mean()
        assert score(logits, labels).entropy == pytest.approx(expected)

    @pytest.mark.parametrize(("samples", "classes"), SIZES[:3])
    def test_ece_classwise(self, samples: int, classes: int) -> None:
        logits, labels = batch(samples, classes)
        p = logits.softmax(1).numpy()
        errors = []
        for k in range(classes):
            right = (labels == k).numpy()
            accuracy, mean = calibration_curve(right, p[:, k], n_bins=15)
            count, _ = np.histogram(p[:, k], np.linspace(0, 1, 16))
            errors.append((count[count > 0] * abs(accuracy - mean)).sum() / samples)
        assert score(logits, labels).ece_classwise == pytest.approx(np.mean(errors))

    @pytest.mark.parametrize(("samples", "classes"), SIZES[:3])
    def test_relplot(self, samples: int, classes: int) -> None:
        metrics: Any = pytest.importorskip("relplot").metrics
        logits, labels = batch(samples, classes, scale=1.0)
        ours, p = score(logits, labels), logits.softmax(1).numpy()
        one_by_one = [
            metrics.binnedECE(p[:, k], (labels == k).numpy().astype(float), nbins=15)
            for k in range(classes)
        ]
        assert ours.ece == pytest.approx(metrics.binnedECE(*sure(logits, labels), nbins=15))
        assert ours.ece_classwise == pytest.approx(np.mean(one_by_one))


class TestCalibrationErrors:
    @given(pairs)
    @settings(deadline=None)
    def test_equal_mass_by_definition(self, samples: Pairs) -> None:
        """As if each sample were there 15 times, and tied ones all right by the same part."""
        confidence, hits = sure(*predicted(samples))
        mean = {c: hits[confidence == c].mean() for c in set(confidence)}
        gaps = [c - mean[c] for c in sorted(confidence) for _ in range(15)]
        expected = abs(np.reshape(gaps, (15, -1)).sum(1)).sum() / len(gaps)
        assert of(samples, "ece_adaptive") == pytest.approx(expected, abs=1e-12)

    def test_equal_mass_by_hand(self) -> None:
        """30 samples, 2 in a bin: in the first bin one is right at 0.5, elsewhere all are at 1."""
        p = torch.tensor([[0.5, 0.5]] * 2 + [[1.0, 0.0]] * 28, dtype=torch.float64)
        labels = torch.tensor([0, 1] + [0] * 27 + [1])
        # All 28 share their one mistake: 1/28 in each of 14 bins.
        assert score(p.log(), labels).ece_adaptive == pytest.approx(14 / 15 / 28)

    @given(st.integers(1, 12), st.integers(2, 12), st.integers(0, 1000), st.floats(0.1, 5))
    @settings(deadline=None)
    def test_classwise_by_definition(
        self, samples: int, classes: int, seed: int, scale: float
    ) -> None:
        logits, labels = batch(samples, classes, scale, seed)
        p = logits.softmax(1).numpy()
        each = [binned_gap(p[:, k], (labels == k).numpy().astype(float)) for k in range(classes)]
        assert score(logits, labels).ece_classwise == pytest.approx(np.mean(each), abs=1e-12)

    def test_classwise_by_hand(self) -> None:
        p = torch.tensor([[0.7, 0.3], [0.68, 0.32], [0.1, 0.9]], dtype=torch.float64)
        # p_0: 0.7 and 0.68 share a bin, both of class 0; p_1 is 1 - p_0, in bins of its own.
        labels = torch.tensor([0, 0, 1])
        class_0 = (0.3 + 0.32) + 0.1
        class_1 = (0.3 + 0.32) + 0.1
        ours = score(p.log(), labels).ece_classwise
        assert ours == pytest.approx((class_0 + class_1) / 2 / 3)

    @given(pairs)
    @settings(deadline=None)
    def test_debiased_by_definition(self, samples: Pairs) -> None:
        confidence, hits = sure(*predicted(samples))
        total = 0.0
        for b in range(15):
            inside = [n for n in range(len(hits)) if min(int(confidence[n] * 15), 14) == b]
            if len(inside) > 1:
                accuracy = hits[inside].mean()
                variance = accuracy * (1 - accuracy) / (len(inside) - 1)
                gap = accuracy - confidence[inside].mean()
                total += len(inside) / len(hits) * (gap**2 - variance)
        assert of(samples, "ece_debiased") ** 2 == pytest.approx(max(total, 0), abs=1e-12)

    def test_debiased_has_no_bias(self) -> None:
        """Over all outcomes of 4 samples right with chance 0.25, its square is (0.9 - 0.25)²."""
        mean = 0.0
        for outcome in product([False, True], repeat=4):
            logits = torch.tensor([[0.9, 0.1]] * 4, dtype=torch.float64).log()
            ours = score(logits, torch.tensor([0 if right else 1 for right in outcome]))
            assert ours.ece_debiased is not None
            mean += ours.ece_debiased**2 * 0.25 ** sum(outcome) * 0.75 ** (4 - sum(outcome))
        # Where all are right, (1 - 0.9)² is not clipped, and where all but one are:
        clipped = 0.25**3 * 0.75 * 4 * ((0.75 - 0.9) ** 2 - 0.75 * 0.25 / 3)
        assert mean + clipped == pytest.approx((0.9 - 0.25) ** 2)

    def test_a_bin_of_one_has_no_debiased_error(self) -> None:
        assert of([(0.2, True)], "ece_debiased") == 0

    @given(pairs)
    @settings(deadline=None)
    def test_over_and_under(self, samples: Pairs) -> None:
        ours = score(*predicted(samples))
        assert ours.overconfidence is not None
        assert ours.underconfidence is not None
        assert ours.overconfidence >= 0
        assert ours.underconfidence >= 0
        assert ours.overconfidence + ours.underconfidence == pytest.approx(ours.ece, abs=1e-12)

    def test_over_and_under_by_hand(self) -> None:
        logits = torch.tensor([[0.9, 0.1], [0.6, 0.4]], dtype=torch.float64).log()
        ours = score(logits, torch.tensor([1, 0]))
        assert ours.overconfidence == pytest.approx(0.9 / 2)
        assert ours.underconfidence == pytest.approx(0.4 / 2)

    def test_after_scaling_with_the_others_temperature(self) -> None:
        logits, labels = batch(101, 4)
        order = torch.randperm(101, generator=torch.Generator().manual_seed(0))
        halves = order[:50], order[50:]
        scaled = logits.clone()
        for fitted, scored in (halves, halves[::-1]):
            scaled[scored] /= fit_temperature(logits[fitted], labels[fitted])
        ours = score(logits, labels)
        assert ours.ece_calibrated == pytest.approx(binned_gap(*sure(scaled, labels)))
        assert ours.ece_calibrated != ours.ece

    def test_entropy_by_hand(self) -> None:
        logits = torch.tensor([[0.0, 0.0], [0.0, -math.inf]])
        assert score(logits, torch.tensor([0, 0])).entropy == pytest.approx(math.log(2) / 2)


class TestRiskCoverage:
    @given(st.lists(st.one_of(coarse, fine), min_size=1, max_size=6))
    @settings(deadline=None)
    def test_mean_over_the_orders_of_ties(self, samples: Pairs) -> None:
        areas = []
        for order in permutations(samples):
            if [c for c, _ in order] == sorted((c for c, _ in samples), reverse=True):
                areas.append(area([right for _, right in order]))
        assert weighted_aurc(*tensors(samples)) == pytest.approx(np.mean(areas), abs=1e-12)

    def test_by_hand(self) -> None:
        confidence = torch.tensor([0.9, 0.8, 0.8, 0.7])
        correct = torch.tensor([True, False, True, False])
        # Risks 0/1, then 1/2 or 0/2, 1/3 and 2/4.
        assert weighted_aurc(confidence, correct) == pytest.approx((1 / 4 + 1 / 3 + 1 / 2) / 4)

    @given(st.lists(fine, min_size=1, max_size=6))
    @settings(deadline=None)
    def test_excess_over_the_best_order(self, samples: Pairs) -> None:
        confidence, hits = sure(*predicted(samples))
        whole = weighted_aurc(torch.from_numpy(confidence), torch.from_numpy(hits) > 0)
        least = min(area(list(order)) for order in set(permutations((hits > 0).tolist())))
        assert of(samples, "aurc") == pytest.approx(whole)
        assert of(samples, "eaurc") == pytest.approx(whole - least, abs=1e-12)

    @pytest.mark.parametrize(("right", "expected"), [(True, 0.0), (False, 1.0)])
    def test_all_alike(self, right: bool, expected: float) -> None:
        assert of([(0.3, right)] * 5, "aurc") == pytest.approx(expected)
        assert of([(0.3, right)] * 5, "eaurc") == 0

    def test_large(self) -> None:
        """The harmonic numbers' differences keep their precision."""
        confidence, hits = sure(*batch(20_000, 3))
        mistakes = 1 - hits[np.argsort(-confidence)]
        expected = (mistakes.cumsum() / np.arange(1, len(hits) + 1)).mean()
        ours = weighted_aurc(torch.from_numpy(confidence), torch.from_numpy(hits) > 0)
        assert ours == pytest.approx(expected, rel=1e-11)


class TestWhatChangesNothing:
    @given(st.integers(0, 10_000), st.integers(1, 40), st.integers(2, 12), st.randoms())
    @settings(deadline=None)
    def test_order(self, seed: int, samples: int, classes: int, random: Any) -> None:
        """Halves are drawn by place, so that what is cross-fitted depends on it."""
        logits, labels = batch(samples, classes, seed=seed)
        # Ties, within a sample's classes and between samples.
        logits = logits.round()
        order = list(range(samples))
        random.shuffle(order)
        ours, other = score(logits, labels).to_dict(), score(logits[order], labels[order]).to_dict()
        for name in ours.keys() - {"nll_calibrated", "ece_calibrated"}:
            assert other[name] == pytest.approx(ours[name], abs=1e-9), name

    @given(st.integers(0, 10_000), st.integers(1, 40), st.integers(2, 12), st.floats(-50, 50))
    @settings(deadline=None)
    def test_a_constant_added_to_a_row(
        self, seed: int, samples: int, classes: int, constant: float
    ) -> None:
        logits, labels = batch(samples, classes, seed=seed)
        shifted = logits + constant * torch.arange(samples).unsqueeze(1) / samples
        ours, other = score(logits, labels).to_dict(), score(shifted, labels).to_dict()
        assert other == pytest.approx(ours, abs=1e-9)

    def test_ties_in_the_order_of_the_input(self) -> None:
        samples = [(0.4, True)] * 20 + [(0.4, False)] * 20 + [(0.8, True)] * 5
        ours, other = (score(*predicted(given)) for given in (samples, samples[::-1]))
        for name in ("ece_adaptive", "aurc", "eaurc"):
            assert getattr(ours, name) == pytest.approx(getattr(other, name), abs=1e-12), name


@pytest.mark.parametrize("function", [weighted_ece, weighted_aurc])
class TestWeights:
    @given(st.lists(st.tuples(st.one_of(coarse, fine), st.integers(0, 4)), min_size=1, max_size=20))
    @settings(deadline=None)
    def test_count_samples(
        self, function: Callable[..., Any], weighted: list[tuple[tuple[float, bool], int]]
    ) -> None:
        weighted[0] = weighted[0][0], weighted[0][1] + 1
        weights = torch.tensor([weight for _, weight in weighted])
        repeated = [sample for sample, weight in weighted for _ in range(weight)]
        once = [sample for sample, _ in weighted]
        expected = function(*tensors(repeated))
        assert isinstance(expected, float)
        assert function(*tensors(once), weights).item() == pytest.approx(expected, abs=1e-12)
        batch_of = torch.stack([weights, torch.ones_like(weights), 3 * weights])
        ours = function(*tensors(once), batch_of)
        assert ours.shape == (3,)
        assert ours[0].item() == pytest.approx(expected, abs=1e-12)
        assert ours[1].item() == pytest.approx(function(*tensors(once)), abs=1e-12)
        assert ours[2].item() == pytest.approx(function(*tensors(repeated * 3)), abs=1e-12)

    def test_a_large_batch_is_as_one_by_one(
        self, function: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        confidence, hits = (torch.from_numpy(each) for each in sure(*batch(50, 4)))
        weights = torch.rand(7, 50, generator=torch.Generator().manual_seed(0))
        monkeypatch.setattr("sweeper.scoring.confidence._ELEMENTS", 100)
        ours = function(confidence, hits > 0, weights)
        assert ours.tolist() == [function(confidence, hits > 0, each).item() for each in weights]

    @pytest.mark.parametrize(
        ("weights", "message"),
        [
            (
                torch.ones(3),
                r"weights have shape \(3,\); for 2 samples it must be \(2,\) or \(B, 2\)",
            ),
            (torch.ones(1, 1, 2), r"shape \(1, 1, 2\)"),
            (torch.tensor([1.0, -1.0]), "negative or not finite"),
            (torch.tensor([1.0, math.nan]), "negative or not finite"),
            (torch.tensor([1.0, math.inf]), "negative or not finite"),
            (torch.tensor([[1, 1], [0, 0]]), "0 for every sample"),
        ],
    )
    def test_refused(self, function: Callable[..., Any], weights: Tensor, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            function(torch.tensor([0.5, 0.7]), torch.tensor([True, False]), weights)

    @pytest.mark.parametrize(
        ("confidence", "message"),
        [
            (torch.tensor([1.1]), r"outside \[0, 1\]"),
            (torch.tensor([math.nan]), r"outside \[0, 1\]"),
            (torch.tensor([0.5, 0.5]), r"shapes \(2,\) and \(1,\)"),
        ],
    )
    def test_bad_confidence(
        self, function: Callable[..., Any], confidence: Tensor, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            function(confidence, torch.tensor([True]))


class TestReliability:
    def test_by_hand(self) -> None:
        confidence = torch.tensor([0.1, 0.5, 0.7, 1.0])
        ours = reliability(confidence, torch.tensor([True, False, True, True]), bins=4)
        assert ours.lower.tolist() == [0, 0.25, 0.5, 0.75]
        assert ours.samples.tolist() == [1, 0, 2, 1]
        assert ours.accuracy.tolist() == pytest.approx([1, math.nan, 0.5, 1], nan_ok=True)
        assert ours.confidence.tolist() == pytest.approx([0.1, math.nan, 0.6, 1], nan_ok=True)

    @given(pairs, st.integers(1, 20))
    def test_ece_is_computed_from_the_diagram(self, samples: Pairs, bins: int) -> None:
        ours = reliability(*tensors(samples), bins)
        gaps = ours.samples * (ours.accuracy - ours.confidence).abs()
        expected = gaps.nansum().item() / len(samples)
        assert weighted_ece(*tensors(samples), bins=bins) == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize(
        ("confidence", "bins", "message"),
        [
            (torch.tensor([-0.1]), 15, r"outside \[0, 1\]"),
            (torch.tensor([0.5, 0.5]), 15, r"shapes \(2,\) and \(1,\)"),
            (torch.tensor([0.5]), 0, "bins must be at least 1, got 0"),
        ],
    )
    def test_refused(self, confidence: Tensor, bins: int, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            reliability(confidence, torch.tensor([True]), bins)


class TestExamples:
    @pytest.mark.parametrize(("samples", "classes"), [(1, 2), (80, 3), (300, 700)])
    def test_means_equal_the_scores(self, samples: int, classes: int) -> None:
        logits, labels = batch(samples, classes)
        each, ours = examples(logits.float(), labels, 1.7), score(logits.float(), labels)
        scaled = score(logits.float().double() / 1.7, labels)
        assert each.nll.mean().item() == pytest.approx(ours.nll)
        assert each.brier.mean().item() == pytest.approx(ours.brier)
        assert each.correct.double().mean().item() == ours.accuracy
        assert weighted_ece(each.confidence, each.correct) == pytest.approx(ours.ece)
        assert weighted_aurc(each.confidence, each.correct) == pytest.approx(ours.aurc)
        assert each.nll_calibrated.mean().item() == pytest.approx(scaled.nll)
        assert weighted_ece(each.confidence_calibrated, each.correct) == pytest.approx(scaled.ece)
        floats = each.nll, each.nll_calibrated, each.brier, each.confidence
        assert {value.dtype for value in (*floats, each.confidence_calibrated)} == {torch.float64}
        assert each.correct.dtype == torch.bool
        assert all(len(value) == samples for value in vars(each).values())

    def test_by_hand(self) -> None:
        logits = torch.tensor([[0.8, 0.2], [0.8, 0.2]], dtype=torch.float64).log()
        ours = examples(logits, torch.tensor([0, 1]), 0.5)
        assert ours.nll.tolist() == pytest.approx([-math.log(0.8), -math.log(0.2)])
        assert ours.brier.tolist() == pytest.approx([2 * 0.2**2, 2 * 0.8**2])
        assert ours.correct.tolist() == [True, False]
        # At T = 1/2 the odds of 4 become 16.
        assert ours.confidence_calibrated.tolist() == pytest.approx([16 / 17] * 2)
        expected = [math.log(17 / 16), math.log(17)]
        assert ours.nll_calibrated.tolist() == pytest.approx(expected)

    def test_nan_affects_only_its_example(self) -> None:
        logits, labels = batch(6, 3)
        logits[2, 1], logits[4, 0] = math.nan, math.inf
        ours = examples(logits, labels, 2.0)
        for values in (ours.nll, ours.nll_calibrated, ours.brier, ours.confidence_calibrated):
            assert values.isnan().tolist() == [False, False, True, False, True, False]

    @pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
    def test_no_temperature(self, temperature: float) -> None:
        with pytest.raises(ValueError, match=f"temperature must be .* > 0, .*got {temperature}"):
            examples(*batch(3, 2), temperature)

    def test_bad_input(self) -> None:
        with pytest.raises(ValueError, match=r"from 0 to 2; .*\[0, 1\]"):
            examples(torch.zeros(2, 2), torch.tensor([0, 2]), 1.0)


class TestTop5:
    @given(st.integers(0, 1000), st.integers(10, 20))
    @settings(deadline=None)
    def test_ties_go_to_the_lower_class(self, seed: int, classes: int) -> None:
        logits, labels = batch(20, classes, scale=0.5, seed=seed)
        logits = logits.round()
        # A stable sort leaves tied classes in their order.
        first = np.argsort(-logits.numpy(), 1, kind="stable")[:, :5]
        hits = [label in five for five, label in zip(first, labels.tolist(), strict=True)]
        assert score(logits, labels).accuracy_top5 == pytest.approx(np.mean(hits))


MEMORY = """
import re
from pathlib import Path
import torch
from sweeper.scoring import examples, score

def peak():
    # Not ru_maxrss, which includes the memory of the parent process.
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

torch.set_num_threads(1)
logits, labels = torch.randn(8192, 5000), torch.randint(5000, (8192,))
score(logits[:100], labels[:100])
before = peak()
scores = score(logits, labels)
examples(logits, labels, scores.temperature)
print(peak() - before)
"""


@pytest.mark.slow
def test_the_memory_in_use_does_not_grow_with_the_number_of_logits() -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # In float64 the logits have 312 MiB.
    assert int(done.stdout) < 60
