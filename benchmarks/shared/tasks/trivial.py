"""A training function that does as little as one can: what remains is the cost of a trial."""

import torch

from sweeper import TrainingRun

LABELS = torch.arange(30) % 3


def train(run: TrainingRun) -> None:
    """Report the same logits twice."""
    logits = torch.eye(3)[LABELS] * (1.0 + run.smoothing.epsilon)
    for epoch in (1, 2):
        run.report(logits, LABELS, progress=epoch / 2)
