"""The digits task: 1,797 images of handwritten digits (8x8 pixels) from scikit-learn."""

import math
from collections.abc import Mapping
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from sweeper.errors import suggestion
from sweeper.formatting import LABELS_AS_GIVEN
from sweeper.training.seeds import derive_seed
from sweeper.training.task import Optimizer, Rows, Splits, Task

CLASSES = 10
SIDE = 8
BRIGHTEST = 16.0
MAX_SHIFT = 2
_FILE = "datasets/data/digits.csv.gz"
Model = Literal["mlp", "cnn"]
Numbers = NDArray[np.int64]


def digits(
    *,
    label_noise: float = 0.0,
    valid_noise: float = 0.0,
    train_fraction: float = 1.0,
    model: Model = "mlp",
) -> Task:
    """Return the digits task, split by class into 60% training, 20% validation and 20% test data.

    `label_noise` in [0, 1] is the fraction of training labels that are replaced by another class,
    drawn uniformly; `valid_noise` is the same for validation labels. Test labels are not changed.
    `train_fraction` in (0, 1] is the fraction of the training rows of each class that is used.
    `model` is "mlp" or "cnn". Raises ValueError for other values.
    """
    _check_fraction("label_noise", label_noise, "a number in [0, 1]", zero=True)
    _check_fraction("valid_noise", valid_noise, "a number in [0, 1]", zero=True)
    _check_fraction("train_fraction", train_fraction, "a number in (0, 1]", zero=False)
    if model not in get_args(Model):
        near = suggestion(str(model), get_args(Model))
        raise ValueError(f"unknown model {model!r}{near}; allowed: {', '.join(get_args(Model))}")
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
        optimizer=Optimizer(lr=3e-3),
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


def _check_fraction(key: str, value: Any, allowed: str, *, zero: bool) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= 1 or (value == 0 and not zero):
        raise ValueError(f"{key} must be {allowed}, got {value!r}")


def mlp(hparams: Mapping[str, Any]) -> nn.Module:
    """Return an MLP with two hidden layers of `width` units, each followed by `dropout`."""
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
    """Return a CNN with convolutions of `width` and 2·`width` channels and a linear layer."""
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

    Along each axis an image is shifted by an integer drawn uniformly from -`shift` to `shift`
    (`shift` is 0, 1 or 2); new pixels are 0, like the background. `noise` is the standard
    deviation for images in [0, 1]; the result is not clipped. Raises ValueError for other values.
    """
    # `get`, because a task derived from this one may have other hyperparameters.
    shift, noise = hparams.get("shift", 0), hparams.get("noise", 0.0)
    if shift not in range(MAX_SHIFT + 1):
        raise ValueError(
            f"shift is {shift!r}; allowed: {', '.join(map(str, range(MAX_SHIFT + 1)))} "
            "(set integer = true in a range)"
        )
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise must be a finite number >= 0, got {noise!r}")
    if not shift and not noise:
        return inputs
    # Always drawn, and drawn first, so that the shifts do not depend on the noise and vice versa.
    where = torch.rand(2, len(inputs), 1, device=inputs.device)
    moved = shift_images(inputs, (where * (2 * shift + 1)).long(), int(shift)) if shift else inputs
    return moved + noise * torch.randn_like(inputs) if noise else moved


def shift_images(inputs: Tensor, corner: Tensor, shift: int) -> Tensor:
    """Return images (N, 64) cropped at `corner` (2, N, 1) after zero-padding by `shift` pixels."""
    padded = functional.pad(inputs.reshape(-1, SIDE, SIDE), (shift,) * 4)
    down, right = corner + torch.arange(SIDE, device=inputs.device)
    number = torch.arange(len(inputs), device=inputs.device)[:, None, None]
    return padded[number, down[:, :, None], right[:, None, :]].flatten(1)


@cache
def load_images() -> tuple[NDArray[np.float64], Numbers]:
    """Return the images (1797, 64), from 0 to 16, and the labels (1797,) from scikit-learn's files.

    scikit-learn is not imported, because that can take longer than a training run.
    """
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise ImportError("the digits data set is part of scikit-learn; install scikit-learn")
    rows = np.loadtxt(Path(spec.origin).parent / _FILE, delimiter=",")
    return rows[:, :-1], rows[:, -1].astype(np.int64)


def digits_splits(
    data_seed: int, *, label_noise: float, valid_noise: float, train_fraction: float
) -> Splits:
    """Return the splits of the images (N, 64), scaled to [0, 1], for a seed."""
    images, labels = load_images()
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
    """Return the row numbers of 60%, 20% and 20% of each class, each split in random order."""
    parts: tuple[list[Numbers], ...] = ([], [], [])
    for label in range(CLASSES):
        rows = rng.permutation(np.flatnonzero(labels == label))
        cuts = [round(0.6 * len(rows)), round(0.8 * len(rows))]
        for part, chosen in zip(parts, np.split(rows, cuts), strict=True):
            part.append(chosen)
    train, valid, test = (rng.permutation(np.concatenate(part)) for part in parts)
    return train, valid, test


def replace_labels(labels: Numbers, share: float, seed: int) -> Numbers:
    """Return a copy with round(share · N) of the labels (N,) replaced by another class."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(labels))[: round(share * len(labels))]
    replaced = labels.copy()
    replaced[chosen] = (labels[chosen] + rng.integers(1, CLASSES, len(chosen))) % CLASSES
    return replaced


def _first_of_each_class(rows: Numbers, labels: Numbers, share: float) -> Numbers:
    keep = np.zeros(len(labels), dtype=bool)
    for label in range(CLASSES):
        of_class = rows[labels[rows] == label]
        keep[of_class[: max(1, round(share * len(of_class)))]] = True
    return rows[keep[rows]]


def _rows(images: NDArray[np.float64], labels: Numbers, rows: Numbers) -> Rows:
    scaled: Tensor = torch.as_tensor(images[rows] / BRIGHTEST, dtype=torch.float32)
    return scaled, torch.as_tensor(labels[rows])


def _label_source(label_noise: float, valid_noise: float) -> dict[str, str]:
    shares = {"train": label_noise, "valid": valid_noise, "test": 0.0}
    return {split: _source(share) for split, share in shares.items()}


def _source(noise: float) -> str:
    if not noise:
        return LABELS_AS_GIVEN
    return f"{100 * noise:.4g}% of labels replaced by a random other class"
