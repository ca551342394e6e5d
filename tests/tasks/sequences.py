"""A tagger of 30 texts that computes its logits instead of training. Tests copy this file."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from sweeper import TrainingRun

EPOCHS, TEXTS, WORDS, TAGS = 4, 30, 9, 5


def outputs(run: TrainingRun, progress: float, split: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits (7, TAGS, WORDS) and labels (7, WORDS) of batches of texts."""
    generator = torch.Generator().manual_seed(split)
    labels = torch.randint(TAGS, (TEXTS, WORDS), generator=generator)
    labels[:10, 6:] = -100  # shorter texts
    noise = torch.randn(TEXTS, TAGS, WORDS, generator=generator)
    seed_noise = torch.randn(noise.shape, generator=torch.Generator().manual_seed(run.seed))
    quality = 3.0 * progress + (1.0 if run.smoothing.epsilon > 0 else 0.0)
    hot = one_hot(labels.clamp(min=0), TAGS).movedim(-1, 1)
    logits = noise + 0.1 * seed_noise + quality * hot
    yield from zip(torch.split(logits, 7), torch.split(labels, 7), strict=True)


def train(run: TrainingRun) -> None:
    for epoch in range(1, EPOCHS + 1):
        progress = epoch / EPOCHS
        scorer = run.scorer(ignore_index=-100)
        for logits, labels in outputs(run, progress, split=0):
            scorer.add(logits, labels)
        run.report(scorer, progress=progress, splits={"test": partial(outputs, run, progress, 1)})
