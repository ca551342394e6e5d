"""How far a model's confidence is from its accuracy."""

import math
from typing import NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from sweeper.scoring.confidence import checked_confidence, checked_weights, for_each
from sweeper.scoring.ranking import Ranking

BINS = 15


class Reliability(NamedTuple):
    """A reliability diagram, (bins,) each: the `lower` edges of equal-width bins [lo, hi).

    `samples` is how many, int64; their mean `confidence` and their `accuracy` are NaN
    in an empty bin. The last bin is closed.
    """

    lower: Tensor
    samples: Tensor
    confidence: Tensor
    accuracy: Tensor


def reliability(confidence: Tensor, correct: Tensor, bins: int = BINS) -> Reliability:
    """Return the reliability diagram of a model (DeGroot and Fienberg 1983, Guo et al. 2017).

    `confidence` (N,) floats in [0, 1], the largest probability of each sample; `correct` (N,)
    bool. Raises ValueError for other shapes, no samples, values outside [0, 1] or fewer than 1
    bin.
    """
    _check_bins(bins)
    confidence, hits = checked_confidence(confidence, correct)
    count, confident, right = diagram(confidence, hits, bins)
    edges = torch.arange(bins, dtype=torch.float64) / bins
    # 0/0 is NaN.
    return Reliability(edges, count.long(), confident / count, right / count)


def expected_calibration_error(confidence: Tensor, correct: Tensor, bins: int = BINS) -> float:
    """Return the expected calibration error, in [0, 1].

    Σ over bins of (share of samples)·|accuracy - mean confidence|, with equal-width bins
    [lo, hi), the last one closed (Guo et al. 2017). `confidence` (N,) floats in [0, 1], the
    largest probability of each sample; `correct` (N,) bool. Raises ValueError for other shapes,
    no samples, values outside [0, 1] or fewer than 1 bin.
    """
    return ece_of(confidence, correct, bins=bins)


@overload
def ece_of(
    confidence: Tensor, correct: Tensor, weights: None = None, bins: int = BINS
) -> float: ...


@overload
def ece_of(confidence: Tensor, correct: Tensor, weights: Tensor, bins: int = BINS) -> Tensor: ...


def ece_of(
    confidence: Tensor, correct: Tensor, weights: Tensor | None = None, bins: int = BINS
) -> float | Tensor:
    """Return the expected calibration error of samples, as `expected_calibration_error` does.

    With `weights` (N,) or (B, N), 0 or more, a float64 tensor () or (B,): a sample of weight w
    counts as w samples. Also raises ValueError for weights of other shapes, and for weights that
    are negative, not finite or all 0.
    """
    _check_bins(bins)
    confidence, hits = checked_confidence(confidence, correct)
    gap, index = confidence - hits, bin_of(confidence, bins)
    if weights is None:
        return binned(gap, index, bins).abs().sum().item() / len(gap)
    return for_each(
        lambda each: binned(each * gap, index, bins).abs().sum(-1) / each.sum(-1),
        checked_weights(weights, len(gap)),
    )


def _check_bins(bins: int) -> None:
    if bins < 1:
        raise ValueError(f"there are {bins} bins; at least 1 is needed")


def bin_of(confidence: Tensor, bins: int = BINS) -> Tensor:
    """Return the bins (N,) of float64 confidences that are known to be in [0, 1]."""
    # Confidence 1.0 would fall into a bin of its own (torchmetrics#3510).
    return (confidence * bins).long().clamp_(max=bins - 1)


def binned(values: Tensor, index: Tensor, bins: int = BINS) -> Tensor:
    """Return the sums (…, bins) of values (…, N) in each bin."""
    if values.dim() == 1:
        return torch.bincount(index, values, bins)
    sums = torch.zeros(*values.shape[:-1], bins, dtype=torch.float64)
    return sums.scatter_add_(-1, index.expand_as(values), values)


def diagram(confidence: Tensor, hits: Tensor, bins: int = BINS) -> Tensor:
    """Return the count, summed confidence and summed 0/1 hits of each bin, (3, bins)."""
    values = torch.stack([torch.ones_like(hits), confidence, hits])
    return binned(values, bin_of(confidence, bins), bins)


def debiased_error(sums: Tensor) -> float:
    """Return the root of the debiased squared calibration error of a `diagram`, in [0, 1].

    √max(0, Σ over bins of (share of samples)·[(accuracy - mean confidence)² -
    accuracy·(1 - accuracy)/(n - 1)]), with n samples in a bin: an l2 error, from whose square
    each bin's sampling variance is taken away (Kumar, Liang and Ma 2019, section 5). As in their
    code, a bin of one sample, whose variance is unknown, counts as 0.
    """
    count, confident, right = sums[:, sums[0] > 1]
    accuracy = right / count
    squares = (accuracy - confident / count).square() - accuracy * (1 - accuracy) / (count - 1)
    return math.sqrt(max((count * squares).sum().item() / sums[0].sum().item(), 0.0))


def equal_mass_error(ranked: Ranking, hits: Tensor, bins: int = BINS) -> float:
    """Return the calibration error of bins of equal count, in [0, 1] (Nixon et al. 2019).

    Tied samples share the mean of their 0/1 `hits` (N,), so that the order in which they came
    decides nothing where a bin ends among them; a sample on the border of two bins counts in
    each by its part. Both is as if every sample were there `bins` times over.
    """
    count = len(hits)
    knots = torch.cat([torch.zeros(1, dtype=torch.int64), ranked.ends + 1]).double()
    gaps = ranked.confidence.cumsum(0)[ranked.ends] - ranked.cumulative(hits)
    gaps = torch.cat([torch.zeros(1, dtype=torch.float64), gaps])
    borders = torch.arange(bins + 1, dtype=torch.float64) * count / bins
    return _interpolated(borders, knots, gaps).diff().abs().sum().item() / count


def _interpolated(at: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    after = torch.searchsorted(knots, at).clamp(1, len(knots) - 1)
    low, high = knots[after - 1], knots[after]
    return values[after - 1].lerp(values[after], (at - low) / (high - low))


def add_class_gaps(gaps: Tensor, p: Tensor, own: Tensor, labels: Tensor) -> None:
    """Add to `gaps` (K, bins) Σ (p_k - 1[y = k]) over the samples of each bin of p_k.

    `p` (K, n) are all probabilities, `own` (n,) those of the labels (n,).
    """
    each, flat = p.t().reshape(-1), gaps.view(-1)
    # Almost all are in the first bin, which is what the others leave of the whole.
    places = torch.from_numpy(np.flatnonzero(each.numpy() > 0.5 / BINS))
    large, first = each[places], places % len(p) * BINS
    gaps[:, 0] += p.sum(1)
    flat.scatter_add_(0, first, -large)
    flat.scatter_add_(0, first + bin_of(large), large)
    flat.scatter_add_(0, labels * BINS + bin_of(own), torch.full_like(own, -1.0))


def class_error(gaps: Tensor, logits: Tensor) -> float:
    """Return the mean over classes of the error of what `add_class_gaps` added up, in [0, 1].

    Class-wise ECE (Kull et al. 2019). A class that is masked in all logits (N, K) does not count.
    """
    silent = ~gaps.any(1)
    masked = int((logits[:, silent] == -torch.inf).all(0).sum())
    return gaps.abs().sum().item() / len(logits) / (len(gaps) - masked)
