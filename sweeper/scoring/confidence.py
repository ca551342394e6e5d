"""Validation of the inputs of confidence scores."""

from collections.abc import Callable

import torch
from torch import Tensor

# Maximum number of elements of the weights that are processed at a time.
_ELEMENTS = 2**20


def check_confidence(confidence: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
    """Return confidences (N,) and 0/1 correctness (N,), float64 on the CPU.

    Raises ValueError for other shapes, no samples and values outside [0, 1].
    """
    if confidence.dim() != 1 or confidence.shape != correct.shape or confidence.numel() == 0:
        raise ValueError(
            f"confidence and correct have shapes {tuple(confidence.shape)} and "
            f"{tuple(correct.shape)}; both must be (N,) with N at least 1"
        )
    confidence = confidence.detach().to("cpu", torch.float64)
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("a confidence is outside [0, 1]; pass probabilities, not logits")
    return confidence, correct.detach().to("cpu", torch.float64)


def check_weights(weights: Tensor, count: int) -> Tensor:
    """Return weights (N,) or (B, N) in float64 on the CPU.

    Raises ValueError for other shapes, and for weights that are negative, not finite or all 0.
    """
    if weights.dim() not in (1, 2) or weights.shape[-1] != count:
        raise ValueError(
            f"weights have shape {tuple(weights.shape)}; for {count} samples "
            f"it must be ({count},) or (B, {count})"
        )
    weights = weights.detach().to("cpu", torch.float64)
    if not ((weights >= 0) & (weights < torch.inf)).all():
        raise ValueError("a weight is negative or not finite; weights must be finite and >= 0")
    if not weights.sum(-1).all():
        raise ValueError("weights are 0 for every sample; at least one must be > 0")
    return weights


def score_in_chunks(score: Callable[[Tensor], Tensor], weights: Tensor) -> Tensor:
    """Return the scores (…) for weights (…, N), computed in chunks to limit memory."""
    if weights.dim() == 1:
        return score(weights)
    rows = max(_ELEMENTS // weights.shape[1], 1)
    starts = range(0, len(weights), rows)
    return torch.cat([score(weights[start : start + rows]) for start in starts])
