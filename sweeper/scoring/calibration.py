"""How far a model's confidence is from its accuracy."""

import torch
from torch import Tensor

BINS = 15


def expected_calibration_error(confidence: Tensor, correct: Tensor, bins: int = BINS) -> float:
    """Return the expected calibration error, in [0, 1].

    Σ over bins of (share of samples)·|accuracy - mean confidence|, with equal-width bins
    [lo, hi), the last one closed (Guo et al. 2017). `confidence` (N,) floats in [0, 1], the
    largest probability of each sample; `correct` (N,) bool. Raises ValueError for other shapes,
    no samples, values outside [0, 1] or fewer than 1 bin.
    """
    if confidence.dim() != 1 or confidence.shape != correct.shape or confidence.numel() == 0:
        raise ValueError(
            f"confidence and correct have shapes {tuple(confidence.shape)} and "
            f"{tuple(correct.shape)}; both are (N,) with N at least 1"
        )
    if bins < 1:
        raise ValueError(f"there are {bins} bins; at least 1 is needed")
    confidence = confidence.detach().to("cpu", torch.float64)
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("a confidence is outside [0, 1]; give probabilities, not logits")
    return binned_gap(confidence, correct.cpu(), bins)


def binned_gap(confidence: Tensor, correct: Tensor, bins: int = BINS) -> float:
    """Return the error of float64 confidences that are known to be in [0, 1]."""
    # Confidence 1.0 would fall into a bin of its own (torchmetrics#3510).
    index = (confidence * bins).long().clamp_(max=bins - 1)
    gaps = torch.bincount(index, weights=confidence - correct.double())
    return gaps.abs().sum().item() / confidence.numel()
