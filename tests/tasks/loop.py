"""Training loops of one epoch, for the tests of loading."""

from collections.abc import Iterator
from typing import Any

import torch

from sweeper import Evaluation, TrainingRun


def train(run: TrainingRun) -> Iterator[Evaluation]:
    yield Evaluation(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]), 1.0, extra=dict(run.options))


def train_two(run: TrainingRun, other: Any) -> Iterator[None]:
    yield None


async def train_async(run: TrainingRun) -> None:
    """Cannot be a training function."""
