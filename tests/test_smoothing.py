"""Targets, conventions and configurations: the formula that everything else must agree with."""

import json
import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sweeper.smoothing import (
    CONVENTIONS,
    SCHEDULES,
    Smoothing,
    smooth_targets,
    to_others,
    to_uniform,
)

EPSILONS = st.floats(0.0, 1.0)
CLASSES = st.integers(2, 5000)


class TestConventions:
    @given(EPSILONS, CLASSES)
    def test_round_trip(self, epsilon: float, classes: int) -> None:
        assert to_others(to_uniform(epsilon, classes), classes) == pytest.approx(
            epsilon, rel=1e-14, abs=1e-300
        )

    @given(EPSILONS, CLASSES)
    def test_both_give_the_same_mass(self, epsilon: float, classes: int) -> None:
        uniform = to_uniform(epsilon, classes)
        assert 1 - uniform + uniform / classes == pytest.approx(1 - epsilon, abs=1e-12)
        assert uniform / classes == pytest.approx(epsilon / (classes - 1), abs=1e-12)

    @pytest.mark.parametrize(("classes", "expected"), [(2, 0.2), (10, 1 / 9), (1000, 0.1001001)])
    def test_known_values(self, classes: int, expected: float) -> None:
        assert to_uniform(0.1, classes) == pytest.approx(expected, rel=1e-6)

    @pytest.mark.parametrize("epsilon", [math.nan, -0.1, 1.01, "0.1", True, None])
    def test_epsilon_outside_is_refused(self, epsilon: Any) -> None:
        with pytest.raises(ValueError, match=r"epsilon must be a number in \[0, 1\], got"):
            to_uniform(epsilon, 3)

    def test_uniform_epsilon_above_its_range_is_refused(self) -> None:
        assert to_others(1.5, 3) == pytest.approx(1.0)
        with pytest.raises(ValueError, match=r"must be in \[0, 1.5\], got 1.6"):
            to_others(1.6, 3)
        with pytest.raises(ValueError, match="nan"):
            to_others(math.nan, 3)

    @pytest.mark.parametrize("convert", [to_uniform, to_others])
    def test_one_class_is_refused(self, convert: Any) -> None:
        with pytest.raises(ValueError, match="at least 2 classes, got 1"):
            convert(0.1, 1)


class TestTargets:
    def test_others_by_hand(self) -> None:
        targets = smooth_targets(torch.tensor([0, 2]), 3, 0.2)
        torch.testing.assert_close(targets, torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]]))

    def test_uniform_by_hand(self) -> None:
        targets = smooth_targets(torch.tensor([1]), 4, 0.2, convention="uniform")
        torch.testing.assert_close(targets, torch.tensor([[0.05, 0.85, 0.05, 0.05]]))

    @given(EPSILONS, st.integers(2, 50), st.sampled_from(CONVENTIONS), st.data())
    def test_rows_are_distributions(
        self, epsilon: float, classes: int, convention: str, data: st.DataObject
    ) -> None:
        labels = torch.tensor(data.draw(st.lists(st.integers(0, classes - 1), max_size=5)))
        targets = smooth_targets(labels.long(), classes, epsilon, convention=convention)
        assert targets.shape == (len(labels), classes)
        assert (targets >= 0).all()
        torch.testing.assert_close(targets.sum(1), torch.ones(len(labels)))

    @given(EPSILONS, st.integers(2, 50))
    def test_conversion_gives_the_same_targets(self, epsilon: float, classes: int) -> None:
        labels = torch.arange(classes)
        uniform = torch.tensor(to_uniform(epsilon, classes), dtype=torch.float64)
        others = smooth_targets(labels, classes, torch.tensor(epsilon, dtype=torch.float64))
        if uniform <= 1:
            torch.testing.assert_close(
                smooth_targets(labels, classes, uniform, convention="uniform"), others
            )

    def test_one_epsilon_per_sample(self) -> None:
        targets = smooth_targets(torch.tensor([0, 0]), 2, torch.tensor([0.0, 0.3]))
        torch.testing.assert_close(targets, torch.tensor([[1.0, 0.0], [0.7, 0.3]]))

    def test_soft_labels_follow_the_same_linear_map(self) -> None:
        soft = torch.tensor([[0.5, 0.5, 0.0]])
        hard = [smooth_targets(torch.tensor([k]), 3, 0.3) for k in (0, 1)]
        torch.testing.assert_close(smooth_targets(soft, 3, 0.3), (hard[0] + hard[1]) / 2)

    @pytest.mark.parametrize(
        ("convention", "first"), [("others", [0.8, 0.2, 0.0]), ("uniform", [0.9, 0.1, 0.0])]
    )
    def test_mask_leaves_epsilon_to_the_allowed(self, convention: str, first: list[float]) -> None:
        mask = torch.tensor([[True, True, False], [False, False, True]])
        targets = smooth_targets(torch.tensor([0, 2]), 3, 0.2, convention=convention, mask=mask)
        torch.testing.assert_close(targets, torch.tensor([first, [0.0, 0.0, 1.0]]))

    def test_mask_of_classes_serves_every_row(self) -> None:
        targets = smooth_targets(
            torch.tensor([0, 1]), 3, 0.2, mask=torch.tensor([True, True, False])
        )
        torch.testing.assert_close(targets, torch.tensor([[0.8, 0.2, 0.0], [0.2, 0.8, 0.0]]))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (((torch.tensor([3])), 3, 0.1), r"a label is 3; .* must be in \[0, 2\]"),
            ((torch.tensor([-1]), 3, 0.1), "a label is -1"),
            ((torch.tensor([0]), 1, 0.1), "at least 2 classes, got 1"),
            ((torch.tensor([0]), 3, 1.5), r"epsilon must be a number in \[0, 1\], got 1.5"),
            (
                (torch.tensor([0]), 3, torch.tensor([math.nan])),
                r"epsilon must be in \[0, 1\], got nan",
            ),
            (
                (torch.tensor([0]), 3, torch.zeros(1, 1)),
                r"epsilon must be 0-dim .*, got shape \(1, 1\)",
            ),
            ((torch.tensor([True]), 3, 0.1), "labels must be integers .*; got torch.bool"),
            ((torch.rand(2, 4), 3, 0.1), r"labels must be .*; got torch.float32 of shape \(2, 4\)"),
        ],
    )
    def test_refused(self, arguments: tuple[Any, ...], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            smooth_targets(*arguments)

    @pytest.mark.parametrize(
        ("mask", "message"),
        [
            (torch.tensor([True, True, False]), "must allow every label"),
            (torch.ones(3), "mask must be bool .*; got torch.float32"),
            (
                torch.ones(2, dtype=torch.bool),
                r"mask must be bool .*; got torch.bool of shape \(2,\)",
            ),
        ],
    )
    def test_refused_mask(self, mask: torch.Tensor, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            smooth_targets(torch.tensor([2]), 3, 0.1, mask=mask)


def configurations() -> st.SearchStrategy[Smoothing]:
    return st.builds(
        Smoothing,
        EPSILONS,
        st.sampled_from([name for name in SCHEDULES if name in BUILT_IN]),
        st.floats(1e-3, 100.0),
        st.sampled_from(CONVENTIONS),
    )


BUILT_IN = ("fixed", "linear", "cosine", "exponential", "step", "confidence", "error")


class TestSmoothing:
    @pytest.mark.parametrize("epsilon", [math.nan, -1e-9, 1.0000001, math.inf, "0.1", None, True])
    def test_epsilon_outside_is_refused(self, epsilon: Any) -> None:
        with pytest.raises(ValueError, match=r"epsilon must be a number in \[0, 1\], got"):
            Smoothing(epsilon)

    @pytest.mark.parametrize("rate", [None, 0.0, -1.0, math.inf, math.nan, "1"])
    def test_rate_of_a_schedule_that_uses_it(self, rate: Any) -> None:
        with pytest.raises(
            ValueError, match="rate must be a finite number > 0 for schedule 'cosine', got"
        ):
            Smoothing(0.1, "cosine", rate)

    @pytest.mark.parametrize("rate", [None, 1.0, -3.0])
    def test_fixed_ignores_its_rate(self, rate: float | None) -> None:
        assert Smoothing(0.1, "fixed", rate).canonical() == Smoothing(0.1)

    @pytest.mark.parametrize("name", ["cosin", "linaer", 7, ["fixed"]])
    def test_unknown_schedule(self, name: Any) -> None:
        with pytest.raises(ValueError, match=r"unknown schedule .*fixed, .*register_schedule"):
            Smoothing(0.1, name, 1.0)

    def test_unknown_schedule_gets_the_nearest_name(self) -> None:
        with pytest.raises(ValueError, match="did you mean 'cosine'"):
            Smoothing(0.1, "cosin", 1.0)

    def test_unknown_convention_gets_the_nearest_name(self) -> None:
        with pytest.raises(ValueError, match="did you mean 'uniform'"):
            Smoothing(0.1, convention="unifrm")

    def test_annealed_epsilon(self) -> None:
        assert Smoothing(0.2, "linear", 2.0).at(0.25) == pytest.approx(0.1, rel=1e-14)

    @pytest.mark.parametrize("name", ["confidence", "error"])
    def test_adaptive_epsilon_is_its_ceiling(self, name: str) -> None:
        assert Smoothing(0.2, name, 2.0).at(0.7) == 0.2

    @pytest.mark.parametrize("progress", [-0.01, 1.01, math.nan, None])
    def test_progress_outside_is_refused(self, progress: Any) -> None:
        with pytest.raises(ValueError, match=r"progress must be a number in \[0, 1\]"):
            Smoothing(0.2).at(progress)

    @given(configurations(), EPSILONS)
    def test_canonical_acts_the_same(self, smoothing: Smoothing, progress: float) -> None:
        canonical = smoothing.canonical()
        assert canonical.at(progress) == smoothing.at(progress)
        assert canonical.canonical() == canonical
        assert canonical.convention == smoothing.convention

    @pytest.mark.parametrize("convention", CONVENTIONS)
    def test_canonical_baseline(self, convention: str) -> None:
        baseline = Smoothing(0, "cosine", 3.0, convention).canonical()
        assert baseline == Smoothing(0.0, "fixed", None, convention)

    @given(configurations())
    def test_round_trip_through_json(self, smoothing: Smoothing) -> None:
        assert Smoothing.from_dict(json.loads(json.dumps(smoothing.to_dict()))) == smoothing

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"rat": 1.0}, r"; unknown: rat$"),
            ({"rate": ..., "convention": ...}, r"; missing: rate, convention$"),
            ({"rate": ..., "rat": 1.0}, r"; missing: rate; unknown: rat$"),
        ],
    )
    def test_keys_that_do_not_fit_are_named(self, change: dict[str, Any], message: str) -> None:
        values = {**Smoothing(0.1).to_dict(), **change}
        with pytest.raises(ValueError, match=message):
            Smoothing.from_dict({key: value for key, value in values.items() if value is not ...})

    def test_torchs_argument(self) -> None:
        assert Smoothing(0.09).label_smoothing(10) == pytest.approx(0.1)
        assert Smoothing(0.09, convention="uniform").label_smoothing(10) == 0.09
        with pytest.raises(ValueError, match="at least 2 classes, got 1"):
            Smoothing(0.09, convention="uniform").label_smoothing(1)


def test_import_needs_torch_alone() -> None:
    code = (
        "import sys\n"
        "class Gate:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'optuna', 'pandas', 'pydantic', 'scipy', 'sklearn',\n"
        "                                  'sqlalchemy', 'plotly', 'typer', 'rich'}:\n"
        "            raise ImportError(name + ' is not installed')\n"
        "sys.meta_path.insert(0, Gate())\n"
        "import sweeper.smoothing\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
