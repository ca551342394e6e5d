"""Training loops with one planted fault each; the name of a function says which."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from planted_data import CLASSES, EPOCHS, batches, examples, network, split, step
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from sweeper import TrainingRun

EPSILON = float(os.environ.get("MY_EPSILON", "0.1"))
Criterion = Callable[[Tensor, Tensor], Tensor]


def loop(
    run: TrainingRun,
    criterion: Criterion,
    rows: tuple[Tensor, ...],
    model: nn.Module | None = None,
    mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = lambda x, y: (x, y),
    **reported: Callable[[Tensor, Tensor], Any],
) -> None:
    """Train, and report the logits of validation; the other functions call it."""
    x, y, valid_x, valid_y = rows
    model = network(run.seed) if model is None else model
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for epoch in range(EPOCHS):
        model.train()
        for batch in batches(x, y, epoch):
            inputs, targets = mix(*batch)
            step(criterion(model(inputs), targets), optimizer)
        model.eval()
        with torch.no_grad():
            logits = model(valid_x)
            extra = {name: function(logits, valid_y) for name, function in reported.items()}
        run.report(logits, valid_y, progress=(epoch + 1) / EPOCHS, extra=extra)


# ---- the loss ----------------------------------------------------------------------------


def argument_ignored(run: TrainingRun, smoothing: float = 0.1) -> None:
    loop(run, nn.CrossEntropyLoss(), split(run.data_seed))


def constant_smoothing(run: TrainingRun) -> None:
    loop(run, nn.CrossEntropyLoss(label_smoothing=0.1), split(run.data_seed))


def added_smoothing(run: TrainingRun) -> None:
    """The smoothing of the trial is added to one that was there before."""
    epsilon = run.smoothing.label_smoothing(CLASSES)
    loop(run, nn.CrossEntropyLoss(label_smoothing=0.05 + epsilon), split(run.data_seed))


def read_at_import(run: TrainingRun) -> None:
    def criterion(logits: Tensor, labels: Tensor) -> Tensor:
        log_p = logits.log_softmax(1)
        nll = -log_p.gather(1, labels.unsqueeze(1)).squeeze(1)
        loss: Tensor = ((1 - EPSILON) * nll - EPSILON * log_p.mean(1)).mean()
        return loss

    loop(run, criterion, split(run.data_seed))


def mixed(smoothing: float) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return a mixup with built-in smoothing."""
    generator = np.random.default_rng(1)

    def mix(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        share = float(generator.beta(0.4, 0.4))
        targets = (1 - smoothing) * F.one_hot(y, CLASSES) + smoothing / CLASSES
        return share * x + (1 - share) * x.flip(0), share * targets + (1 - share) * targets.flip(0)

    return mix


def smoothing_in_mixup(run: TrainingRun) -> None:
    loop(run, run.loss(), split(run.data_seed), mix=mixed(0.1))


def wrong_criterion(run: TrainingRun) -> None:
    """The smoothing reaches the criterion of validation, and not that of training."""
    epsilon = run.smoothing.label_smoothing(CLASSES)
    evaluate = nn.CrossEntropyLoss(label_smoothing=epsilon)
    loop(run, nn.CrossEntropyLoss(), split(run.data_seed), val_loss=evaluate)


def auxiliary_criterion(run: TrainingRun) -> None:
    """The smoothing reaches an auxiliary task (the parity of the label) only."""
    parity, smoothed = nn.Linear(CLASSES, 2), run.loss()

    def criterion(logits: Tensor, labels: Tensor) -> Tensor:
        auxiliary: Tensor = smoothed(parity(logits), labels % 2)
        return F.cross_entropy(logits, labels) + 0.3 * auxiliary

    loop(run, criterion, split(run.data_seed))


# ---- validation --------------------------------------------------------------------------


def smoothed_validation(run: TrainingRun) -> None:
    loss = run.loss()
    loop(run, loss, split(run.data_seed), val_loss=loss)


def constant_smoothed_validation(run: TrainingRun) -> None:
    evaluate = nn.CrossEntropyLoss(label_smoothing=0.1)
    loop(run, run.loss(), split(run.data_seed), valid_loss=evaluate)


def shuffled_validation(run: TrainingRun) -> None:
    x, y, valid_x, valid_y = split(run.data_seed)
    loader = DataLoader(TensorDataset(valid_x, valid_y), batch_size=50, shuffle=True)
    model, loss = network(run.seed), run.loss()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for epoch in range(EPOCHS):
        for inputs, labels in batches(x, y, epoch):
            step(loss(model(inputs), labels), optimizer)
        with torch.no_grad():
            outputs = [(model(inputs), labels) for inputs, labels in loader]
        run.report(iter(outputs), progress=(epoch + 1) / EPOCHS)


def redrawn_split(run: TrainingRun) -> None:
    loop(run, run.loss(), split(int(np.random.default_rng().integers(2**31))))


def redrawn_stratified_split(run: TrainingRun) -> None:
    x, y = examples()
    order = torch.from_numpy(np.random.default_rng().permutation(len(y)))
    groups = [order[y[order] == label] for label in range(CLASSES)]
    train = torch.cat([group[len(group) // 3 :] for group in groups])
    valid = torch.cat([group[: len(group) // 3] for group in groups])
    loop(run, run.loss(), (x[train], y[train], x[valid], y[valid]))


def softmax_outputs(run: TrainingRun) -> None:
    def criterion(probabilities: Tensor, labels: Tensor) -> Tensor:
        value: Tensor = loss(probabilities.log(), labels)
        return value

    model, loss = nn.Sequential(network(run.seed), nn.Softmax(1)), run.loss()
    loop(run, criterion, split(run.data_seed), model)


def training_mode(run: TrainingRun) -> None:
    x, y, valid_x, valid_y = split(run.data_seed)
    model, loss = network(run.seed, dropout=0.3), run.loss()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for epoch in range(EPOCHS):
        for inputs, labels in batches(x, y, epoch):
            step(loss(model(inputs), labels), optimizer)
        with torch.no_grad():
            run.report(model(valid_x), valid_y, progress=(epoch + 1) / EPOCHS)


# ---- data --------------------------------------------------------------------------------


def duplicated_rows(run: TrainingRun) -> None:
    """The data set has some examples twice, and is split afterwards."""
    x, y = examples()
    x, y = torch.cat([x, x[:100]]), torch.cat([y, y[:100]])
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(run.data_seed))
    train, valid = order[:400], order[400:]
    loop(run, run.loss(), (x[train], y[train], x[valid], y[valid]))


def validates_on_training(run: TrainingRun) -> None:
    x, y, _, _ = split(run.data_seed)
    loop(run, run.loss(), (x, y, x, y))


def missing_class(run: TrainingRun) -> None:
    """The rows are sorted by class, and not shuffled before the split."""
    x, y = examples()
    order = y.argsort(stable=True)
    x, y = x[order], y[order]
    loop(run, run.loss(), (x[200:], y[200:], x[:200], y[:200]))


# ---- without a fault ---------------------------------------------------------------------


def clean(run: TrainingRun) -> None:
    loop(run, run.loss(), split(run.data_seed), val_loss=F.cross_entropy)


def clean_mixup(run: TrainingRun) -> None:
    loop(run, run.loss(), split(run.data_seed), mix=mixed(0.0))


def clean_class_weights(run: TrainingRun) -> None:
    weight = torch.linspace(0.5, 2.0, CLASSES)
    loss = run.loss(weight=weight)
    loop(
        run,
        loss,
        split(run.data_seed),
        val_loss=lambda logits, labels: F.cross_entropy(logits, labels, weight=weight),
    )


def clean_noisy(run: TrainingRun) -> None:
    """Dropout and the initial weights have other random numbers in each run."""
    seed = int(np.random.default_rng().integers(2**31))
    loop(run, run.loss(), split(run.data_seed), network(seed, dropout=0.3))


def clean_noisy_custom(run: TrainingRun) -> None:
    """As above, with a loss whose gradient shows nothing: the sigmoids of each class."""
    seed = int(np.random.default_rng().integers(2**31))
    epsilon = run.smoothing.epsilon

    def criterion(logits: Tensor, labels: Tensor) -> Tensor:
        targets = (1 - epsilon) * F.one_hot(labels, CLASSES) + epsilon / CLASSES
        return F.binary_cross_entropy_with_logits(logits, targets)

    loop(run, criterion, split(run.data_seed), network(seed, dropout=0.3))


def clean_log_softmax(run: TrainingRun) -> None:
    model = nn.Sequential(network(run.seed), nn.LogSoftmax(1))
    loop(run, run.loss(), split(run.data_seed), model)


def clean_focal(run: TrainingRun) -> None:
    loss = run.loss(reduction="none")

    def criterion(logits: Tensor, labels: Tensor) -> Tensor:
        p = logits.softmax(1).gather(1, labels.unsqueeze(1)).squeeze(1).detach()
        value: Tensor = ((1 - p) ** 2 * loss(logits, labels)).mean()
        return value

    loop(run, criterion, split(run.data_seed))


def clean_binary(run: TrainingRun) -> None:
    x, y, valid_x, valid_y = split(run.data_seed)
    torch.manual_seed(run.seed)
    loop(run, run.loss(), (x, y % 2, valid_x, valid_y % 2), nn.Linear(20, 2))
