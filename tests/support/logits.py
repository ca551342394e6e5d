"""Logits and labels for the tests of scores."""

import torch
from torch import Tensor


def batch(samples: int, classes: int, scale: float = 3.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return logits that are right about half the time, and their labels."""
    source = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (samples,), generator=source)
    logits = torch.randn(samples, classes, generator=source, dtype=torch.float64)
    logits[torch.arange(samples), labels] += 1.5
    return scale * logits, labels
