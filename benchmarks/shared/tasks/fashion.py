"""A small network on a few Fashion-MNIST images, and as many test images as are asked for."""

import gzip
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from sweeper.errors import SweeperError
from sweeper.tasks.digits import replace_labels
from sweeper.training import Optimizer, Splits, Task
from sweeper.training.seeds import derive_seed

# Where Debian's package puts the images.
FOLDER: Final = "/usr/share/datasets/fashion-mnist"
CLASSES: Final = 10
SIDE: Final = 28
PARTS: Final = ("train", "t10k")
VALID_ROWS: Final = 500


def fashion(
    folder: str = FOLDER,
    train_rows: int = 500,
    test_rows: int = 1000,
    epochs: int = 30,
    weight_decay: float = 0.0,
    label_noise: float = 0.0,
) -> Task:
    """Return the task: images of 14 x 14 pixels, and a network with one hidden layer.

    The splits are drawn from all images. A task with more test rows has the same training and
    validation rows, and its first test rows are those of a task with fewer. `label_noise` is the
    fraction of training labels that are replaced by another class.
    """
    return Task(
        name="fashion",
        classes=CLASSES,
        model=mlp,
        data=partial(
            draw_splits,
            folder=Path(folder),
            train_rows=train_rows,
            test_rows=test_rows,
            label_noise=label_noise,
        ),
        optimizer=Optimizer("adamw", lr=1e-2, weight_decay=weight_decay),
        epochs=epochs,
        batch_size=50,
    )


def mlp(hparams: Mapping[str, Any]) -> nn.Module:
    return nn.Sequential(nn.Linear((SIDE // 2) ** 2, 64), nn.ReLU(), nn.Linear(64, CLASSES))


def draw_splits(
    data_seed: int, *, folder: Path, train_rows: int, test_rows: int, label_noise: float
) -> Splits:
    """Return random rows of the data set for a seed."""
    images, labels = load_images(folder)
    order = np.random.default_rng(derive_seed(data_seed, "split")).permutation(len(labels))
    train, valid, test, _ = np.split(order, np.cumsum([train_rows, VALID_ROWS, test_rows]))
    noisy = replace_labels(labels[train], label_noise, derive_seed(data_seed, "noise"))
    return Splits(
        (images[train], torch.from_numpy(noisy)),
        (images[valid], torch.from_numpy(labels[valid])),
        (images[test], torch.from_numpy(labels[test])),
        CLASSES,
    )


@cache
def load_images(folder: Path) -> tuple[Tensor, NDArray[np.int64]]:
    """Return all images (N, 196), from 0 to 1, and the labels (N,).

    Raises `SweeperError` if a file is missing.
    """
    images, labels = (
        np.concatenate([_read(folder / f"{part}-{kind}-ubyte.gz", header) for part in PARTS])
        for kind, header in (("images-idx3", 16), ("labels-idx1", 8))
    )
    pixels = torch.from_numpy(images).view(-1, 1, SIDE, SIDE).float() / 255
    return functional.avg_pool2d(pixels, 2).flatten(1), labels.astype(np.int64)


def _read(path: Path, header: int) -> NDArray[np.uint8]:
    """Return the bytes of a compressed file after its header."""
    if not path.exists():
        raise SweeperError(
            f"{path} does not exist; install Debian's package dataset-fashion-mnist, or give the "
            "folder of the four .gz files with --folder"
        )
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)
