"""Packs: many runs in one step, each to the last bit as if alone, and near the loop of one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sweeper import Smoothing
from sweeper.smoothing import SCHEDULES
from sweeper.training import Evaluation, Optimizer, Splits, Task, TrainingRun, train
from sweeper.training.packed.pack import Pack
from sweeper.training.packed.stack import Member
from sweeper.training.packed.stacking import Unstackable

CLASSES, ROWS = 5, 44
# One of each schedule, adaptive ones too, and ε = 0.
SMOOTHINGS = [
    Smoothing(0.0),
    *(Smoothing(0.05 * (n + 1), name, 1.0 + n) for n, name in enumerate(SCHEDULES)),
]
SHAPES = {
    "images": lambda: torch.rand(ROWS, 3, 6, 6),
    "words": lambda: torch.randint(11, (ROWS, 7)),
    "numbers": lambda: torch.randn(ROWS, 8),
}


def perceptron(hparams: Mapping[str, Any]) -> nn.Module:
    rate, width = hparams.get("dropout", 0.0), hparams.get("width", 17)
    again = nn.Dropout(rate)  # one layer, used twice
    return nn.Sequential(
        *(nn.Linear(8, width), nn.Tanh(), again, nn.Linear(width, width), again),
        *(nn.LayerNorm(width), nn.Linear(width, CLASSES)),
    )


def convolutions(hparams: Mapping[str, Any]) -> nn.Module:
    return nn.Sequential(
        *(
            nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular", bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
        ),
        *(nn.Conv2d(8, 12, 3), nn.GroupNorm(3, 12), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Dropout(hparams.get("dropout", 0.0)), nn.Linear(48, CLASSES)),
    )


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.out = nn.Linear(8, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.out(self.layer(self.words(inputs)).mean(1))
        return out


def task(
    model: Callable[[Mapping[str, Any]], nn.Module], shape: str = "numbers", **others: Any
) -> Task:
    def data(seed: int) -> Splits:
        train, valid, test = ((SHAPES[shape](), torch.randint(CLASSES, (ROWS,))) for _ in range(3))
        return Splits(train, valid, test, CLASSES)

    return Task(
        **{
            "name": "small",
            "classes": CLASSES,
            "model": model,
            "data": data,
            "optimizer": Optimizer(lr=0.01),
            "epochs": 5,
            "batch_size": 16,
            "hparams": {"dropout": 0.0, "width": 17},
            **others,
        }
    )


def runs(rates: Sequence[float] = (0.0,), **hparams: Any) -> list[TrainingRun]:
    return [
        TrainingRun(one, 3, 4, hparams={"dropout": rates[n % len(rates)], **hparams})
        for n, one in enumerate(SMOOTHINGS)
    ]


def packed(of: Task, given: Sequence[TrainingRun], epochs: int = 3) -> list[Evaluation]:
    pack = Pack(of, at_once=100)
    members = [pack.join(run) for run in given]
    for _ in range(epochs):
        found = dict(pack.epoch())
    return [evaluation(found, member) for member in members]


def evaluation(found: Mapping[Member, object], member: Member) -> Evaluation:
    given = found[member]
    assert isinstance(given, Evaluation), given
    return given


def alone(of: Task, run: TrainingRun, epochs: int = 3) -> Evaluation:
    return [one for _, one in zip(range(epochs), train(of, run), strict=False)][-1]


def numbers(of: Evaluation) -> dict[str, Tensor]:
    assert of.state is not None
    state = of.state()
    moments = {
        f"{n}.{key}": value
        for n, kept in state["optimizer"]["state"].items()
        for key, value in kept.items()
    }
    means = {"loss": torch.tensor(of.train_loss), "epsilon": torch.tensor(of.mean_epsilon)}
    test = {"test": of.splits["test"]()[0]}
    return {"logits": of.logits, **state["model"], **moments, **means, **test}


def assert_same(one: Evaluation, other: Evaluation) -> None:
    mine, theirs = numbers(one), numbers(other)
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


def assert_near(one: Evaluation, other: Evaluation, tolerance: float) -> None:
    mine, theirs = numbers(one), numbers(other)
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        error = (value.double() - theirs[name].double()).norm()
        assert error <= tolerance * theirs[name].double().norm() + 1e-9, (name, error)


TASKS = {
    "perceptron": task(perceptron),
    "convolutions": task(convolutions, "images"),
    # sgd: what its keys are biased by does not matter, and adam takes full steps along rounding
    "attention": task(lambda _: Reader(), "words", optimizer=Optimizer("sgd", 0.1)),
    "sgd": task(perceptron, optimizer=Optimizer("sgd", 0.1, momentum=0.9, weight_decay=0.01)),
    "adamw and l1": task(perceptron, optimizer=Optimizer("adamw", 0.01, 0.02, l1=1e-3)),
    "augmented": task(perceptron, augment=lambda x, _: x + torch.randn_like(x)),
}


@pytest.mark.parametrize("name", TASKS)
def test_pack_member_is_bitwise_equal_to_pack_of_one(name: str) -> None:
    given = runs((0.0, 0.3, 0.6))
    together = packed(TASKS[name], given)
    for chosen in ([0], [5], [4, 1], [7, 6, 2]):
        for number, found in zip(
            chosen, packed(TASKS[name], [given[n] for n in chosen]), strict=True
        ):
            assert_same(found, together[number])


@pytest.mark.parametrize("name", TASKS)
def test_a_member_agrees_with_the_loop_of_one_run(name: str) -> None:
    given = runs((0.0, 0.3, 0.6))
    for run, found in zip(given, packed(TASKS[name], given), strict=True):
        assert_near(found, alone(TASKS[name], run), 2e-5)


def test_parameters_agree_within_1e5_over_50_steps() -> None:
    of = task(perceptron, batch_size=4)  # 11 steps an epoch
    for run, found in zip(runs(), packed(of, runs(), 5), strict=True):
        other = alone(of, run, 5)
        assert found.state is not None
        assert other.state is not None
        mine, theirs = (
            torch.cat([w.flatten() for w in one.state()["model"].values()])  # type: ignore[misc]
            for one in (found, other)
        )
        assert (mine - theirs).norm() <= 1e-5 * theirs.norm()


def test_members_with_different_seeds_and_settings_are_independent() -> None:
    of = task(perceptron)
    given = [
        replace(run, seed=n % 3, data_seed=n % 2, hparams={"dropout": 0.2, "lr": 0.001 * (n + 1)})
        for n, run in enumerate(runs())
    ]
    for run, found in zip(given, packed(of, given), strict=True):
        assert_same(found, packed(of, [run])[0])
        assert_near(found, alone(of, run), 2e-5)


def test_members_can_join_and_leave_between_epochs() -> None:
    of = task(convolutions, "images")
    given = runs((0.0, 0.4))[:3]
    pack = Pack(of, at_once=100)
    first = pack.join(given[0])
    list(pack.epoch())
    second = pack.join(given[1])
    list(pack.epoch())
    pack.leave(first)
    third = pack.join(given[2])
    assert len(pack) == 2
    found = dict(pack.epoch())
    assert set(found) == {second, third}
    assert_same(evaluation(found, second), packed(of, [given[1]], 2)[0])
    assert_same(evaluation(found, third), packed(of, [given[2]], 1)[0])


def test_run_resumes_in_a_pack_and_in_the_loop() -> None:
    of = TASKS["sgd"]
    run = runs((0.3,))[2]
    whole = packed(of, [run], 4)[0]
    for half in (packed(of, [run, *runs()[:2]], 2)[0], alone(of, run, 2)):
        assert half.state is not None
        resumed = replace(run, state=half.state())
        assert_near(packed(of, [resumed], 2)[0], whole, 2e-5)
        assert_near(alone(of, resumed, 2), whole, 2e-5)
    assert half.progress == 0.4
    half = packed(of, [run, *runs()[:2]], 2)[0]
    assert half.state is not None
    assert_same(packed(of, [replace(run, state=half.state())], 2)[0], whole)


def test_diverging_member_does_not_affect_others() -> None:
    of = task(perceptron)
    given = [replace(run, hparams={"lr": 1e30 if n == 1 else 0.01}) for n, run in enumerate(runs())]
    found = packed(of, given)
    assert not found[1].logits.isfinite().all()
    assert_same(found[2], packed(of, [given[2]])[0])


def test_exception_of_one_member_fails_only_that_member() -> None:
    def augment(inputs: Tensor, hparams: Mapping[str, Any]) -> Tensor:
        if hparams["width"] == 18:
            raise RuntimeError("not eighteen")
        return inputs * 1.5

    of = task(perceptron, augment=augment, hparams={"width": 17, "share": 0.0})
    pack = Pack(of, at_once=100)
    members = [
        pack.join(TrainingRun(Smoothing(0.1), 0, 0, hparams={"width": width}))
        for width in (17, 18, 17)
    ]
    found = dict(pack.epoch())
    assert str(found[members[1]]) == "not eighteen"
    pack.leave(members[1])
    assert_same(evaluation(found, members[0]), evaluation(found, members[2]))
    assert len(dict(pack.epoch())) == 2


class TooMany(torch.autograd.Function):
    """Stands for a device whose memory is full with more than two stacked models."""

    @staticmethod
    def forward(inputs: Tensor) -> Tensor:
        return inputs.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0]

    @staticmethod
    def vmap(info: Any, in_dims: Any, inputs: Tensor) -> tuple[Tensor, Any]:
        if info.batch_size > 2:
            raise torch.OutOfMemoryError("out of memory")
        return inputs.clone(), in_dims[0]


class Hungry(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.of = nn.Linear(8, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.of(TooMany.apply(inputs))  # type: ignore[no-untyped-call]
        return out


def test_out_of_memory_halves_the_pack_size(
    caplog: pytest.LogCaptureFixture,
) -> None:
    of = task(lambda _: Hungry())
    pack = Pack(of, at_once=100)
    members = [pack.join(run) for run in runs()]
    for _ in range(2):
        found = dict(pack.epoch())
    assert pack.at_once == 2
    assert "out of memory with 8 trials in one step" in caplog.text
    for run, member in zip(runs(), members, strict=True):
        assert_same(evaluation(found, member), packed(of, [run], 2)[0])


class Choosing(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        out = super().forward(inputs)
        return out if inputs.sum() > 0 else -out


class Noisy(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) + torch.rand(())


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (lambda: Choosing(8, CLASSES), r"0 \(Choosing\): .*data-dependent control flow"),
        (lambda: Noisy(8, CLASSES), r"0 \(Noisy\): .*random"),
        (lambda: nn.LazyLinear(CLASSES), "types|shape"),
    ],
)
def test_a_model_that_cannot_be_stacked_names_the_module(
    module: Callable[[], nn.Module], message: str
) -> None:
    pack = Pack(task(lambda _: nn.Sequential(module())), at_once=4)
    with pytest.raises(Unstackable, match=message):
        pack.join(runs()[0])
    assert len(pack) == 0


def test_models_of_different_shapes_share_a_pack() -> None:
    of = task(perceptron)
    given = [run for width in (9, 17) for run in runs(width=width)[:2]]
    for run, found in zip(given, packed(of, given), strict=True):
        assert_same(found, packed(of, [run])[0])


def test_unused_parameters_are_not_updated() -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen, self.unused = nn.Linear(8, 8), nn.Linear(8, 8)
            self.out = nn.Linear(8, CLASSES)
            self.frozen.requires_grad_(False)

        def forward(self, inputs: Tensor) -> Tensor:
            out: Tensor = self.out(self.frozen(inputs))
            return out

    of = task(lambda _: Partly(), optimizer=Optimizer("adamw", 0.01, weight_decay=0.1))
    for run, found in zip(runs(), packed(of, runs()), strict=True):
        assert_near(found, alone(of, run), 2e-5)


def test_pack_preserves_global_random_state() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    packed(task(perceptron), runs((0.5,)), 1)
    assert torch.equal(torch.get_rng_state(), before)
