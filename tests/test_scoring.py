"""Scores against scikit-learn, SciPy and cases that a hand can count."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, top_k_accuracy_score
from torch import Tensor

from sweeper.scoring import Scores, expected_calibration_error, fit_temperature, score
from tests.support.logits import batch


def nll_at(temperature: float, logits: Tensor, labels: Tensor) -> float:
    return torch.nn.functional.cross_entropy(logits.double() / temperature, labels).item()


class TestAgainstScikitLearn:
    @pytest.mark.parametrize("classes", [2, 3, 10, 40])
    def test_scores(self, classes: int) -> None:
        logits, labels = batch(300, classes)
        p, every = logits.softmax(1).numpy(), list(range(classes))
        ours = score(logits, labels)
        assert ours.nll == pytest.approx(log_loss(labels, p, labels=every))
        assert ours.accuracy == accuracy_score(labels, p.argmax(1))
        shown = p if classes > 2 else p[:, 1]
        assert ours.brier == pytest.approx(
            brier_score_loss(labels, shown, labels=every, scale_by_half=False)
        )
        if classes < 10:
            assert ours.accuracy_top5 is None
        else:
            assert ours.accuracy_top5 == pytest.approx(
                top_k_accuracy_score(labels, p, k=5, labels=every)
            )

    def test_temperature(self) -> None:
        source = np.random.default_rng(0)
        features = source.normal(size=(400, 4))
        labels = (features @ source.normal(size=(4, 3)) + source.gumbel(size=(400, 3))).argmax(1)
        model = LogisticRegression(C=1e4).fit(features[:30], labels[:30])
        theirs = CalibratedClassifierCV(FrozenEstimator(model), method="temperature")
        theirs.fit(features[30:], labels[30:])
        beta = theirs.calibrated_classifiers_[0].calibrators[0].beta_
        logits = torch.from_numpy(model.decision_function(features[30:]))
        assert fit_temperature(logits, torch.from_numpy(labels[30:])) == pytest.approx(
            1 / beta, rel=1e-4
        )


class TestScores:
    def test_by_hand(self) -> None:
        logits = torch.tensor([[0.7, 0.3], [0.4, 0.6]]).log()
        ours = score(logits, torch.tensor([0, 0]))
        assert ours.nll == pytest.approx(-(math.log(0.7) + math.log(0.4)) / 2)
        assert ours.accuracy == 0.5
        assert ours.brier == pytest.approx((2 * 0.3**2 + 2 * 0.6**2) / 2)
        assert ours.ece == pytest.approx((0.3 + 0.6) / 2)

    def test_to_dict(self) -> None:
        ours = score(*batch(20, 3))
        assert Scores(**ours.to_dict()) == ours  # type: ignore[arg-type]
        assert list(ours.to_dict()) == [
            "nll",
            "accuracy",
            "brier",
            "ece",
            "accuracy_top5",
            "temperature",
            "nll_calibrated",
            "ece_adaptive",
            "ece_classwise",
            "ece_debiased",
            "overconfidence",
            "underconfidence",
            "aurc",
            "eaurc",
            "entropy",
            "ece_calibrated",
        ]

    def test_basic_scores_equal_those_of_full_scoring(self) -> None:
        short, full = (score(*batch(20, 12), full=full).to_dict() for full in (False, True))
        always = ["nll", "accuracy", "brier", "ece"]
        assert None not in full.values()
        assert short == {name: full[name] if name in always else None for name in full}

    def test_many_samples_are_scored_in_blocks(self) -> None:
        logits, labels = batch(500, 700)
        once, twice = score(logits, labels), score(logits.repeat(4, 1), labels.repeat(4))
        split_in_halves = {"temperature", "nll_calibrated", "ece_calibrated", "ece_debiased"}
        for name in once.to_dict().keys() - split_in_halves:
            assert getattr(twice, name) == pytest.approx(getattr(once, name), abs=1e-3), name
        assert twice.temperature == pytest.approx(once.temperature, rel=1e-9)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    def test_narrow_logits_are_scored_in_float64(self, dtype: torch.dtype) -> None:
        logits, labels = batch(50, 3000)
        narrow = (0.01 * logits).to(dtype)
        assert score(narrow, labels.int(), full=False) == score(narrow.double(), labels, full=False)

    def test_a_confident_mistake_is_not_infinite(self) -> None:
        ours = score(torch.tensor([[0.0, 2000.0]]), torch.tensor([0]), full=False)
        assert ours.nll == pytest.approx(2000.0)

    def test_ties_go_to_the_lower_class(self) -> None:
        logits = torch.zeros(12, 12)
        ours = score(logits, torch.arange(12))
        assert ours.accuracy == pytest.approx(1 / 12)
        assert ours.accuracy_top5 == pytest.approx(5 / 12)

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    @pytest.mark.parametrize("classes", [3, 12])
    def test_diverged(self, value: float, classes: int) -> None:
        logits, labels = batch(20, classes)
        logits[3, 1] = value
        ours = score(logits, labels).to_dict()
        if classes < 10:
            assert ours.pop("accuracy_top5") is None
        assert all(math.isnan(number) for number in ours.values() if number is not None)
        assert len(ours) >= 15
        assert None not in ours.values()
        assert math.isnan(fit_temperature(logits, labels))
        of_an_epoch = score(logits, labels, full=False)
        assert [math.isnan(number) for number in vars(of_an_epoch).values() if number] == [True] * 4

    def test_masked_classes_are_as_if_absent(self) -> None:
        logits, labels = batch(60, 4)
        masked = torch.cat([logits, torch.full((60, 2), -math.inf)], 1)
        ours, without = score(masked, labels).to_dict(), score(logits, labels).to_dict()
        assert ours.pop("accuracy_top5") is without.pop("accuracy_top5") is None
        assert ours == pytest.approx(without, rel=1e-9)

    def test_a_masked_label_is_infinite(self) -> None:
        logits, labels = batch(60, 4)
        alone = fit_temperature(logits[1:], labels[1:])
        logits[0, labels[0]] = -math.inf
        ours = score(logits, labels)
        assert ours.nll == ours.nll_calibrated == math.inf
        assert ours.temperature == pytest.approx(alone)
        assert 0 <= ours.ece <= 1

    def test_masked_classes_are_tied(self) -> None:
        logits = torch.full((2, 12), -math.inf)
        logits[:, :2] = 0
        assert score(logits, torch.tensor([4, 5])).accuracy_top5 == 0.5

    @pytest.mark.parametrize(
        ("logits", "labels", "message"),
        [
            (torch.zeros(3), torch.zeros(3).long(), r"logits are .* \(3,\).*\(N, K\)"),
            (torch.zeros(3, 1), torch.zeros(3).long(), "K at least 2"),
            (torch.zeros(3, 2).long(), torch.zeros(3).long(), "logits are torch.int64"),
            (torch.zeros(3, 2), torch.zeros(2).long(), r"labels have shape \(2,\).*must be \(3,\)"),
            (torch.zeros(3, 2), torch.zeros(3), "hard labels"),
            (torch.zeros(3, 2), torch.zeros(3).bool(), "labels are torch.bool"),
            (torch.zeros(0, 2), torch.zeros(0).long(), "no samples"),
            (torch.zeros(2, 2), torch.tensor([0, 2]), r"from 0 to 2; .*\[0, 1\]"),
            (torch.zeros(2, 2), torch.tensor([-100, 1]), "from -100 to 1"),
        ],
    )
    @pytest.mark.parametrize("function", [score, fit_temperature])
    def test_refused(self, function: Any, logits: Tensor, labels: Tensor, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            function(logits, labels)


class TestCalibrationError:
    def test_confidence_of_one_is_in_the_last_bin(self) -> None:
        """torchmetrics gives 1.0 a bin of its own (#3510): 0.3 and 0.2 would not cancel."""
        confidence = torch.tensor([1.0, 1.0, 0.96])
        correct = torch.tensor([True, False, True])
        expected = abs((1.0 + 1.0 + 0.96) - 2) / 3
        assert expected_calibration_error(confidence, correct) == pytest.approx(expected)

    def test_bins_are_closed_below(self) -> None:
        correct = torch.tensor([False, True])
        together = expected_calibration_error(torch.tensor([0.5, 0.7]), correct, bins=2)
        assert together == pytest.approx(0.1)
        apart = expected_calibration_error(torch.tensor([0.49, 0.7]), correct, bins=2)
        assert apart == pytest.approx((0.49 + 0.3) / 2)

    @given(
        st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40),
        st.integers(1, 20),
    )
    def test_is_the_sum_over_bins(self, samples: list[tuple[float, bool]], bins: int) -> None:
        expected = 0.0
        for b in range(bins):
            inside = [s for s in samples if min(int(s[0] * bins), bins - 1) == b]
            expected += abs(sum(c for c, _ in inside) - sum(right for _, right in inside))
        confidence = torch.tensor([c for c, _ in samples], dtype=torch.float64)
        correct = torch.tensor([right for _, right in samples])
        ours = expected_calibration_error(confidence, correct, bins)
        assert ours == pytest.approx(expected / len(samples), abs=1e-12)

    def test_fifteen_bins(self) -> None:
        # 0.66 and 0.67 lie on both sides of 10/15.
        confidence, correct = torch.tensor([0.66, 0.67]), torch.tensor([True, False])
        assert expected_calibration_error(confidence, correct) == pytest.approx((0.34 + 0.67) / 2)

    @pytest.mark.parametrize(
        ("confidence", "correct", "bins", "message"),
        [
            (torch.tensor([1.1]), torch.tensor([True]), 15, r"outside \[0, 1\]"),
            (torch.tensor([math.nan]), torch.tensor([True]), 15, r"outside \[0, 1\]"),
            (torch.tensor([0.5]), torch.tensor([True, False]), 15, r"shapes \(1,\) and \(2,\)"),
            (torch.zeros(0), torch.zeros(0).bool(), 15, "N at least 1"),
            (torch.tensor([0.5]), torch.tensor([True]), 0, "bins must be at least 1, got 0"),
        ],
    )
    def test_refused(self, confidence: Tensor, correct: Tensor, bins: int, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            expected_calibration_error(confidence, correct, bins)


class TestTemperature:
    @given(st.integers(2, 60), st.integers(2, 12), st.floats(0.05, 30.0), st.integers(0, 10_000))
    @settings(deadline=None)
    def test_no_other_temperature_is_better(
        self, samples: int, classes: int, scale: float, seed: int
    ) -> None:
        logits, labels = batch(samples, classes, scale, seed)
        fitted = fit_temperature(logits, labels)
        assert 0.01 <= fitted <= 100.0
        best = minimize_scalar(
            lambda beta: nll_at(1 / beta, logits, labels), bounds=(0.01, 100), method="bounded"
        )
        assert nll_at(fitted, logits, labels) <= best.fun + 1e-12

    @pytest.mark.parametrize("scale", [0.05, 1.0, 20.0, 100.0])
    def test_newton_needs_few_steps(self, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
        logits, labels = batch(300, 5, scale)
        converged = fit_temperature(logits, labels)
        monkeypatch.setattr("sweeper.scoring.temperature._STEPS", 10)
        assert fit_temperature(logits, labels) == pytest.approx(converged, rel=1e-10)

    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize(("samples", "classes"), [(30, 3), (300, 5), (3000, 1000)])
    def test_one_more_step_changes_nothing(
        self, samples: int, classes: int, seed: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        logits, labels = batch(samples, classes, seed=seed)
        fitted = fit_temperature(logits, labels)
        monkeypatch.setattr("sweeper.scoring.temperature._PRECISION", 1e-9)
        assert fit_temperature(logits, labels) == pytest.approx(fitted, rel=1e-10)

    # From 1, a step for the first two leaves the bracket; there is no curvature in the others.
    @pytest.mark.parametrize("seed", [1419, 1995, *range(30)])
    def test_rows_of_very_different_sizes(self, seed: int) -> None:
        source = torch.Generator().manual_seed(seed)
        samples, classes = (int(torch.randint(2, high, (1,), generator=source)) for high in (8, 4))
        logits = torch.randn(samples, classes, generator=source, dtype=torch.float64)
        logits *= 10 ** (torch.rand(samples, 1, generator=source).double() * 6 - 2)
        labels = torch.randint(classes, (samples,), generator=source)
        fitted = nll_at(fit_temperature(logits, labels), logits, labels)
        betas = [10 ** (n / 100) for n in range(-200, 201)]
        best = min(nll_at(1 / beta, logits, labels) for beta in betas)
        assert fitted <= best * (1 + 1e-9) + 1e-12

    def test_saturated_logits(self) -> None:
        logits = torch.tensor([[1e4, 0.0], [0.0, 1e4], [1e4, 0.0]])
        assert fit_temperature(logits, torch.tensor([0, 1, 1])) == pytest.approx(100.0)

    def test_separable_data_need_few_steps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sweeper.scoring.temperature._STEPS", 10)
        assert fit_temperature(torch.eye(3), torch.arange(3)) == pytest.approx(0.01)

    @pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
    def test_scales_with_the_logits(self, scale: float) -> None:
        logits, labels = batch(300, 5)
        assert fit_temperature(scale * logits, labels) == pytest.approx(
            scale * fit_temperature(logits, labels), rel=1e-8
        )

    @pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
    def test_separable_data_give_lowest_temperature(self, scale: float) -> None:
        labels = torch.arange(6) % 3
        logits = scale * torch.nn.functional.one_hot(labels, 3).double()
        assert fit_temperature(logits, labels) == pytest.approx(0.01)
        ours = score(logits, labels)
        assert ours.nll_calibrated is not None
        assert ours.nll_calibrated <= ours.nll

    def test_worse_than_chance_gives_highest_temperature(self) -> None:
        logits, labels = batch(50, 3)
        assert fit_temperature(-logits, labels) == pytest.approx(100.0)

    def test_constant_logits(self) -> None:
        ours = score(torch.zeros(10, 3), torch.arange(10) % 3)
        assert ours.nll == pytest.approx(math.log(3))
        assert ours.nll_calibrated == pytest.approx(math.log(3))
        assert ours.temperature == 1.0

    def test_far_from_one(self) -> None:
        logits, labels = batch(300, 5)
        for scale in (1 / 20, 20.0):
            near = scale * logits
            best = minimize_scalar(
                lambda t, z=near: nll_at(t, z, labels), bounds=(0.01, 100), method="bounded"
            )
            assert fit_temperature(near, labels) == pytest.approx(best.x, rel=1e-3)


class TestCrossFit:
    def test_each_half_is_scored_at_the_others_temperature(self) -> None:
        logits, labels = batch(101, 4)
        order = torch.randperm(101, generator=torch.Generator().manual_seed(0))
        halves = order[:50], order[50:]
        total = 0.0
        for fitted, scored in (halves, halves[::-1]):
            temperature = fit_temperature(logits[fitted], labels[fitted])
            total += len(scored) * nll_at(temperature, logits[scored], labels[scored])
        ours = score(logits, labels)
        assert ours.nll_calibrated == pytest.approx(total / 101, rel=1e-9)
        assert ours.temperature == fit_temperature(logits, labels)

    def test_cross_fitting_has_no_optimistic_bias(self) -> None:
        """Fitting and scoring on the same few samples would, for every draw of them."""
        for seed in range(20):
            logits, labels = batch(24, 4, seed=seed)
            ours = score(logits, labels)
            assert ours.temperature is not None
            assert ours.nll_calibrated is not None
            assert ours.nll_calibrated > nll_at(ours.temperature, logits, labels)

    def test_overconfidence_is_corrected(self) -> None:
        ours = score(*batch(1000, 5, scale=10.0))
        assert ours.nll_calibrated is not None
        assert ours.nll_calibrated < ours.nll / 2

    def test_one_sample_has_no_other_half(self) -> None:
        ours = score(torch.tensor([[0.3, 0.1]]), torch.tensor([1]))
        assert ours.nll_calibrated == pytest.approx(ours.nll)

    def test_fit_is_deterministic(self) -> None:
        torch.manual_seed(1)
        first = score(*batch(100, 5))
        torch.manual_seed(2)
        assert score(*batch(100, 5)) == first
