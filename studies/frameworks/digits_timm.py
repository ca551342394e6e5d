"""timm: a small image model on handwritten digits. A task needs no adapter."""

from collections.abc import Mapping
from typing import Any

import timm
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import interpolate

from sweeper import Optimizer, Splits, Task

PIXELS, LABELS = load_digits(return_X_y=True)


def task(name: str = "test_efficientnet", epochs: int = 10, examples: int = len(LABELS)) -> Task:
    """Return the task of a timm model, by its name."""

    def model(hparams: Mapping[str, Any]) -> nn.Module:
        dropout = hparams["drop_rate"]
        created: nn.Module = timm.create_model(name, num_classes=10, in_chans=1, drop_rate=dropout)
        return created

    def data(seed: int) -> Splits:
        images = torch.tensor(PIXELS[:examples] / 16.0 - 0.5, dtype=torch.float32)
        images = interpolate(images.reshape(-1, 1, 8, 8), scale_factor=2)
        labels = torch.tensor(LABELS[:examples])
        rows, rest = train_test_split(range(examples), test_size=0.5, random_state=seed % 2**32)
        valid, test = train_test_split(rest, test_size=0.5, random_state=seed % 2**32)
        splits = [(images[part], labels[part]) for part in (rows, valid, test)]
        return Splits(splits[0], splits[1], splits[2], classes=10)

    return Task(
        name,
        classes=10,
        model=model,
        data=data,
        optimizer=Optimizer(lr=3e-3),
        epochs=epochs,
        hparams={"drop_rate": 0.0},
    )
