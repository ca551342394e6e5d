"""A small declared task, and tasks with one mistake each."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sweeper import Optimizer, Splits, Task

SOURCE = {"train": "here", "valid": "here", "test": "here"}


def linear(hparams: Mapping[str, Any]) -> nn.Module:
    return nn.Linear(2, 3)


def rows() -> tuple[Tensor, Tensor]:
    return torch.zeros(6, 2), torch.arange(6) % 3


def good(seed: int) -> Splits:
    return Splits(rows(), rows(), rows(), classes=3)


def nan(seed: int) -> Splits:
    inputs, labels = rows()
    inputs[4, 1] = math.nan
    return Splits(rows(), (inputs, labels), rows(), classes=3)


def label(seed: int) -> Splits:
    inputs, labels = rows()
    labels[2] = 7
    return Splits((inputs, labels), rows(), rows(), classes=3)


def missing(seed: int) -> Splits:
    Path("/no/such/data.csv").read_text()
    raise AssertionError("the file exists")


def make(
    data: Callable[[int], Splits] = good,
    model: Callable[[Mapping[str, Any]], nn.Module] = linear,
    classes: int = 3,
) -> Task:
    return Task(
        name="tiny",
        classes=classes,
        model=model,
        data=data,
        optimizer=Optimizer(),
        epochs=2,
        batch_size=4,
        label_source=SOURCE,
    )


fine = make()
with_nan = make(nan)
with_label = make(label)
with_missing = make(missing)
other_classes = make(classes=4)
narrow = make(model=lambda hparams: nn.Linear(2, 5))
wide = make(model=lambda hparams: nn.Linear(9, 3))


def optional(depth: int = 2) -> Task:
    return fine
