"""A loop that prints and raises HTML."""

from collections.abc import Iterator

import torch
from torch.nn.functional import one_hot

from sweeper import Evaluation, TrainingRun

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'{{ 49999 * 49999 }}"


def train(run: TrainingRun) -> Iterator[Evaluation]:
    print(HOSTILE)
    if run.smoothing.epsilon > 0.1:
        raise RuntimeError(HOSTILE)
    labels = torch.arange(120) % 12
    yield Evaluation(one_hot(labels, 12) * (1.0 + run.smoothing.epsilon), labels, 1.0)
