"""The ready training loop: from a declared task and one run to an evaluation every epoch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from sweeper.errors import SweeperError
from sweeper.smoothing import SmoothingLoss, to_others
from sweeper.smoothing.conventions import UNIFORM
from sweeper.training.dropout import Draws, share_draws
from sweeper.training.run import Evaluation, TrainingRun
from sweeper.training.seeding import derive_seed, own_randomness, seed_global
from sweeper.training.task import Optimiser, Rows, Splits, Task
from sweeper.training.updates import Updates

EVALUATION_ROWS = 1024  # rows a forward pass without gradients; bounds its memory


@dataclass(frozen=True)
class Fit:
    """A training under way: everything that changes, beside the epoch's number.

    Randomness is no part of it: every draw follows from (seed, epoch, step). `hparams` are the
    model's, all of them.
    """

    run: TrainingRun
    train: Rows
    valid: Rows
    test: Rows
    model: nn.Module
    loss: SmoothingLoss
    updates: Updates
    hparams: Mapping[str, Any]
    draws: Draws


def train(task: Task, run: TrainingRun) -> Iterator[Evaluation]:
    """Train a task once and yield its state on the validation split after every epoch.

    Everything random follows from the run's two seeds: the same run gives the same logits to
    the last bit, whatever else the process trains and from whichever epoch it goes on, and the
    caller's random state is left alone. Raises SweeperError for hyperparameters or data that do
    not fit the task.
    """
    with own_randomness(run.device):
        settings, fit = start(task, run)
    done = 0 if run.state is None else restore(fit, run.state)
    for epoch in range(done, task.epochs):
        with own_randomness(run.device):
            train_loss, mean_epsilon = train_epoch(task, settings, fit, epoch)
            logits = predict(fit.model, fit.valid[0])
        check_logits(task, logits)
        yield Evaluation(
            logits,
            fit.valid[1],
            progress=(epoch + 1) / task.epochs,
            train_loss=train_loss,
            state=partial(state_of, fit, epoch + 1),
            splits={"train": partial(ask, fit, fit.train), "test": partial(ask, fit, fit.test)},
            mean_epsilon=mean_epsilon,
        )


def start(task: Task, run: TrainingRun) -> tuple[Optimiser, Fit]:
    """Return the optimiser's settings and a training at its first step."""
    settings, hparams = task.settings(run.hparams)
    train_rows, valid_rows, test_rows = rows_on(task, run.data_seed, run.device)
    model = fresh_model(task, hparams, run)
    draws = share_draws(model)
    updates = Updates(settings, model.parameters())
    rows = train_rows, valid_rows, test_rows
    return settings, Fit(run, *rows, model, run.loss(), updates, hparams, draws)


def fresh_model(task: Task, hparams: Mapping[str, Any], run: TrainingRun) -> nn.Module:
    """Return a run's model at its start, on its device."""
    seed_global(derive_seed(run.seed, "init"), run.device)
    return task.model(hparams).to(run.device)


def state_of(fit: Fit, done: int) -> dict[str, Any]:
    """Return all that changes in a training, after so many epochs; not copied."""
    return {
        "epochs": done,
        "model": fit.model.state_dict(),
        "optimiser": {"state": fit.updates.history()},
    }


def restore(fit: Fit, state: Mapping[str, Any]) -> int:
    """Take a fresh training to a state that `state_of` gave; return the epochs behind it."""
    fit.model.load_state_dict(state["model"])
    fit.updates.restore(state["optimiser"]["state"])
    return int(state["epochs"])


@lru_cache(maxsize=4)  # the search's split, and a few that confirmation goes round
def rows_on(task: Task, data_seed: int, device: torch.device) -> tuple[Rows, ...]:
    """Return the rows of each of `SPLITS` on a device, loaded once a process."""
    splits = load_splits(task, data_seed)
    rows: tuple[Rows, ...] = (splits.train, splits.valid, splits.test)
    return tuple((inputs.to(device), labels.to(device)) for inputs, labels in rows)


def load_splits(task: Task, data_seed: int) -> Splits:
    """Return the task's data, checked.

    Raises SweeperError for data that are no `Splits` or have other classes than the task.
    """
    cpu = torch.device("cpu")
    with own_randomness(cpu):
        seed_global(derive_seed(data_seed, "data"), cpu)
        splits = task.data(data_seed)
    if not isinstance(splits, Splits) or splits.classes != task.classes:
        given = splits.classes if isinstance(splits, Splits) else type(splits).__name__
        raise SweeperError(
            f"task {task.name!r}: data({data_seed}) gave {given}; "
            f"allowed: Splits(train, valid, test, classes={task.classes})"
        )
    return splits


def train_epoch(task: Task, settings: Optimiser, fit: Fit, epoch: int) -> tuple[float, float]:
    """Train one epoch (counted from 0); return the means over its rows of loss and epsilon.

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
        seed_global(seed, fit.run.device)  # after the augmentation's draws
        fit.draws.begin([seed])
        loss, epsilon = train_step(fit, settings, batch, fit.train[1][rows], progress)
        losses.append(loss)
        epsilons.append(epsilon)
    sizes = torch.tensor([len(rows) for rows in batches], device=fit.run.device)
    mean_epsilon = weighted_mean(torch.stack(epsilons), sizes)
    loss_over_rows = weighted_mean(torch.stack(losses), sizes)
    return loss_over_rows, in_others(mean_epsilon, task.classes, fit.run)


def weighted_mean(values: Tensor, sizes: Tensor) -> float:
    """Return the mean over an epoch's rows of what each batch has as its mean."""
    return float((values * sizes).sum() / sizes.sum())


def in_others(epsilon: float, classes: int, run: TrainingRun) -> float:
    """Return a run's epsilon in the convention `others`."""
    uniform = run.smoothing.convention == UNIFORM
    return to_others(epsilon, classes) if uniform else epsilon


def epoch_batches(fit: Fit, epoch: int, batch_size: int) -> tuple[Tensor, ...]:
    """Return the row numbers of an epoch's batches; the last one holds what is left over."""
    order = batch_order(fit.run.seed, epoch, len(fit.train[1]))
    return torch.split(order.to(fit.run.device), batch_size)


def batch_order(seed: int, epoch: int, rows: int) -> Tensor:
    """Return the order of the rows in an epoch: a permutation of 0..rows-1, on the CPU."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
    return torch.randperm(rows, generator=generator)


def epoch_inputs(task: Task, fit: Fit, epoch: int, batches: tuple[Tensor, ...]) -> Iterator[Tensor]:
    """Yield the inputs of each batch, augmented where the task says how.

    Augmentation draws from seeds of its own: dropout masks are the same with it and without.
    """
    if task.augment is None:
        yield from (fit.train[0][rows] for rows in batches)
        return
    seeds = step_seeds(fit.run.seed, "augment", epoch, len(batches))
    for rows, seed in zip(batches, seeds, strict=True):
        seed_global(seed, fit.run.device)
        yield task.augment(fit.train[0][rows], fit.hparams)


def step_seeds(seed: int, purpose: str, epoch: int, steps: int) -> list[int]:
    """Return the seeds of an epoch's steps: "steps", from which dropout draws, or "augment"."""
    # drawn together: a derive_seed a step costs a digits trial 4 % of its time, this 1 %
    generator = torch.Generator().manual_seed(derive_seed(seed, purpose, epoch))
    return torch.randint(2**62, (steps,), generator=generator).tolist()


def train_step(
    fit: Fit, settings: Optimiser, inputs: Tensor, labels: Tensor, progress: float
) -> tuple[Tensor, Tensor]:
    """Make one step; return its loss and its mean epsilon, still on the device."""
    fit.loss.progress = progress
    logits = fit.model(inputs)
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
    """Add l1·sign(w) to the gradients: of weights alone, as `Optimiser` says."""
    for weight in model.parameters():
        if weight.ndim > 1 and weight.grad is not None:
            weight.grad.add_(weight.sign(), alpha=l1)


def predict(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return the logits (N, K) of a model in evaluation mode."""
    model.eval()
    with torch.inference_mode():
        parts = [model(part) for part in torch.split(inputs, EVALUATION_ROWS)]
    # joined outside, so that the caller gets ordinary tensors
    return torch.cat(parts)


def ask(fit: Fit, rows: Rows) -> Rows:
    """Return the model's logits (N, K) for rows, and their labels."""
    with own_randomness(fit.run.device):
        return predict(fit.model, rows[0]), rows[1]


def check_logits(task: Task, logits: Tensor) -> None:
    """Raise SweeperError unless there is one logit a class for every row."""
    if logits.ndim != 2 or logits.shape[1] != task.classes:
        raise SweeperError(
            f"task {task.name!r}: the model gives outputs of shape {tuple(logits.shape)}; "
            f"allowed: (rows, {task.classes}), one logit a class"
        )
