"""The module: progress as a buffer, epsilon from the schedule, and the exported file."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.testing import assert_close

from sweeper.smoothing import SCHEDULES, Smoothing, SmoothingLoss, smoothing_loss

LOGITS = 2 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 4, -100])
EXPORTED = {
    "study": "digits",
    "convention": "others",
    "epsilon": 0.2,
    "label_smoothing": 0.25,
    "schedule": "cosine",
    "rate": 2.0,
    "scores": {"nll": 0.1},
}


class TestForward:
    def test_a_float_is_a_fixed_epsilon(self) -> None:
        assert SmoothingLoss(0.2).smoothing == Smoothing(0.2)
        assert_close(SmoothingLoss(0.2)(LOGITS, LABELS), smoothing_loss(LOGITS, LABELS, 0.2))

    @pytest.mark.parametrize("convention", ["others", "uniform"])
    @pytest.mark.parametrize("progress", [0.0, 0.25, 0.9])
    def test_annealed(self, convention: str, progress: float) -> None:
        smoothing = Smoothing(0.4, "linear", 1.5, convention)
        loss = SmoothingLoss(smoothing)
        loss.progress = progress
        expected = smoothing_loss(LOGITS, LABELS, smoothing.at(progress), convention=convention)
        assert_close(loss(LOGITS, LABELS), expected)

    @pytest.mark.parametrize("name", ["confidence", "error"])
    def test_adaptive(self, name: str) -> None:
        gate = SCHEDULES[name].gate(LOGITS, LABELS, 2.0)
        expected = smoothing_loss(LOGITS, LABELS, 0.4 * gate)
        assert_close(SmoothingLoss(Smoothing(0.4, name, 2.0))(LOGITS, LABELS), expected)

    @pytest.mark.parametrize("name", ["cosine", "error"])
    def test_accepts_precomputed_epsilon(self, name: str) -> None:
        loss = SmoothingLoss(Smoothing(0.4, name, 2.0))
        loss.progress = 0.3
        epsilon = loss.epsilon(LOGITS, LABELS)
        assert torch.equal(loss(LOGITS, LABELS, epsilon), loss(LOGITS, LABELS))
        expected = smoothing_loss(LOGITS, LABELS, epsilon / 2)
        assert_close(loss(LOGITS, LABELS, epsilon / 2), expected)

    @pytest.mark.parametrize("name", ["confidence", "error"])
    def test_the_gate_has_no_gradient(self, name: str) -> None:
        ours, theirs = (LOGITS.clone().requires_grad_() for _ in range(2))
        torch.autograd.backward(SmoothingLoss(Smoothing(0.4, name, 2.0))(ours, LABELS))
        gate = SCHEDULES[name].gate(LOGITS, LABELS, 2.0)
        torch.autograd.backward(smoothing_loss(theirs, LABELS, 0.4 * gate))
        assert_close(ours.grad, theirs.grad)

    @pytest.mark.parametrize("name", ["fixed", "cosine", "confidence", "error"])
    def test_options_reach_the_loss(self, name: str) -> None:
        labels = LABELS.clone()
        labels[-1] = 4
        options: dict[str, Any] = {
            "weight": torch.arange(1.0, 6.0),
            "ignore_index": 4,
            "reduction": "none",
        }
        loss = SmoothingLoss(Smoothing(0.0, name, 1.0), **options)
        assert_close(loss(LOGITS, labels), smoothing_loss(LOGITS, labels, 0.0, **options))

    @pytest.mark.parametrize("name", ["cosine", "confidence", "error"])
    @pytest.mark.parametrize("ignore_index", [-1, 255])
    def test_ignored_label_may_be_out_of_range(self, name: str, ignore_index: int) -> None:
        labels = torch.where(LABELS == -100, ignore_index, LABELS)
        ours = SmoothingLoss(Smoothing(0.4, name, 2.0), ignore_index=ignore_index)
        assert_close(ours(LOGITS, labels), SmoothingLoss(Smoothing(0.4, name, 2.0))(LOGITS, LABELS))

    @pytest.mark.parametrize("name", ["cosine", "confidence", "error"])
    def test_a_diverged_model_gives_nan(self, name: str) -> None:
        loss = SmoothingLoss(Smoothing(0.4, name, 2.0))
        assert loss(torch.full((6, 5), math.nan), LABELS).isnan()

    @pytest.mark.parametrize("name", sorted(SCHEDULES))
    def test_dense_and_half(self, name: str) -> None:
        logits = torch.randn(2, 5, 3, dtype=torch.bfloat16, requires_grad=True)
        loss = SmoothingLoss(Smoothing(0.4, name, 2.0))(logits, torch.zeros(2, 3).long())
        torch.autograd.backward(loss)
        assert loss.dtype == torch.float32
        assert logits.grad is not None
        assert logits.grad.isfinite().all()


class TestProgress:
    def test_is_written_in_place(self) -> None:
        loss = SmoothingLoss(0.2)
        before = loss.get_buffer("progress")
        loss.progress = 0.3
        loss.progress = torch.tensor(0.5)
        assert loss.get_buffer("progress") is before
        assert before.item() == 0.5

    @pytest.mark.parametrize("progress", [-0.1, 1.1, math.nan])
    def test_outside_is_refused(self, progress: float) -> None:
        loss = SmoothingLoss(0.2)
        with pytest.raises(ValueError, match=r"progress must be a number in \[0, 1\]"):
            loss.progress = progress
        assert loss.get_buffer("progress").item() == 0.0

    def test_progress_is_not_in_the_state_dict(self) -> None:
        loss = SmoothingLoss(0.2, weight=torch.ones(5))
        assert loss.state_dict() == {}
        assert set(dict(loss.named_buffers())) == {"progress", "weight"}

    def test_progress_moves_with_the_model(self) -> None:
        loss = SmoothingLoss(0.2)
        model = nn.Sequential(nn.Linear(2, 2), loss).to(torch.float64)
        assert all(buffer.dtype == torch.float64 for buffer in model.buffers())
        loss.progress = 0.3
        assert copy.deepcopy(model)[1].get_buffer("progress").item() == 0.3

    def test_many_at_once(self) -> None:
        loss = SmoothingLoss(Smoothing(0.4, "cosine", 1.0))

        def at(progress: Tensor) -> Tensor:
            value: Tensor = torch.func.functional_call(
                loss, {"progress": progress}, (LOGITS, LABELS)
            )
            return value

        together = torch.func.vmap(at)(torch.tensor([0.0, 0.5, 1.0]))
        for progress, expected in zip((0.0, 0.5, 1.0), together, strict=True):
            loss.progress = progress
            assert_close(loss(LOGITS, LABELS), expected)

    @pytest.mark.parametrize("name", sorted(SCHEDULES))
    def test_progress_changes_do_not_recompile(self, name: str) -> None:
        torch._dynamo.reset()
        counters.clear()
        loss = SmoothingLoss(Smoothing(0.4, name, 2.0))
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        for step in range(20):
            loss.progress = step / 19
            assert_close(compiled(LOGITS, LABELS), loss(LOGITS, LABELS))
        assert counters["stats"]["unique_graphs"] == 1


def exported(folder: Path, values: object) -> Path:
    path = folder / "best.json"
    path.write_text(values if isinstance(values, str) else json.dumps(values), encoding="utf-8")
    return path


class TestFromFile:
    def test_reads_what_a_study_exports(self, tmp_path: Path) -> None:
        loss = SmoothingLoss.from_file(exported(tmp_path, EXPORTED), reduction="sum")
        assert loss.smoothing == Smoothing(0.2, "cosine", 2.0, "others")
        assert loss.reduction == "sum"

    def test_convention_is_read_from_the_file(self, tmp_path: Path) -> None:
        path = exported(tmp_path, {**EXPORTED, "convention": "uniform"})
        assert SmoothingLoss.from_file(str(path)).smoothing.convention == "uniform"

    @pytest.mark.parametrize(
        ("told", "expected"),
        [
            (
                {"recommended": False, "verdict": None},
                "no recommendation: .*sweeper confirm digits$",
            ),
            (
                {"recommended": True, "verdict": {"word": "hurts"}, "epsilon": 0.0},
                "the verdict is 'hurts', so the recommended configuration is ε = 0",
            ),
            (
                {"recommended": True, "verdict": {"word": "helps"}, "epsilon": 0.0},
                "the pick helps but violates the constraint",
            ),
            ({"recommended": True, "verdict": {"word": "helps"}}, None),
        ],
    )
    def test_warns_once_if_smoothing_is_not_recommended(
        self, tmp_path: Path, told: dict[str, object], expected: str | None
    ) -> None:
        path = exported(tmp_path, {**EXPORTED, **told})
        if expected is None:
            SmoothingLoss.from_file(path)
            return
        with pytest.warns(UserWarning, match=rf"best\.json: {expected}") as caught:
            SmoothingLoss.from_file(path)
        [warning] = caught
        assert "\n" not in str(warning.message)
        assert warning.filename == __file__

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"epsilon": 0.2, "schedule": "fixed"}, "missing: rate, convention"),
            ("epsilon: 0.2", "is not JSON"),
            ("[0.2]", "is not a JSON object"),
            ({**EXPORTED, "schedule": "cosin"}, "did you mean 'cosine'"),
            (
                {**EXPORTED, "schedule": "mine"},
                r"'mine'.*register_schedule\(name, function\)",
            ),
            ({**EXPORTED, "epsilon": 2}, r"epsilon must be a number in \[0, 1\], got 2"),
            ({**EXPORTED, "rate": None}, "rate must be a finite number > 0 .*, got None"),
        ],
    )
    def test_invalid_file_is_explained(self, tmp_path: Path, values: object, message: str) -> None:
        with pytest.raises(ValueError, match=rf"best\.json.*{message}"):
            SmoothingLoss.from_file(exported(tmp_path, values))


def test_extra_repr() -> None:
    assert "epsilon=0.2, schedule='fixed'" in repr(SmoothingLoss(0.2))
