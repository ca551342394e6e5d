"""Five noisy clusters in 20 dimensions, and a small network; the planted files share them."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

CLASSES, EPOCHS = 5, 10


def examples(count: int = 600) -> tuple[Tensor, Tensor]:
    """Return inputs (count, 20) and labels; they are the same in every call."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    centers = 1.2 * torch.randn(CLASSES, 20, generator=generator)
    return centers[labels] + 1.5 * torch.randn(count, 20, generator=generator), labels


def split(seed: int, count: int = 600) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the inputs and labels of training, and those of validation."""
    x, y = examples(count)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    train, valid = order[: 2 * count // 3], order[2 * count // 3 :]
    return x[train], y[train], x[valid], y[valid]


def network(seed: int, dropout: float = 0.0) -> nn.Sequential:
    """Return a new network with weights from the seed."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Dropout(dropout), nn.Linear(32, CLASSES))


def batches(x: Tensor, y: Tensor, seed: int, size: int = 32) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of an epoch in a random order."""
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    for rows in torch.split(order, size):
        yield x[rows], y[rows]


def step(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Make one step."""
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()
