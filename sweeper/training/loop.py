"""The built-in training loop: trains a task and yields an evaluation after every epoch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from sweeper.errors import SweeperError
from sweeper.smoothing import SmoothingLoss, to_others
from sweeper.smoothing.conventions import UNIFORM
from sweeper.training.dropout import DropoutDraws, share_draws
from sweeper.training.precision import FLOAT32, autocast, wide
from sweeper.training.random_state import restored_random_state, seed_global
from sweeper.training.run import Evaluation, TrainingRun
from sweeper.training.seeds import derive_seed
from sweeper.training.task import Optimizer, Rows, Splits, Task
from sweeper.training.updates import ModelOptimizer

EVALUATION_ROWS = 1024  # rows per forward pass without gradients; bounds the memory


@dataclass(frozen=True)
class TrainingState:
    """The data, model, loss and optimizer state of a training run in progress.

    It contains no random state: all random numbers are derived from (seed, epoch, step).
    `hparams` contains all hyperparameters of the model.
    """

    run: TrainingRun
    train: Rows
    valid: Rows
    test: Rows
    model: nn.Module
    loss: SmoothingLoss
    updates: ModelOptimizer
    hparams: Mapping[str, Any]
    draws: DropoutDraws
    precision: str


def train(task: Task, run: TrainingRun) -> Iterator[Evaluation]:
    """Train a task once and yield an evaluation on the validation split after every epoch.

    All random numbers are derived from the two seeds of the run. The same run gives bitwise equal
    logits, regardless of what else the process trains and of the epoch from which it resumes. The
    global random state is restored. Raises SweeperError for hyperparameters or data that do not
    match the task.
    """
    with restored_random_state(run.device):
        settings, fit = start(task, run)
    done = 0 if run.state is None else restore(fit, run.state)
    for epoch in range(done, task.epochs):
        with restored_random_state(run.device):
            train_loss, mean_epsilon = train_epoch(task, settings, fit, epoch)
            logits = predict(fit.model, fit.valid[0], task.precision)
        check_logits(task, logits)
        yield Evaluation(
            logits,
            fit.valid[1],
            progress=(epoch + 1) / task.epochs,
            train_loss=train_loss,
            state=partial(state_of, fit, epoch + 1),
            splits={
                "train": partial(predict_rows, fit, fit.train),
                "test": partial(predict_rows, fit, fit.test),
            },
            mean_epsilon=mean_epsilon,
        )


def start(task: Task, run: TrainingRun) -> tuple[Optimizer, TrainingState]:
    """Return the optimizer settings and a training run at its first step."""
    settings, hparams = task.settings(run.hparams)
    train_rows, valid_rows, test_rows = rows_on_device(task, run.data_seed, run.device)
    model = new_model(task, hparams, run)
    draws = share_draws(model)
    updates = ModelOptimizer(settings, model.parameters())
    rows = train_rows, valid_rows, test_rows
    fit = TrainingState(run, *rows, model, run.loss(), updates, hparams, draws, task.precision)
    return settings, fit


def new_model(task: Task, hparams: Mapping[str, Any], run: TrainingRun) -> nn.Module:
    """Return the initialized model of a run on the device of the run."""
    seed_global(derive_seed(run.seed, "init"), run.device)
    return task.model(hparams).to(run.device)


def state_of(fit: TrainingState, done: int) -> dict[str, Any]:
    """Return the state to save after `done` epochs; tensors are not copied."""
    return {
        "epochs": done,
        "model": fit.model.state_dict(),
        "optimizer": {"state": fit.updates.history()},
    }


def restore(fit: TrainingState, state: Mapping[str, Any]) -> int:
    """Load a state of `state_of` into a new training run; return the number of epochs done."""
    fit.model.load_state_dict(state["model"])
    fit.updates.restore(state["optimizer"]["state"])
    return int(state["epochs"])


@lru_cache(maxsize=4)  # the split of the search, and some of the splits of a confirmation
def rows_on_device(task: Task, data_seed: int, device: torch.device) -> tuple[Rows, ...]:
    """Return the rows of each of `SPLITS` on a device; cached per process."""
    splits = load_splits(task, data_seed)
    rows: tuple[Rows, ...] = (splits.train, splits.valid, splits.test)
    return tuple((inputs.to(device), labels.to(device)) for inputs, labels in rows)


def load_splits(task: Task, data_seed: int) -> Splits:
    """Return the data of a task.

    Raises SweeperError if `task.data` does not return `Splits` with the classes of the task.
    """
    cpu = torch.device("cpu")
    with restored_random_state(cpu):
        seed_global(derive_seed(data_seed, "data"), cpu)
        splits = task.data(data_seed)
    if not isinstance(splits, Splits) or splits.classes != task.classes:
        returned = (
            f"Splits with {splits.classes} classes"
            if isinstance(splits, Splits)
            else type(splits).__name__
        )
        raise SweeperError(
            f"task {task.name!r}: data({data_seed}) returned {returned}; "
            f"allowed: Splits(train, valid, test, classes={task.classes})"
        )
    return splits


def train_epoch(
    task: Task, settings: Optimizer, fit: TrainingState, epoch: int
) -> tuple[float, float]:
    """Train one epoch (counted from 0); return the mean loss and the mean epsilon over its rows.

    The epsilon is in the convention `others`.
    """
    batches = epoch_batches(fit, epoch, task.batch_size)
    seeds = step_seeds(fit.run.seed, "steps", epoch, len(batches))
    inputs = epoch_inputs(task, fit, epoch, batches)
    steps = task.epochs * len(batches)
    losses, epsilons = list[Tensor](), list[Tensor]()
    fit.model.train()
    for step, (rows, seed, batch) in enumerate(zip(batches, seeds, inputs, strict=True)):
        progress = (epoch * len(batches) + step) / steps
        seed_global(seed, fit.run.device)  # after the augmentation, which seeds differently
        fit.draws.begin([seed])
        loss, epsilon = train_step(fit, settings, batch, fit.train[1][rows], progress)
        losses.append(loss)
        epsilons.append(epsilon)
    sizes = torch.tensor([len(rows) for rows in batches], device=fit.run.device)
    mean_epsilon = weighted_mean(torch.stack(epsilons), sizes)
    loss_over_rows = weighted_mean(torch.stack(losses), sizes)
    return loss_over_rows, epsilon_in_others(mean_epsilon, task.classes, fit.run)


def weighted_mean(values: Tensor, sizes: Tensor) -> float:
    """Return the mean over all rows, from the means (B,) and the sizes (B,) of the batches."""
    return float((values * sizes).sum() / sizes.sum())


def epsilon_in_others(epsilon: float, classes: int, run: TrainingRun) -> float:
    """Convert an epsilon of a run to the convention `others`."""
    uniform = run.smoothing.convention == UNIFORM
    return to_others(epsilon, classes) if uniform else epsilon


def epoch_batches(fit: TrainingState, epoch: int, batch_size: int) -> tuple[Tensor, ...]:
    """Return the row numbers of each batch of an epoch; the last batch may be smaller."""
    order = batch_order(fit.run.seed, epoch, len(fit.train[1]))
    return torch.split(order.to(fit.run.device), batch_size)


def batch_order(seed: int, epoch: int, rows: int) -> Tensor:
    """Return the order of the rows in an epoch, a permutation of 0..rows-1, on the CPU."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
    return torch.randperm(rows, generator=generator)


def epoch_inputs(
    task: Task, fit: TrainingState, epoch: int, batches: tuple[Tensor, ...]
) -> Iterator[Tensor]:
    """Yield the inputs of each batch, augmented if the task has an augmentation.

    Augmentation uses separate seeds, so that it does not change the dropout masks.
    """
    if task.augment is None:
        yield from (fit.train[0][rows] for rows in batches)
        return
    seeds = step_seeds(fit.run.seed, "augment", epoch, len(batches))
    for rows, seed in zip(batches, seeds, strict=True):
        seed_global(seed, fit.run.device)
        yield task.augment(fit.train[0][rows], fit.hparams)


def step_seeds(seed: int, purpose: str, epoch: int, steps: int) -> list[int]:
    """Return one seed per step of an epoch; `purpose` is "steps" (for dropout) or "augment"."""
    # One derive_seed per step would take 4% of a digits trial's time; this takes 1%.
    generator = torch.Generator().manual_seed(derive_seed(seed, purpose, epoch))
    return torch.randint(2**62, (steps,), generator=generator).tolist()


def train_step(
    fit: TrainingState, settings: Optimizer, inputs: Tensor, labels: Tensor, progress: float
) -> tuple[Tensor, Tensor]:
    """Make one optimizer step; return its loss and its mean epsilon as tensors on the device."""
    fit.loss.progress = progress
    with autocast(fit.precision, fit.run.device):
        logits = wide(fit.precision, fit.model(inputs))
        epsilon = fit.loss.epsilon(logits, labels)
        loss: Tensor = fit.loss(logits, labels, epsilon)
    fit.updates.clear()
    torch.autograd.backward(loss)
    if settings.l1:
        add_l1(fit.model, settings.l1)
    fit.updates.step(progress)
    return loss.detach(), epsilon.mean() if epsilon.ndim else epsilon


@torch.no_grad()
def add_l1(model: nn.Module, l1: float) -> None:
    """Add l1·sign(w) to the gradients of parameters with two or more dimensions."""
    for weight in model.parameters():
        if weight.ndim > 1 and weight.grad is not None:
            weight.grad.add_(weight.sign(), alpha=l1)


def predict(model: nn.Module, inputs: Tensor, precision: str = FLOAT32) -> Tensor:
    """Return the logits (N, K) of a model in evaluation mode."""
    model.eval()
    with torch.inference_mode(), autocast(precision, inputs.device):
        parts = [wide(precision, model(part)) for part in torch.split(inputs, EVALUATION_ROWS)]
    # Concatenated outside of inference mode, so that the caller gets normal tensors.
    return torch.cat(parts)


def predict_rows(fit: TrainingState, rows: Rows) -> Rows:
    """Return the model's logits (N, K) for rows, and the labels (N,)."""
    with restored_random_state(fit.run.device):
        return predict(fit.model, rows[0], fit.precision), rows[1]


def check_logits(task: Task, logits: Tensor) -> None:
    """Raise SweeperError unless the logits have shape (N, K) with one logit per class."""
    if logits.ndim != 2 or logits.shape[1] != task.classes:
        raise SweeperError(
            f"task {task.name!r}: the model returned outputs of shape {tuple(logits.shape)}; "
            f"allowed: (rows, {task.classes}), one logit per class"
        )
