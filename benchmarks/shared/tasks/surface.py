"""A task without training: logits in closed form, with noise that depends on the seed."""

import time
from collections.abc import Iterator

import torch
from torch.nn import functional

from sweeper import Evaluation, Smoothing, TrainingRun

CLASSES, SAMPLES = 10, 100


def train(run: TrainingRun) -> Iterator[Evaluation]:
    """Yield one evaluation per epoch, of a model with a margin for the true class; print each."""
    generator = torch.Generator().manual_seed(run.seed)
    labels = torch.arange(SAMPLES) % CLASSES
    noise = torch.randn(SAMPLES, CLASSES, generator=generator)
    epochs = run.options.get("epochs", 4)
    for epoch in range(1, epochs + 1):
        progress = epoch / epochs
        use_cpu(run.options.get("work", 0.0))
        own = margin(run.smoothing, progress) * functional.one_hot(labels, CLASSES)
        print(f"epoch {epoch}: learning rate {1 - progress:.3f}, train loss {2 - progress:.4f}")
        yield Evaluation(noise + own, labels, progress, train_loss=2 - progress)


def use_cpu(seconds: float) -> None:
    """Keep one core busy for so many seconds of CPU time."""
    matrix, until = torch.eye(128), time.thread_time() + seconds
    while time.thread_time() < until:
        matrix = matrix @ matrix


def margin(smoothing: Smoothing, progress: float) -> float:
    """Return the margin of the true class: largest for ε near 0.12 that is annealed to 0."""
    return 3 * progress - 20 * (smoothing.epsilon - 0.12) ** 2 - smoothing.at(progress)
