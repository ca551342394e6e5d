"""bf16: forward passes in bfloat16, everything that is kept in float32, and the same bits again."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sweeper import Smoothing
from sweeper.errors import SweeperError
from sweeper.study.code import code_request
from sweeper.study.load import parse_spec
from sweeper.study.spec import StudySpec, identity
from sweeper.tasks.program import program_of
from sweeper.training import Evaluation, Splits, Task, TrainingRun, train
from sweeper.training.checkpoints import Checkpoint, load, save
from sweeper.training.messages import FromTrainer, Reply, Report, Start, ToTrainer
from sweeper.training.packed.pack import Pack, train_packed

CLASSES, ROWS, EPOCHS = 5, 44, 4
SMOOTHINGS = [
    Smoothing(0.0),
    Smoothing(0.2, "cosine", 1.0),
    Smoothing(0.1),
    Smoothing(0.3, "confidence", 2.0),
]


def perceptron(hparams: Mapping[str, Any]) -> nn.Module:
    return nn.Sequential(
        nn.Linear(12, 32), nn.ReLU(), nn.Dropout(hparams["dropout"]), nn.Linear(32, CLASSES)
    )


def convolutions(hparams: Mapping[str, Any]) -> nn.Module:
    return nn.Sequential(
        *(nn.Unflatten(1, (3, 2, 2)), nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)),
        *(nn.ReLU(), nn.Flatten(), nn.Dropout(hparams["dropout"]), nn.Linear(64, CLASSES)),
    )


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 16, dropout=0.0, batch_first=True)
        self.out = nn.Linear(4, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.out(self.layer(inputs.view(-1, 3, 4)).mean(1))
        return out


MODELS = {"mlp": perceptron, "cnn": convolutions, "attention": lambda _: Attention()}


def splits(_: int) -> Splits:
    train, valid, test = (
        (torch.randn(ROWS, 12), torch.randint(CLASSES, (ROWS,))) for _ in range(3)
    )
    return Splits(train, valid, test, CLASSES)


def task(model: str = "mlp", **others: Any) -> Task:
    return Task(
        **{
            "name": "small",
            "classes": CLASSES,
            "model": MODELS[model],
            "data": splits,
            "epochs": EPOCHS,
            "batch_size": 16,
            "hparams": {"dropout": 0.2},
            "precision": "bf16",
            **others,
        }
    )


def run_of(smoothing: Smoothing = SMOOTHINGS[1]) -> TrainingRun:
    return TrainingRun(smoothing, 3, 4)


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, Mapping) else ()
    return [tensor for item in items for tensor in tensors(item)]


def state(of: Evaluation) -> Mapping[str, Any]:
    assert of.state is not None
    return of.state()


def same(one: Evaluation, other: Evaluation) -> bool:
    pairs = zip(tensors(state(one)), tensors(state(other)), strict=True)
    return torch.equal(one.logits, other.logits) and all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("loop", [train, train_packed])
def test_bf16_changes_forward_passes_and_keeps_float32(model: str, loop: Any) -> None:
    seen = set[torch.dtype]()

    def watched(hparams: Mapping[str, Any]) -> nn.Module:
        made: nn.Module = MODELS[model](hparams)  # type: ignore[no-untyped-call]
        made.register_forward_hook(lambda _, __, out: seen.add(out.dtype))
        return made

    bf16 = replace(task(model), model=watched)
    *_, last = loop(bf16, run_of())
    # In a pack, vmap adds a bias in float32 to a product in bfloat16.
    assert loop is train_packed or seen == {torch.bfloat16}
    *_, wide = loop(replace(bf16, precision="float32"), run_of())
    assert last.logits.dtype == torch.float32
    assert not torch.equal(last.logits, wide.logits)
    torch.testing.assert_close(last.logits, wide.logits, rtol=0.1, atol=0.1)
    assert last.splits["test"]()[0].dtype == torch.float32
    assert {tensor.dtype for tensor in tensors(state(last))} <= {torch.float32, torch.int64}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("after", [1, 3])
@pytest.mark.parametrize("loop", [train, train_packed])
def test_resumed_bf16_training_is_bitwise_equal(
    tmp_path: Path, model: str, after: int, loop: Any
) -> None:
    straight = list(loop(task(model), run_of()))
    states = (state(evaluation) for evaluation in loop(task(model), run_of()))
    kept = [next(states) for _ in range(after)][-1]
    save(tmp_path / "c.pt", Checkpoint("k", after, 0.0, dict(kept)))
    found = load(tmp_path / "c.pt", "k")
    assert found is not None
    resumed = list(loop(task(model), replace(run_of(), state=found.state)))
    assert len(resumed) == EPOCHS - after
    assert torch.equal(resumed[-1].logits, straight[-1].logits)
    assert same(resumed[-1], straight[-1])


@pytest.mark.usefixtures("one_thread")
def test_members_of_a_bf16_pack_are_independent(model: str) -> None:
    small = task(model)
    pack = Pack(small, 8)
    members = [pack.join(run_of(smoothing)) for smoothing in SMOOTHINGS]
    for _ in range(EPOCHS):
        outcomes = dict(pack.epoch())
    for smoothing, member in zip(SMOOTHINGS, members, strict=True):
        *_, alone = train_packed(small, run_of(smoothing))
        together = outcomes[member]
        assert isinstance(together, Evaluation), together
        assert same(together, alone)


def test_unknown_precision() -> None:
    with pytest.raises(
        ValueError, match=r"unknown precision 'bf-16'.*bf16.*allowed: float32, bf16"
    ):
        task(precision="bf-16")


# ---- the study file ----------------------------------------------------------------------


def spec_of(**task: Any) -> StudySpec:
    return parse_spec({"study": {"name": "small"}, "task": task, "space": {"schedule": ["fixed"]}})


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("at_once", [0, 2])
def test_precision_of_the_study_file_reaches_the_loop(at_once: int) -> None:
    def final_nll(**task: Any) -> float | None:
        reports = list[Report]()

        def exchange(message: FromTrainer) -> ToTrainer:
            reports.extend(message.reports)
            return ToTrainer({report.key: Reply() for report in message.reports})

        program = program_of(code_request(spec_of(**task), Path()))
        start = Start("a", (0.1,), 3, 3, device="cpu")
        program.train(ToTrainer(starts=[start]), exchange, at_once=at_once)
        return reports[-1].scores["nll"]

    digits = {"use": "digits", "options": {"train_fraction": 0.05}}
    assert final_nll(**digits) == final_nll(**digits, precision="float32")
    assert final_nll(**digits) != final_nll(**digits, precision="bf16")


@pytest.mark.parametrize(
    ("task", "error"),
    [
        (
            {"use": "digits", "precision": "bf-16"},
            "task.precision: must be float32 or bf16, got 'bf-16' (did you mean 'bf16'?)",
        ),
        (
            {"program": "train.py", "precision": "bf16"},
            "task.precision: a script sets its own precision; remove the key",
        ),
    ],
)
def test_wrong_precision_in_a_study_file(task: Mapping[str, Any], error: str) -> None:
    with pytest.raises(SweeperError) as raised:
        spec_of(**task)
    assert str(raised.value) == error


def test_precision_of_a_training_function(tmp_path: Path) -> None:
    (tmp_path / "loop.py").write_text("def train(run):\n    run.report([[0.0]], [0], progress=1)\n")
    spec = spec_of(use="loop.py:train", precision="bf16")
    with pytest.raises(SweeperError, match=r"^task.precision: .*loop.py:train is a training func"):
        program_of(code_request(spec, tmp_path))


def test_unset_precision_is_not_part_of_the_identity() -> None:
    assert "precision" not in identity(spec_of(use="digits"))["task"]
    assert identity(spec_of(use="digits", precision="bf16"))["task"]["precision"] == "bf16"
