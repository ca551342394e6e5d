"""Calibration errors: differences between a model's confidence and its accuracy."""

import math
from typing import NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from sweeper.scoring.confidence import check_confidence, check_weights, score_in_chunks
from sweeper.scoring.logits_file import Logits
from sweeper.scoring.ranking import Ranking
from sweeper.scoring.score_inputs import rows_per_block

BINS = 15


class Reliability(NamedTuple):
    """A reliability diagram with equal-width bins [lo, hi); tensors (bins,).

    `lower` are the lower edges, `samples` the int64 counts. `confidence` (mean) and `accuracy` are
    NaN in empty bins. The last bin includes its upper edge.
    """

    lower: Tensor
    samples: Tensor
    confidence: Tensor
    accuracy: Tensor


def reliability(confidence: Tensor, correct: Tensor, bins: int = BINS) -> Reliability:
    """Return the reliability diagram of a model (DeGroot and Fienberg 1983, Guo et al. 2017).

    `confidence` (N,) is the largest probability of each sample, floats in [0, 1]; `correct` (N,)
    is bool. Raises ValueError for other shapes, no samples, values outside [0, 1] or fewer than 1
    bin.
    """
    _check_bins(bins)
    confidence, hits = check_confidence(confidence, correct)
    count, confident, right = diagram_sums(confidence, hits, bins)
    edges = torch.arange(bins, dtype=torch.float64) / bins
    # 0/0 is NaN.
    return Reliability(edges, count.long(), confident / count, right / count)


def expected_calibration_error(confidence: Tensor, correct: Tensor, bins: int = BINS) -> float:
    """Return the expected calibration error, in [0, 1].

    The sum over bins of (fraction of samples)·|accuracy - mean confidence|, with equal-width bins
    [lo, hi); the last one includes its upper edge (Guo et al. 2017). `confidence` (N,) is the
    largest probability of each sample, floats in [0, 1]; `correct` (N,) is bool. Raises ValueError
    for other shapes, no samples, values outside [0, 1] or fewer than 1 bin.
    """
    return weighted_ece(confidence, correct, bins=bins)


@overload
def weighted_ece(
    confidence: Tensor, correct: Tensor, weights: None = None, bins: int = BINS
) -> float: ...


@overload
def weighted_ece(
    confidence: Tensor, correct: Tensor, weights: Tensor, bins: int = BINS
) -> Tensor: ...


def weighted_ece(
    confidence: Tensor, correct: Tensor, weights: Tensor | None = None, bins: int = BINS
) -> float | Tensor:
    """Return the expected calibration error, optionally weighted.

    Without `weights`, this is `expected_calibration_error`. With `weights` (N,) or (B, N), return a
    float64 tensor () or (B,); a sample of weight w counts as w samples. Also raises ValueError for
    weights of other shapes, and for weights that are negative, not finite or all 0.
    """
    _check_bins(bins)
    confidence, hits = check_confidence(confidence, correct)
    gap, index = confidence - hits, bin_of(confidence, bins)
    if weights is None:
        return sum_by_bin(gap, index, bins).abs().sum().item() / len(gap)
    return score_in_chunks(
        lambda each: sum_by_bin(each * gap, index, bins).abs().sum(-1) / each.sum(-1),
        check_weights(weights, len(gap)),
    )


def _check_bins(bins: int) -> None:
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")


def bin_of(confidence: Tensor, bins: int = BINS) -> Tensor:
    """Return the bin indices (N,) of float64 confidences (N,) in [0, 1], which is not checked."""
    # Without the clamp, confidence 1.0 would get an extra bin (torchmetrics#3510).
    return (confidence * bins).long().clamp_(max=bins - 1)


def sum_by_bin(values: Tensor, index: Tensor, bins: int = BINS) -> Tensor:
    """Return the sums (…, bins) of the values (…, N) in each bin; `index` (N,) are the bins."""
    if values.dim() == 1:
        return torch.bincount(index, values, bins)
    sums = torch.zeros(*values.shape[:-1], bins, dtype=torch.float64)
    return sums.scatter_add_(-1, index.expand_as(values), values)


def diagram_sums(confidence: Tensor, hits: Tensor, bins: int = BINS) -> Tensor:
    """Return (3, bins): the count, the summed confidence and the summed 0/1 hits of each bin."""
    values = torch.stack([torch.ones_like(hits), confidence, hits])
    return sum_by_bin(values, bin_of(confidence, bins), bins)


def debiased_ece(sums: Tensor) -> float:
    """Return the root of the debiased squared calibration error of `diagram_sums`, in [0, 1].

    √max(0, Σ over bins of (fraction of samples)·[(accuracy - mean confidence)² -
    accuracy·(1 - accuracy)/(n - 1)]), with n samples in a bin. The second term is the sampling
    variance, which biases the squared error (Kumar, Liang and Ma 2019, section 5). As in their
    code, bins with one sample count as 0, because their variance is unknown.
    """
    count, confident, right = sums[:, sums[0] > 1]
    accuracy = right / count
    squares = (accuracy - confident / count).square() - accuracy * (1 - accuracy) / (count - 1)
    return math.sqrt(max((count * squares).sum().item() / sums[0].sum().item(), 0.0))


def equal_mass_ece(ranked: Ranking, hits: Tensor, bins: int = BINS) -> float:
    """Return the calibration error with bins of equal count, in [0, 1] (Nixon et al. 2019).

    `hits` (N,) are 0 or 1. Samples with equal confidence get the mean of their hits, so that the
    result does not depend on the order of the samples. A sample on the border of two bins is
    split between them. Both are equivalent to repeating every sample `bins` times.
    """
    count = len(hits)
    knots = torch.cat([torch.zeros(1, dtype=torch.int64), ranked.ends + 1]).double()
    gaps = ranked.confidence.cumsum(0)[ranked.ends] - ranked.cumulative(hits)
    gaps = torch.cat([torch.zeros(1, dtype=torch.float64), gaps])
    borders = torch.arange(bins + 1, dtype=torch.float64) * count / bins
    return _interpolate(borders, knots, gaps).diff().abs().sum().item() / count


def _interpolate(positions: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    after = torch.searchsorted(knots, positions).clamp(1, len(knots) - 1)
    low, high = knots[after - 1], knots[after]
    return values[after - 1].lerp(values[after], (positions - low) / (high - low))


def add_class_gaps(gaps: Tensor, p: Tensor, own: Tensor, labels: Tensor) -> None:
    """Add Σ (p_k - 1[y = k]) over the samples of each bin of p_k to `gaps` (K, bins), in place.

    `p` (K, n) are all probabilities, `own` (n,) are the probabilities of the labels (n,).
    """
    each, flat = p.t().reshape(-1), gaps.view(-1)
    # Almost all probabilities are in the first bin. Its sum is the total minus the other bins.
    indices = torch.from_numpy(np.flatnonzero(each.numpy() > 0.5 / BINS))
    large, first = each[indices], indices % len(p) * BINS
    gaps[:, 0] += p.sum(1)
    flat.scatter_add_(0, first, -large)
    flat.scatter_add_(0, first + bin_of(large), large)
    flat.scatter_add_(0, labels * BINS + bin_of(own), torch.full_like(own, -1.0))


def classwise_ece(gaps: Tensor, logits: Logits) -> float:
    """Return the class-wise ECE (Kull et al. 2019) from the sums of `add_class_gaps`, in [0, 1].

    This is the mean over classes. Classes that are masked in all logits (N, K) are left out.
    """
    masked = ~gaps.any(1)
    rows = rows_per_block(len(gaps))
    for start in range(0, len(logits), rows):
        if not masked.any():
            break
        masked &= (logits[start : start + rows] == -torch.inf).all(0)
    return gaps.abs().sum().item() / len(logits) / (len(gaps) - int(masked.sum()))
