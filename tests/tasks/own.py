"""Declared tasks, and objects that are not tasks, for the tests of loading."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from sweeper.training import Optimizer, Splits, Task


def data(seed: int) -> Splits:
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(seed))
    part = x, (x[:, 0] > 0).long()
    return Splits(part, part, part, classes=2)


def make(*, width: int = 8, depth: int = 1) -> Task:
    if width < 1:
        raise ValueError(f"width is {width}; allowed: whole numbers from 1")

    def model(hparams: Any) -> nn.Module:
        return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))

    return Task("own", 2, model, data, Optimizer(lr=0.1), epochs=2, batch_size=16)


def needs(*, path: str, width: int = 1) -> None: ...


def anything(**options: Any) -> Task:
    return make(width=options["width"])


def returns_none() -> None: ...


def broken(*, width: int = 1) -> Any:
    none: dict[str, Any] = {}
    return none["no such key"]


def with_labels_from_1(seed: int) -> Splits:
    inputs, labels = data(seed).train
    part = inputs, labels + 1
    return Splits(part, part, part, classes=2)


fixed = make()
from_1 = replace(fixed, data=with_labels_from_1)
number = 3
