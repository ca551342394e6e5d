"""A task whose model ends its process, or hangs, for one value of a hyperparameter."""

import os
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sweeper import Splits, Task

EPOCHS = 4


class Exiting(nn.Linear):
    """A linear model that ends its process in the last of its epochs, of one step each."""

    def __init__(self) -> None:
        super().__init__(3, 3)
        self.steps = 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Count the steps."""
        self.steps += self.training
        if self.steps == EPOCHS:
            os._exit(3)
        return super().forward(inputs)


def model(hparams: Mapping[str, Any]) -> nn.Module:
    """Return a linear model, or end the process, or hang."""
    if hparams["exits"] == 1:
        os._exit(3)
    if hparams["exits"] > 1:
        return Exiting()
    if hparams["hangs"]:
        time.sleep(600)
    return nn.Linear(3, 3)


def data(_: int) -> Splits:
    """Return the same few rows for each split."""
    labels = torch.arange(30) % 3
    rows = torch.eye(3)[labels], labels
    return Splits(rows, rows, rows, classes=3)


task = Task("exiting", 3, model, data, epochs=EPOCHS, hparams={"exits": 0, "hangs": 0})
