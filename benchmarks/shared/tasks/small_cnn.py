"""A task that is all arithmetic: a small convolutional network on images of 28 x 28 pixels."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sweeper.training import Optimizer, Splits, Task


def small_cnn() -> Task:
    """Return the task."""
    return Task("images", 10, model, images, Optimizer(lr=1e-3), epochs=10, batch_size=128)


def model(hparams: Mapping[str, Any]) -> nn.Module:
    """Return two convolutions and a linear layer."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * 49, 10)),
    )


def images(seed: int) -> Splits:
    """Return random images of ten classes; only their number matters here."""
    parts = [(torch.rand(rows, 1, 28, 28), torch.arange(rows) % 10) for rows in (1024, 128, 128)]
    return Splits(parts[0], parts[1], parts[2], 10)
