"""Handwritten digits: 1,797 real images of 8x8 pixels, which scikit-learn carries."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from sweeper.errors import nearest
from sweeper.training.seeding import derive_seed
from sweeper.training.task import Optimiser, Rows, Splits, Task

CLASSES = 10
SIDE = 8
BRIGHTEST = 16.0
MOST_SHIFT = 2
Model = Literal["mlp", "cnn"]
Numbers = NDArray[np.int64]


def digits(
    *,
    label_noise: float = 0.0,
    valid_noise: float = 0.0,
    train_fraction: float = 1.0,
    model: Model = "mlp",
) -> Task:
    """Return the digits task: 60 % of each class to train, 20 % to validate, 20 % to test.

    `label_noise` in [0, 1] is the share of training labels that another class replaces, drawn
    uniformly, `valid_noise` that of validation labels; test labels stay as they are.
    `train_fraction` in (0, 1] is the share of the training rows that is kept, class by class.
    Raises ValueError for others.
    """
    _check_share("label_noise", label_noise, "a number from 0 to 1", zero=True)
    _check_share("valid_noise", valid_noise, "a number from 0 to 1", zero=True)
    _check_share("train_fraction", train_fraction, "a number above 0, up to 1", zero=False)
    if model not in get_args(Model):
        near = nearest(str(model), get_args(Model))
        raise ValueError(f"model is {model!r}{near}; allowed: {', '.join(get_args(Model))}")
    return Task(
        name="digits",
        classes=CLASSES,
        model=mlp if model == "mlp" else cnn,
        data=partial(
            digits_splits,
            label_noise=label_noise,
            valid_noise=valid_noise,
            train_fraction=train_fraction,
        ),
        optimiser=Optimiser(lr=3e-3),
        epochs=40,
        batch_size=64,
        hparams={
            "width": 128 if model == "mlp" else 16,
            "dropout": 0.0,
            "shift": 0,
            "noise": 0.0,
        },
        label_source=_label_source(label_noise, valid_noise),
        augment=augment,
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


def augment(inputs: Tensor, hparams: Mapping[str, Any]) -> Tensor:
    """Return images (N, 64) shifted by up to `shift` pixels, with Gaussian `noise` added.

    `shift`, 0, 1 or 2, is the furthest that an image moves along each axis, every whole number of
    pixels being as likely; what comes in is 0, as the background is. `noise` is a standard
    deviation where images lie in [0, 1]; what leaves that range stays outside. Raises ValueError
    for others.
    """
    # A task made from this one may have other hyperparameters.
    shift, noise = hparams.get("shift", 0), hparams.get("noise", 0.0)
    if shift not in range(MOST_SHIFT + 1):
        raise ValueError(
            f"shift is {shift!r}; allowed: {', '.join(map(str, range(MOST_SHIFT + 1)))} pixels "
            "(integer = true in a range)"
        )
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise is {noise!r}; allowed: a finite number 0 or more")
    if not shift and not noise:
        return inputs
    # always drawn, and first: the same moves of a step whatever the noise, and the reverse
    where = torch.rand(2, len(inputs), 1, device=inputs.device)
    moved = shifted(inputs, (where * (2 * shift + 1)).long(), int(shift)) if shift else inputs
    return moved + noise * torch.randn_like(inputs) if noise else moved


def shifted(inputs: Tensor, corner: Tensor, shift: int) -> Tensor:
    """Return images (N, 64) cut from padded ones at `corner` (2, N, 1); `shift` is the middle."""
    padded = functional.pad(inputs.reshape(-1, SIDE, SIDE), (shift,) * 4)
    down, right = corner + torch.arange(SIDE, device=inputs.device)
    number = torch.arange(len(inputs), device=inputs.device)[:, None, None]
    return padded[number, down[:, :, None], right[:, None, :]].flatten(1)


def digits_splits(
    data_seed: int, *, label_noise: float, valid_noise: float, train_fraction: float
) -> Splits:
    """Return the images in [0, 1], (N, 64), split by class with the given seed."""
    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(derive_seed(data_seed, "split"))
    train, valid, test = split_by_class(labels, rng)
    train = _first_of_each_class(train, labels, train_fraction)
    noisy = labels.copy()
    noisy[train] = replace_labels(labels[train], label_noise, derive_seed(data_seed, "noise"))
    seed = derive_seed(data_seed, "noise of valid")
    noisy[valid] = replace_labels(labels[valid], valid_noise, seed)
    return Splits(
        _rows(images, noisy, train),
        _rows(images, noisy, valid),
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


def replace_labels(labels: Numbers, share: float, seed: int) -> Numbers:
    """Return the labels with a share of them, to the nearest row, replaced by another class."""
    rng = np.random.default_rng(seed)
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


def _label_source(label_noise: float, valid_noise: float) -> dict[str, str]:
    shares = {"train": label_noise, "valid": valid_noise, "test": 0.0}
    return {split: _source(share) for split, share in shares.items()}


def _source(noise: float) -> str:
    if not noise:
        return "as in the data set"
    return f"{100 * noise:.4g} % of labels replaced at random by another class"
