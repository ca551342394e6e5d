"""A declared task whose models can be stacked, except for two widths."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sweeper.training import Optimizer, Splits, Task


class Branching(nn.Module):
    """Looks at the values of its input, so that it cannot be vectorized."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def model(hparams: Mapping[str, Any]) -> nn.Module:
    width = int(hparams["width"])
    if width == 13:
        raise RuntimeError("no model of 13")
    bent = Branching() if width == 11 else nn.Tanh()
    return nn.Sequential(nn.Linear(6, width), bent, nn.Dropout(0.3), nn.Linear(width, 4))


def data(seed: int) -> Splits:
    def split(rows: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(rows) % 4
        return torch.randn(rows, 6) + labels.unsqueeze(1) * torch.linspace(-1, 1, 6), labels

    return Splits(split(60), split(40), split(40), 4)


small = Task(
    "small", 4, model, data, Optimizer(lr=0.02), epochs=6, batch_size=20, hparams={"width": 8}
)
