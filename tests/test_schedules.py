"""Schedules: 1 at the start, never rising, within [0, 1]; gates that carry no gradient."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sweeper.smoothing import SCHEDULES, Schedule, Smoothing, register_schedule

ANNEALED = ("fixed", "linear", "cosine", "exponential", "step")
ADAPTIVE = ("confidence", "error")
PROGRESS = st.floats(0.0, 1.0)
RATES = st.floats(0.01, 100.0)
# Rounding of cos alone may make it rise by less than this.
ROUNDING = 1e-15


def factor(name: str, progress: float, rate: float) -> float:
    return SCHEDULES[name].factor(torch.tensor(progress, dtype=torch.float64), rate).item()


@pytest.fixture
def _own_schedules_are_forgotten() -> Iterator[None]:
    known = dict(SCHEDULES)
    yield
    SCHEDULES.clear()
    SCHEDULES.update(known)


def test_the_registry() -> None:
    assert {name: schedule.kind for name, schedule in SCHEDULES.items()} == {
        **dict.fromkeys(ANNEALED, "annealed"),
        **dict.fromkeys(ADAPTIVE, "adaptive"),
    }
    assert [name for name, schedule in SCHEDULES.items() if not schedule.uses_rate] == ["fixed"]
    assert all(name == schedule.name for name, schedule in SCHEDULES.items())


@pytest.mark.parametrize("name", ANNEALED)
class TestAnnealed:
    @given(rate=RATES)
    def test_starts_at_one(self, name: str, rate: float) -> None:
        assert factor(name, 0.0, rate) == 1.0

    @given(progress=PROGRESS, rate=RATES)
    def test_stays_within_its_range(self, name: str, progress: float, rate: float) -> None:
        assert 0.0 <= factor(name, progress, rate) <= 1.0

    @given(progress=st.tuples(PROGRESS, PROGRESS).map(sorted), rate=RATES)
    def test_never_rises_with_progress(self, name: str, progress: list[float], rate: float) -> None:
        earlier, later = progress
        assert factor(name, later, rate) <= factor(name, earlier, rate) + ROUNDING

    @given(progress=PROGRESS, rates=st.tuples(RATES, RATES).map(sorted))
    def test_never_rises_with_the_rate(
        self, name: str, progress: float, rates: list[float]
    ) -> None:
        slower, faster = rates
        assert factor(name, progress, faster) <= factor(name, progress, slower) + ROUNDING

    def test_one_call_for_many_rates(self, name: str) -> None:
        rates = torch.tensor([0.3, 1.0, 12.0], dtype=torch.float64)
        progress = torch.tensor(0.2, dtype=torch.float64)
        expected = torch.tensor([factor(name, 0.2, rate) for rate in rates.tolist()])
        together = SCHEDULES[name].factor(progress.expand(3), rates)
        mapped = torch.func.vmap(lambda rate: SCHEDULES[name].factor(progress, rate))(rates)
        torch.testing.assert_close(together, expected.double(), check_dtype=False)
        torch.testing.assert_close(mapped, expected.double(), check_dtype=False)


@pytest.mark.parametrize(
    ("name", "progress", "rate", "expected"),
    [
        ("fixed", 0.7, 3.0, 1.0),
        ("linear", 0.25, 2.0, 0.5),
        ("linear", 0.75, 2.0, 0.0),
        ("cosine", 0.25, 2.0, 0.5),
        ("cosine", 0.5, 0.5, 0.5 * (1 + math.cos(math.pi / 4))),
        ("cosine", 0.9, 2.0, 0.0),
        ("exponential", 0.5, 2.0, math.exp(-1)),
        ("step", 0.24, 3.0, 1.0),
        ("step", 0.25, 3.0, 0.0),
    ],
)
def test_known_values(name: str, progress: float, rate: float, expected: float) -> None:
    assert factor(name, progress, rate) == pytest.approx(expected, abs=1e-15)


class TestGates:
    logits = torch.tensor([[0.0, math.log(3.0)], [math.log(4.0), 0.0]])
    labels = torch.tensor([0, 0])

    def test_confidence(self) -> None:
        gate = SCHEDULES["confidence"].gate(self.logits, self.labels, 1.0)
        torch.testing.assert_close(gate, torch.tensor([0.75, 0.8]))

    def test_error(self) -> None:
        gate = SCHEDULES["error"].gate(self.logits, self.labels, 1.0)
        torch.testing.assert_close(gate, torch.tensor([0.75, 0.2]))

    def test_error_of_soft_labels(self) -> None:
        soft = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
        gate = SCHEDULES["error"].gate(self.logits, soft, 1.0)
        torch.testing.assert_close(gate, torch.tensor([0.5, 0.2]))

    def test_rounding_of_soft_labels_leaves_the_gate_in_range(self) -> None:
        soft = torch.tensor([[1.0000001, 0.0]])
        gate = SCHEDULES["error"].gate(torch.tensor([[200.0, 0.0]]), soft, 0.5)
        assert gate.item() == 0.0

    @pytest.mark.parametrize("name", ADAPTIVE)
    def test_rate_is_the_power(self, name: str) -> None:
        once, thrice = (SCHEDULES[name].gate(self.logits, self.labels, r) for r in (1.0, 3.0))
        torch.testing.assert_close(thrice, once**3)

    @pytest.mark.parametrize("name", ADAPTIVE)
    def test_no_gradient(self, name: str) -> None:
        logits = self.logits.clone().requires_grad_()
        assert not SCHEDULES[name].gate(logits, self.labels, 1.0).requires_grad

    def test_ignored_labels_do_not_reach_the_gather(self) -> None:
        gate = SCHEDULES["error"].gate(self.logits, torch.tensor([-100, 0]), 1.0)
        assert gate[1].item() == pytest.approx(0.2)

    @given(
        st.sampled_from(ADAPTIVE),
        st.lists(st.floats(-1e4, 1e4, width=16), min_size=3, max_size=3),
        st.integers(0, 2),
        RATES,
        st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    )
    def test_within_range_for_any_float(
        self, name: str, logits: list[float], label: int, rate: float, dtype: torch.dtype
    ) -> None:
        row = torch.tensor([logits], dtype=dtype)
        gate = SCHEDULES[name].gate(row, torch.tensor([label]), rate)
        assert 0.0 <= gate.item() <= 1.0
        assert gate.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)

    def test_confidence_of_many_classes_in_half_precision(self) -> None:
        logits = torch.zeros(1, 3000, dtype=torch.float16)
        gate = SCHEDULES["confidence"].gate(logits, torch.tensor([0]), 1.0)
        assert gate.item() == pytest.approx(1 / 3000, rel=1e-6)

    def test_dense_labels(self) -> None:
        gate = SCHEDULES["error"].gate(torch.zeros(2, 4, 3, 5), torch.zeros(2, 3, 5).long(), 2.0)
        torch.testing.assert_close(gate, torch.full((2, 3, 5), 0.75**2))

    @pytest.mark.parametrize("name", ADAPTIVE)
    def test_nan_logits_leave_the_gate_in_range(self, name: str) -> None:
        gate = SCHEDULES[name].gate(torch.full((1, 2), math.nan), torch.tensor([0]), 1.0)
        assert 0.0 <= gate.item() <= 1.0


def halving(progress: Tensor, rate: Any) -> Tensor:
    factor: Tensor = 0.5 ** (rate * progress)
    return factor


@pytest.mark.usefixtures("_own_schedules_are_forgotten")
class TestRegistration:
    def test_own_schedule_is_used(self) -> None:
        assert register_schedule("halving", halving) == SCHEDULES["halving"]
        assert Smoothing(0.2, "halving", 2.0).at(0.5) == pytest.approx(0.1)
        with pytest.raises(ValueError, match=r"rate must be a finite number > 0 .*, got None"):
            Smoothing(0.2, "halving")

    def test_own_schedule_without_a_rate(self) -> None:
        register_schedule("line", lambda progress, rate: 1 - progress, uses_rate=False)
        assert Smoothing(0.2, "line").at(0.5) == pytest.approx(0.1)

    def test_registering_twice_is_allowed(self) -> None:
        first = register_schedule("halving", halving)
        assert register_schedule("halving", halving) is first

    def test_the_same_file_imported_twice_is_fine(self) -> None:
        source = "def own(progress, rate):\n    return 1 - 0.5 * progress\n"
        loaded: list[dict[str, Any]] = [{}, {}]
        for namespace in loaded:
            exec(compile(source, "own.py", "exec"), namespace)
        register_schedule("own", loaded[0]["own"])
        register_schedule("own", loaded[1]["own"])

    def test_registered_name_is_rejected(self) -> None:
        register_schedule("halving", halving)
        for name in ("halving", "cosine"):
            with pytest.raises(ValueError, match=f"{name!r} is already registered"):
                register_schedule(name, lambda progress, rate: 1 - progress)

    def test_closures_of_one_body_are_different(self) -> None:
        def powered(power: float) -> Any:
            return lambda progress, rate: (1 - progress) ** power

        register_schedule("powered", powered(1.0))
        with pytest.raises(ValueError, match="already registered"):
            register_schedule("powered", powered(2.0))

    def test_other_defaults_make_another_function(self) -> None:
        def powered(power: float) -> Any:
            namespace: dict[str, Any] = {"start": power}
            exec("def own(u, r, power=start):\n    return (1 - u) ** power\n", namespace)
            return namespace["own"]

        register_schedule("powered", powered(1.0))
        register_schedule("powered", powered(1.0))
        with pytest.raises(ValueError, match="already registered"):
            register_schedule("powered", powered(2.0))

    @pytest.mark.parametrize(
        ("function", "message"),
        [
            (lambda u, r: 0.5 * (1 - u), "starts at 0.5 at annealing rate 0.1; it must start at 1"),
            (lambda u, r: u * math.nan, "starts at nan"),
            (
                lambda u, r: 1 - r * u,
                r"is -0.02 at progress 0.34 and annealing rate 3.0; .*\[0, 1\]",
            ),
            (lambda u, r: 1 + u, r"is 1.01 at progress 0.01 and annealing rate 0.1; .*\[0, 1\]"),
            (
                lambda u, r: torch.where(u < 0.5, 1 - u, u),
                "is 0.51 at progress 0.51 .*must not increase",
            ),
            (
                lambda u, r: 1.0 if u < 0.5 else 0.0,
                r"raised RuntimeError.*torch.where instead of if",
            ),
            (lambda u, r: 1.0, "returned 1.0 for progress of shape"),
            (lambda u, r: u.sum(), r"returned a tensor of shape \(\)"),
            (lambda u: 1 - u, "raised TypeError"),
        ],
    )
    def test_schedule_violating_a_property_is_rejected(self, function: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            register_schedule("broken", function)
        assert "broken" not in SCHEDULES

    def test_a_registered_schedule_says_what_it_is(self) -> None:
        known = register_schedule("halving", halving)
        assert known == Schedule("halving", "annealed", True, "halving(u, r)", halving)
