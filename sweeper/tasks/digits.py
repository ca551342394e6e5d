"""Handwritten digits: 1,797 real images of 8x8 pixels, which scikit-learn carries."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn

from sweeper.errors import nearest
from sweeper.training.seeding import derive_seed
from sweeper.training.task import Optimiser, Rows, Splits, Task

CLASSES = 10
BRIGHTEST = 16.0
Model = Literal["mlp", "cnn"]
Numbers = NDArray[np.int64]


def digits(*, label_noise: float = 0.0, train_fraction: float = 1.0, model: Model = "mlp") -> Task:
    """Return the digits task: 60 % of each class to train, 20 % to validate, 20 % to test.

    `label_noise` in [0, 1] is the share of training labels that another class replaces,
    drawn uniformly; validation and test labels stay as they are. `train_fraction` in (0, 1] is
    the share of the training rows that is kept, class by class. Raises ValueError for others.
    """
    _check_share("label_noise", label_noise, "a number from 0 to 1", zero=True)
    _check_share("train_fraction", train_fraction, "a number above 0, up to 1", zero=False)
    if model not in get_args(Model):
        near = nearest(str(model), get_args(Model))
        raise ValueError(f"model is {model!r}{near}; allowed: {', '.join(get_args(Model))}")
    return Task(
        name="digits",
        classes=CLASSES,
        model=mlp if model == "mlp" else cnn,
        data=partial(digits_splits, label_noise=label_noise, train_fraction=train_fraction),
        optimiser=Optimiser(lr=3e-3),
        epochs=40,
        batch_size=64,
        hparams={"width": 128 if model == "mlp" else 16, "dropout": 0.0},
        label_source=_label_source(label_noise),
    )


def _check_share(key: str, given: Any, allowed: str, *, zero: bool) -> None:
    number = isinstance(given, int | float) and not isinstance(given, bool)
    if not number or not 0 <= given <= 1 or (given == 0 and not zero):
        raise ValueError(f"{key} is {given!r}; allowed: {allowed}")


def mlp(hparams: Mapping[str, Any]) -> nn.Module:
    """Return two hidden layers of `width` units, each followed by `dropout`."""
    width, dropout = int(hparams["width"]), float(hparams["dropout"])
    return nn.Sequential(
        nn.Linear(64, width),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(width, CLASSES),
    )


def cnn(hparams: Mapping[str, Any]) -> nn.Module:
    """Return two convolutions, of `width` and twice as many channels, and a linear layer."""
    width, dropout = int(hparams["width"]), float(hparams["dropout"])
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(2 * width * 4 * 4, CLASSES),
    )


def digits_splits(data_seed: int, *, label_noise: float, train_fraction: float) -> Splits:
    """Return the images in [0, 1], (N, 64), split by class with the given seed."""
    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(derive_seed(data_seed, "split"))
    train, valid, test = split_by_class(labels, rng)
    train = _first_of_each_class(train, labels, train_fraction)
    noisy = labels.copy()
    noisy[train] = replace_labels(labels[train], label_noise, data_seed)
    return Splits(
        _rows(images, noisy, train),
        _rows(images, labels, valid),
        _rows(images, labels, test),
        CLASSES,
    )


def split_by_class(labels: Numbers, rng: np.random.Generator) -> tuple[Numbers, Numbers, Numbers]:
    """Return the row numbers of 60, 20 and 20 % of each class, each part in random order."""
    parts: tuple[list[Numbers], ...] = ([], [], [])
    for label in range(CLASSES):
        rows = rng.permutation(np.flatnonzero(labels == label))
        cuts = [round(0.6 * len(rows)), round(0.8 * len(rows))]
        for part, chosen in zip(parts, np.split(rows, cuts), strict=True):
            part.append(chosen)
    train, valid, test = (rng.permutation(np.concatenate(part)) for part in parts)
    return train, valid, test


def replace_labels(labels: Numbers, share: float, data_seed: int) -> Numbers:
    """Return the labels with a share of them, to the nearest row, replaced by another class."""
    rng = np.random.default_rng(derive_seed(data_seed, "noise"))
    chosen = rng.permutation(len(labels))[: round(share * len(labels))]
    replaced = labels.copy()
    replaced[chosen] = (labels[chosen] + rng.integers(1, CLASSES, len(chosen))) % CLASSES
    return replaced


def _first_of_each_class(rows: Numbers, labels: Numbers, share: float) -> Numbers:
    keep = np.zeros(len(labels), dtype=bool)
    for label in range(CLASSES):
        mine = rows[labels[rows] == label]
        keep[mine[: max(1, round(share * len(mine)))]] = True
    return rows[keep[rows]]


def _rows(images: NDArray[np.float64], labels: Numbers, rows: Numbers) -> Rows:
    scaled: Tensor = torch.as_tensor(images[rows] / BRIGHTEST, dtype=torch.float32)
    return scaled, torch.as_tensor(labels[rows])


def _label_source(label_noise: float) -> dict[str, str]:
    clean = "as in the data set"
    noisy = f"{100 * label_noise:.4g} % of labels replaced at random by another class"
    return {"train": noisy if label_noise else clean, "valid": clean, "test": clean}
