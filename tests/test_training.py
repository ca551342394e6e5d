"""The built-in training loop: what it trains and in which order, and nothing else matters."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, pairwise, zip_longest
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sweeper.errors import SweeperError
from sweeper.smoothing import Smoothing, SmoothingLoss
from sweeper.training import Evaluation, Optimizer, Splits, Task, TrainingRun, derive_seed, train
from sweeper.training.loop import add_l1, batch_order, predict, step_seeds
from sweeper.training.updates import ModelOptimizer

ROWS, BATCH, EPOCHS = 70, 16, 3
STEPS = 5 * EPOCHS  # four batches of 16 and one of 6

pytestmark = pytest.mark.usefixtures("one_thread")


def make_splits(data_seed: int) -> Splits:
    generator = torch.Generator().manual_seed(data_seed)
    inputs = torch.randn(ROWS + 60, 4, generator=generator)
    labels = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long()
    sizes = [ROWS, 30, 30]
    pairs = zip(torch.split(inputs, sizes), torch.split(labels, sizes), strict=True)
    train_rows, valid_rows, test_rows = pairs
    return Splits(train_rows, valid_rows, test_rows, classes=3)


def make_model(hparams: Mapping[str, Any]) -> nn.Module:
    dropout = nn.Dropout(hparams["dropout"])
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), dropout, nn.Linear(16, 3))


def make_task(**changes: Any) -> Task:
    settings: dict[str, Any] = {
        "name": "points",
        "classes": 3,
        "model": make_model,
        "data": make_splits,
        "optimizer": Optimizer(lr=0.01),
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "hparams": {"dropout": 0.5},
    }
    return Task(**{**settings, **changes})


def make_run(epsilon: float = 0.1, seed: int = 1, **changes: Any) -> TrainingRun:
    return TrainingRun(Smoothing(epsilon, "linear", 1.0), seed=seed, data_seed=0, **changes)


def last_logits(task: Task, run: TrainingRun) -> Tensor:
    *_, last = train(task, run)
    return last.logits


# ---- the same seed, the same bits ----------------------------------------------------------


def test_training_is_bitwise_reproducible_by_seed() -> None:
    task = make_task()
    first = last_logits(task, make_run(seed=1))
    assert torch.equal(first, last_logits(task, make_run(seed=1)))
    assert torch.equal(first, last_logits(make_task(), make_run(seed=1)))
    assert not torch.equal(first, last_logits(task, make_run(seed=2)))


def test_interleaved_runs_are_bitwise_equal() -> None:
    task, runs = make_task(), [make_run(e, seed) for e in (0.0, 0.3) for seed in (1, 2)]
    alone = [list(train(task, run)) for run in runs]
    together = [*zip_longest(*(train(task, run) for run in runs))]
    for number, evaluations in enumerate(alone):
        for epoch, evaluation in enumerate(evaluations):
            assert torch.equal(evaluation.logits, together[epoch][number].logits)
            assert evaluation.train_loss == together[epoch][number].train_loss


def test_the_order_of_trials_does_not_matter() -> None:
    task, one, other = make_task(), make_run(0.0), make_run(0.3)
    forth = [last_logits(task, one), last_logits(task, other)]
    back = [last_logits(task, other), last_logits(task, one)]
    assert torch.equal(forth[0], back[1])
    assert torch.equal(forth[1], back[0])


def test_dropout_and_initialization_ignore_global_random_state() -> None:
    task = make_task()
    torch.manual_seed(1)
    first = [e.logits for e in train(task, make_run())]
    torch.manual_seed(2)
    second = []
    for evaluation in train(task, make_run()):
        torch.rand(7)
        second.append(evaluation.logits)
    assert all(map(torch.equal, first, second))


def test_data_loading_ignores_global_random_state() -> None:
    def draw(data_seed: int) -> Splits:
        inputs, labels = torch.rand(9, 4), torch.arange(9) % 3
        return Splits((inputs, labels), (inputs, labels), (inputs, labels), classes=3)

    torch.manual_seed(1)
    first = last_logits(make_task(data=draw), make_run())
    torch.manual_seed(2)
    assert torch.equal(first, last_logits(make_task(data=draw), make_run()))


def test_global_random_state_is_preserved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for _ in train(make_task(), make_run()):
        assert torch.equal(torch.get_rng_state(), before)
        assert not torch.backends.cudnn.deterministic
        assert torch.backends.cudnn.benchmark
    assert torch.equal(torch.get_rng_state(), before)


def test_global_random_state_is_preserved_after_failure() -> None:
    def fail(hparams: Mapping[str, Any]) -> nn.Module:
        torch.rand(3)
        raise RuntimeError("no model today")

    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="no model today"):
        next(train(make_task(model=fail), make_run()))
    assert torch.equal(torch.get_rng_state(), before)


# ---- what it trains ------------------------------------------------------------------------


class RecordingLoss(SmoothingLoss):
    """The loss, writing down the progress that it is called at and each row's epsilon."""

    def __init__(self, smoothing: Smoothing, seen: list[float], used: list[Tensor]) -> None:
        super().__init__(smoothing)
        self.seen, self.used = seen, used

    def forward(self, logits: Tensor, labels: Tensor, epsilon: Tensor | None = None) -> Tensor:
        self.seen.append(self.get_buffer("progress").item())
        now = self.epsilon(logits, labels)
        assert epsilon is None or torch.equal(now, epsilon)
        self.used.append(now.expand(len(labels)))
        return super().forward(logits, labels, epsilon)


@dataclass(frozen=True)
class RecordingRun(TrainingRun):
    """A run whose loss writes down its progress and epsilon."""

    seen: list[float] = field(default_factory=list)
    used: list[Tensor] = field(default_factory=list)

    def loss(self, **kwargs: Any) -> SmoothingLoss:
        return RecordingLoss(self.smoothing, self.seen, self.used)


class RecordingModel(nn.Module):
    """A linear model, writing down the rows that it trains on and its dropout masks."""

    def __init__(self, seen: list[list[int]], masks: list[Tensor]) -> None:
        super().__init__()
        self.linear, self.seen, self.masks = nn.Linear(1, 3), seen, masks

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.seen.append(inputs[:, 0].int().tolist())
            self.masks.append(functional.dropout(torch.ones(32)))
        else:
            assert torch.is_inference_mode_enabled()
        outputs: Tensor = self.linear(inputs / ROWS)
        return outputs


def recorded(run: TrainingRun, **changes: Any) -> tuple[list[list[int]], list[Tensor]]:
    """Train on rows that hold their own number; return the batches and the masks."""
    rows, masks = list[list[int]](), list[Tensor]()
    part = torch.arange(ROWS).float()[:, None], torch.arange(ROWS) % 3
    splits = Splits(part, part, part, classes=3)
    fixed = {"model": lambda _: RecordingModel(rows, masks), "data": lambda _: splits}
    task = make_task(**fixed, **changes)
    assert len(list(train(task, run))) == EPOCHS
    return rows, masks


def test_progress_is_the_fraction_of_completed_steps() -> None:
    run = RecordingRun(Smoothing(0.1, "linear", 1.0), seed=1, data_seed=0)
    recorded(run)
    assert run.seen == pytest.approx([step / STEPS for step in range(STEPS)], abs=1e-7)


def test_epoch_order_is_a_permutation_of_seed_and_epoch() -> None:
    rows, _ = recorded(make_run(0.0, seed=1))
    assert [len(batch) for batch in rows] == [16, 16, 16, 16, 6] * EPOCHS
    epochs = [[*chain(*rows[i : i + 5])] for i in range(0, STEPS, 5)]
    assert epochs == [batch_order(1, epoch, ROWS).tolist() for epoch in range(EPOCHS)]
    assert all(sorted(epoch) == list(range(ROWS)) for epoch in epochs)
    assert all(one != other for one, other in pairwise(epochs))
    assert recorded(make_run(0.4, seed=1))[0] == rows
    assert recorded(make_run(0.0, seed=2))[0] != rows


def test_dropout_masks_depend_on_seed_epoch_and_step() -> None:
    _, masks = recorded(make_run(0.0, seed=1))
    assert len({tuple(mask.tolist()) for mask in masks}) == STEPS
    assert all(map(torch.equal, masks, recorded(make_run(0.4, seed=1))[1]))


def plain_loop(task: Task, run: TrainingRun) -> Iterator[tuple[Tensor, float]]:
    """The same training written plainly: no smoothing, no dropout, torch's own schedule."""
    splits = task.data(run.data_seed)
    (inputs, labels), (valid, _) = splits.train, splits.valid
    torch.manual_seed(derive_seed(run.seed, "init"))
    model = task.model({"dropout": 0.0})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for epoch in range(EPOCHS):
        total = 0.0
        for rows in torch.split(batch_order(run.seed, epoch, ROWS), BATCH):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(inputs[rows]), labels[rows])
            torch.autograd.backward(loss)
            optimizer.step()
            decay.step()
            total += loss.item() * len(rows)
        yield predict(model, valid), total / ROWS


def test_training_equals_a_plain_loop() -> None:
    task = make_task(optimizer=Optimizer("sgd", lr=9.0, momentum=0.1))
    hparams = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01, "dropout": 0.0}
    ours = list(train(task, make_run(0.0, hparams=hparams)))
    for (logits, train_loss), evaluation in zip(plain_loop(task, make_run()), ours, strict=True):
        torch.testing.assert_close(evaluation.logits, logits)
        assert evaluation.train_loss == pytest.approx(train_loss)
    assert [e.progress for e in ours] == [1 / 3, 2 / 3, 1.0]
    assert torch.equal(ours[0].labels, task.data(0).valid[1])


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (Optimizer("adam", weight_decay=0.1), torch.optim.Adam),
        (Optimizer("adamw", weight_decay=0.1), torch.optim.AdamW),
    ],
)
def test_selected_optimizer_makes_the_step(
    settings: Optimizer, kind: Callable[..., torch.optim.Optimizer]
) -> None:
    task = make_task(optimizer=settings, hparams={"dropout": 0.0}, epochs=1, batch_size=ROWS)
    torch.manual_seed(derive_seed(1, "init"))
    model, (inputs, labels) = make_model({"dropout": 0.0}), make_splits(0).train
    torch.autograd.backward(functional.cross_entropy(model(inputs), labels))
    kind(model.parameters(), lr=settings.lr, weight_decay=0.1).step()
    expected = predict(model, make_splits(0).valid[0])
    torch.testing.assert_close(last_logits(task, make_run(0.0)), expected)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_l1_adds_the_penaltys_gradient_to_weights_and_not_to_biases(name: str) -> None:
    settings = Optimizer(name, lr=0.1, weight_decay=0.1)
    task = make_task(optimizer=settings, hparams={"dropout": 0.0}, epochs=1, batch_size=ROWS)
    torch.manual_seed(derive_seed(1, "init"))
    model, (inputs, labels) = make_model({"dropout": 0.0}), make_splits(0).train
    penalty = sum(p.abs().sum() for name, p in model.named_parameters() if "weight" in name)
    loss = functional.cross_entropy(model(inputs), labels) + 0.03 * penalty
    torch.autograd.backward(loss)
    ModelOptimizer(settings, model.parameters()).step(0.0)
    expected = predict(model, make_splits(0).valid[0])
    ours = last_logits(task, make_run(0.0, hparams={"l1": 0.03}))
    torch.testing.assert_close(ours, expected)
    assert not torch.allclose(ours, last_logits(task, make_run(0.0)))


def test_l1_ignores_unused_parameters() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(4, 3))
    torch.autograd.backward(model[0](torch.ones(1, 4)).sum())
    add_l1(model, 0.1)
    assert model[1].weight.grad is None


# ---- augmentation --------------------------------------------------------------------------


def jitter(inputs: Tensor, hparams: Mapping[str, Any]) -> Tensor:
    """Add uniform draws; more of them than a dropout mask of `RecordingModel` takes."""
    return inputs + torch.rand(len(inputs), 50)[:, :1]


def test_augmentation_does_not_change_dropout() -> None:
    drawn, seeds = list[Tensor](), set[int]()

    def augment(inputs: Tensor, hparams: Mapping[str, Any]) -> Tensor:
        seeds.add(torch.initial_seed())
        drawn.append(jitter(inputs, hparams) - inputs)
        return inputs

    _, plain = recorded(make_run(0.0, seed=1))
    _, masks = recorded(make_run(0.0, seed=1), augment=augment)
    assert all(map(torch.equal, plain, masks))
    assert len({part[0].item() for part in drawn}) == STEPS
    first, drawn = drawn, []
    recorded(make_run(0.4, seed=1), augment=augment)
    assert all(map(torch.equal, first, drawn))
    # a seed of its own for every step, or what moves an image would be what drops a unit
    assert len(seeds) == STEPS
    assert not seeds & {s for epoch in range(EPOCHS) for s in step_seeds(1, "steps", epoch, 5)}


def test_augmentation_receives_batch_and_hyperparameters() -> None:
    seen = list[tuple[int, dict[str, Any]]]()

    def augment(inputs: Tensor, hparams: Mapping[str, Any]) -> Tensor:
        seen.append((len(inputs), dict(hparams)))
        return torch.zeros_like(inputs)

    task = make_task(augment=augment, hparams={"dropout": 0.5, "strength": 1})
    evaluations = list(train(task, make_run(0.0, hparams={"strength": 2})))
    assert seen == [(size, {"dropout": 0.5, "strength": 2}) for size in [16] * 4 + [6]] * EPOCHS
    # nothing was learned from zeros, and the validation rows stayed what they are
    assert evaluations[-1].train_loss == pytest.approx(1.0, abs=0.2)
    assert len(torch.unique(evaluations[-1].logits, dim=0)) > 1


def test_augmented_training_is_reproducible_and_resumable() -> None:
    task = make_task(augment=jitter)
    whole = last_logits(task, make_run())
    assert torch.equal(whole, last_logits(task, make_run()))
    first = next(train(task, make_run()))
    assert first.state is not None
    assert torch.equal(whole, last_logits(task, make_run(state=first.state())))
    assert not torch.equal(whole, last_logits(make_task(), make_run()))


# ---- the mean epsilon ----------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["fixed", "linear", "step", "confidence", "error"])
@pytest.mark.parametrize("convention", ["others", "uniform"])
def test_mean_epsilon_is_that_of_the_loss(schedule: str, convention: str) -> None:
    smoothing = Smoothing(0.3, schedule, 2.0, convention)
    run = RecordingRun(smoothing, seed=1, data_seed=0)
    evaluations = list(train(make_task(), run))
    share = 1.0 if convention == "others" else 2 / 3
    used = share * torch.cat(run.used).reshape(EPOCHS, ROWS).mean(1)
    means = [evaluation.mean_epsilon for evaluation in evaluations]
    assert means == pytest.approx(used.tolist())
    assert (len(set(means)) == 1) == (schedule == "fixed")


def test_without_smoothing_the_mean_epsilon_is_zero() -> None:
    assert [e.mean_epsilon for e in train(make_task(), make_run(0.0))] == [0.0] * EPOCHS


def test_evaluations_are_independent_tensors() -> None:
    evaluations: list[Evaluation] = list(train(make_task(), make_run()))
    assert not any(e.logits.is_inference() or e.logits.requires_grad for e in evaluations)
    assert not torch.equal(evaluations[0].logits, evaluations[1].logits)


def test_large_inputs_are_evaluated_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = make_model({"dropout": 0.5}), torch.rand(30, 4)
    whole = predict(model, inputs)
    monkeypatch.setattr("sweeper.training.loop.EVALUATION_ROWS", 7)
    torch.testing.assert_close(predict(model, inputs), whole)


def test_data_are_loaded_once_for_each_task_and_seed() -> None:
    loaded: list[int] = []

    def data(data_seed: int) -> Splits:
        loaded.append(data_seed)
        return make_splits(data_seed)

    task = make_task(data=data)
    for data_seed in (0, 1, 0, 1):
        list(train(task, TrainingRun(Smoothing(0.0), seed=1, data_seed=data_seed)))
    assert loaded == [0, 1]
    next(train(make_task(data=data), make_run()))
    assert loaded == [0, 1, 0]


# ---- seeds ---------------------------------------------------------------------------------


def test_derived_seeds_are_stable_across_versions() -> None:
    assert derive_seed(0, "init") == 3153501876897642621
    assert derive_seed(1, "step", 2, 3) == 8160384523205105385
    assert derive_seed("ε", 0.5, None, (1, "a")) == 5641723424759354444


def test_derived_seeds_differ_with_every_part_and_its_type() -> None:
    parts = [(), (1,), ("1",), (1.0,), (True,), (None,), (1, 2), (12,), ((1, 2),), ("1,2",)]
    seeds = {derive_seed(*part) for part in parts}
    assert len(seeds) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seed_part_without_stable_text_is_rejected() -> None:
    with pytest.raises(TypeError):
        derive_seed(0, object())


# ---- what is refused -----------------------------------------------------------------------

GOOD = torch.rand(6, 2), torch.arange(6) % 3
HOLED = torch.rand(6, 2).index_fill_(0, torch.tensor(4), float("nan"))
INFINITE = torch.rand(6, 2).index_fill_(0, torch.tensor(2), float("-inf"))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            (HOLED, GOOD[1]),
            "the inputs of row 4 contain nan; inputs must be finite: drop the row or impute the "
            "value",
        ),
        (
            (INFINITE, GOOD[1]),
            "the inputs of row 2 contain -inf; inputs must be finite: drop the row or impute the "
            "value",
        ),
        (
            (GOOD[0], torch.tensor([0, 1, 2, 3, 0, 0])),
            "the label of row 3 is 3; allowed: 0 to 2 (3 classes); number the labels from 0, "
            "or change classes",
        ),
        (
            (GOOD[0], torch.tensor([0, 1, -1, 9, 0, 0])),
            "the label of row 2 is -1; allowed: 0 to 2 (3 classes); number the labels from 0, "
            "or change classes",
        ),
        (
            (GOOD[0], GOOD[1].float()),
            "labels must be integer class numbers, got torch.float32; use labels.long()",
        ),
        (
            (GOOD[0], GOOD[1][:5]),
            "inputs have shape (6, 2) and labels (5,); expected inputs (N, ...) and one "
            "label per row (N,)",
        ),
        (
            (GOOD[0], GOOD[1][:, None]),
            "inputs have shape (6, 2) and labels (6, 1); expected inputs (N, ...) and one "
            "label per row (N,)",
        ),
        (
            (GOOD[0][:0], GOOD[1][:0]),
            "no rows; each of train, valid, test needs at least one",
        ),
        (
            (GOOD[0].numpy(), GOOD[1]),
            "inputs must be a tensor, got ndarray; convert it with torch.as_tensor",
        ),
        (
            (GOOD[0], GOOD[1].tolist()),
            "labels must be a tensor, got list; convert it with torch.as_tensor",
        ),
    ],
)
@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_data_that_cannot_be_trained_on_are_refused(split: str, part: Any, message: str) -> None:
    parts = {"train": GOOD, "valid": GOOD, "test": GOOD, split: part}
    with pytest.raises(SweeperError) as caught:
        Splits(**parts, classes=3)
    assert str(caught.value) == f"{split}: {message}"


def test_narrow_labels_are_checked_and_trained_on() -> None:
    narrow = GOOD[0], GOOD[1].to(torch.uint8)
    splits = Splits(narrow, narrow, narrow, classes=257)  # 257 is 1 in eight bits
    assert splits.train[1].dtype == torch.int64


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Optimizer("adm"),
            "unknown optimizer 'adm' (did you mean 'adam'?); allowed: adam, adamw, sgd, rmsprop",
        ),
        (
            lambda: Optimizer(decay="cosin"),
            "unknown decay 'cosin' (did you mean 'cosine'?); allowed: cosine, constant",
        ),
        (lambda: Optimizer(lr=0.0), "lr must be a finite number > 0, got 0.0"),
        (lambda: Optimizer(lr=float("inf")), "lr must be a finite number > 0, got inf"),
        (lambda: Optimizer(lr=float("nan")), "lr must be a finite number > 0, got nan"),
        (
            lambda: Optimizer(weight_decay=-1.0),
            "weight_decay must be a finite number >= 0, got -1.0",
        ),
        (lambda: Optimizer(l1=-1e-4), "l1 must be a finite number >= 0, got -0.0001"),
        (
            lambda: Optimizer("sgd", momentum=1.0),
            "momentum must be a finite number in [0, 1), got 1.0",
        ),
        (
            lambda: Optimizer(momentum=0.9),
            "momentum is 0.9, but adam has no momentum; use sgd or rmsprop, or set it to 0",
        ),
        (lambda: make_task(classes=1), "classes must be an integer >= 2, got 1"),
        (lambda: make_task(epochs=0), "epochs must be an integer >= 1, got 0"),
        (lambda: make_task(batch_size=2.5), "batch_size must be an integer >= 1, got 2.5"),
        (
            lambda: make_task(hparams={"lr": 1.0}),
            "hparams contains lr, which is reserved for the optimizer; rename or remove it",
        ),
        (
            lambda: make_task(label_source={"train": "hand"}),
            "label_source has the keys train; it must describe the labels of each of "
            "train, valid, test",
        ),
    ],
)
def test_settings_that_cannot_be_trained_are_refused(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()


@pytest.mark.parametrize(
    ("task", "hparams", "message"),
    [
        (
            make_task(),
            {"dropot": 0.1},
            "task 'points' has no hyperparameter 'dropot' (did you mean 'dropout'?); "
            "allowed: beta1, beta2, dropout, l1, lr, momentum, optimizer, weight_decay",
        ),
        (
            make_task(classes=4),
            {},
            "task 'points': data(0) returned Splits with 3 classes; "
            "allowed: Splits(train, valid, test, classes=4)",
        ),
        (
            make_task(data=lambda _: None),
            {},
            "task 'points': data(0) returned NoneType; "
            "allowed: Splits(train, valid, test, classes=3)",
        ),
        (
            make_task(model=lambda _: nn.Linear(4, 5)),
            {},
            "task 'points': the model returned outputs of shape (30, 5); "
            "allowed: (rows, 3), one logit per class",
        ),
    ],
)
def test_a_run_that_does_not_fit_the_task_is_refused(
    task: Task, hparams: dict[str, Any], message: str
) -> None:
    with pytest.raises(SweeperError) as caught:
        next(train(task, make_run(hparams=hparams)))
    assert str(caught.value) == message


def test_searchable_hyperparameters() -> None:
    of_optimizer = {"optimizer", "lr", "weight_decay", "l1", "momentum", "beta1", "beta2"}
    assert make_task().accepts() == {*of_optimizer, "dropout"}
    assert make_task(hparams={}).accepts() == of_optimizer


def test_the_learning_rate_over_progress() -> None:
    cosine = Optimizer(lr=2.0)
    assert [cosine.lr_at(u) for u in (0.0, 0.5, 1.0)] == pytest.approx([2.0, 1.0, 0.0])
    assert Optimizer(lr=2.0, decay="constant").lr_at(0.9) == 2.0


# ---- the other splits ------------------------------------------------------------------------


def test_other_splits_use_the_model_of_that_epoch() -> None:
    task, run = make_task(), make_run()
    quiet = [evaluation.logits for evaluation in train(task, run)]
    asked: list[Tensor] = []
    for evaluation, expected in zip(train(task, run), quiet, strict=True):
        parts = {name: of() for name, of in evaluation.splits.items()}
        assert torch.equal(evaluation.logits, expected)
        assert {name: len(labels) for name, (_, labels) in parts.items()} == {
            "train": ROWS,
            "test": 30,
        }
        asked.append(parts["test"][0])
        assert torch.equal(parts["test"][1], make_splits(0).test[1])
    assert not torch.equal(asked[0], asked[-1])
