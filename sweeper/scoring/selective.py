"""Selective classification: how well the confidence separates correct from wrong predictions."""

from typing import overload

import torch
from torch import Tensor

from sweeper.scoring.confidence import check_confidence, check_weights, score_in_chunks
from sweeper.scoring.ranking import Ranking, ranking


@overload
def weighted_aurc(confidence: Tensor, correct: Tensor, weights: None = None) -> float: ...


@overload
def weighted_aurc(confidence: Tensor, correct: Tensor, weights: Tensor) -> Tensor: ...


def weighted_aurc(
    confidence: Tensor, correct: Tensor, weights: Tensor | None = None
) -> float | Tensor:
    """Return the area under the risk-coverage curve, in [0, 1]; lower is better.

    The mean over n = 1..N of the error rate of the n most confident samples (Geifman and El-Yaniv
    2017), averaged over all orders of tied samples. `confidence` (N,) is the largest probability
    of each sample, floats in [0, 1]; `correct` (N,) is bool. With `weights` (N,) or (B, N), return
    a float64 tensor () or (B,); a sample of weight w counts as w samples. Raises ValueError for
    other shapes, no samples, confidences outside [0, 1], and weights that are negative, not finite
    or all 0.
    """
    confidence, hits = check_confidence(confidence, correct)
    ranked = ranking(confidence)
    if weights is None:
        return aurc_of_ranking(ranked, hits).item()
    return score_in_chunks(
        lambda each: aurc_of_ranking(ranked, hits, each), check_weights(weights, len(hits))
    )


def aurc_of_ranking(ranked: Ranking, hits: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the area (…) for a ranking, 0/1 `hits` (N,) and weights (…, N); None means all 1."""
    if weights is None:
        return _area((ranked.ends + 1).double(), ranked.cumulative(1 - hits))
    return _area(ranked.cumulative(weights), ranked.cumulative(weights * (1 - hits)))


def lowest_aurc(hits: Tensor) -> float:
    """Return the lowest possible area for 0/1 `hits` (N,): all errors ranked last."""
    right, count = hits.sum().item(), len(hits)
    mass = torch.tensor([right, count], dtype=torch.float64)
    return _area(mass, torch.tensor([0.0, count - right], dtype=torch.float64)).item()


def _area(mass: Tensor, errors: Tensor) -> Tensor:
    """Return the area (…) from the cumulative mass and cumulative errors (…, G) of groups.

    Consider a group with mass m and g errors, after groups with mass a and E errors. Its mean risk
    at i = a + 1..a + m is (E + (i - a)·g/m)/i. The sum is g + (E - a·g/m)·(H_{a+m} - H_a), with the
    harmonic numbers H. The digamma function extends H to weights that are not integers.
    """
    zero = torch.zeros_like(mass[..., :1])
    harmonic = torch.cat([zero + 1, mass + 1], -1).digamma().diff()
    before, errors_before = (torch.cat([zero, sums[..., :-1]], -1) for sums in (mass, errors))
    more, wrong = mass - before, errors - errors_before
    rate = torch.where(more > 0, wrong / more, 0.0)
    return (wrong + (errors_before - before * rate) * harmonic).sum(-1) / mass[..., -1]
