"""How well a model's confidence tells its mistakes: what is wrong among the surest samples."""

from typing import overload

import torch
from torch import Tensor

from sweeper.scoring.confidence import checked_confidence, checked_weights, for_each
from sweeper.scoring.ranking import Ranking, ranking


@overload
def aurc_of(confidence: Tensor, correct: Tensor, weights: None = None) -> float: ...


@overload
def aurc_of(confidence: Tensor, correct: Tensor, weights: Tensor) -> Tensor: ...


def aurc_of(confidence: Tensor, correct: Tensor, weights: Tensor | None = None) -> float | Tensor:
    """Return the area under the risk-coverage curve, in [0, 1]; lower is better.

    The mean over n = 1..N of the error rate of the n samples of the highest confidence (Geifman
    and El-Yaniv 2017), and over all orders of tied samples. `confidence` (N,) floats in [0, 1],
    the largest probability of each sample; `correct` (N,) bool. With `weights` (N,) or (B, N),
    0 or more, a float64 tensor () or (B,): a sample of weight w counts as w samples. Raises
    ValueError for other shapes, no samples, confidences outside [0, 1], and weights that are
    negative, not finite or all 0.
    """
    confidence, hits = checked_confidence(confidence, correct)
    ranked = ranking(confidence)
    if weights is None:
        return ranked_area(ranked, hits).item()
    return for_each(
        lambda each: ranked_area(ranked, hits, each), checked_weights(weights, len(hits))
    )


def ranked_area(ranked: Ranking, hits: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the area (…) of a ranking with 0/1 `hits` (N,), and weights (…, N) if not all 1."""
    if weights is None:
        return _area((ranked.ends + 1).double(), ranked.cumulative(1 - hits))
    return _area(ranked.cumulative(weights), ranked.cumulative(weights * (1 - hits)))


def least_area(hits: Tensor) -> float:
    """Return the area with these 0/1 `hits` (N,) if every mistake ranked below all the rest."""
    right, count = hits.sum().item(), len(hits)
    mass = torch.tensor([right, count], dtype=torch.float64)
    return _area(mass, torch.tensor([0.0, count - right], dtype=torch.float64)).item()


def _area(mass: Tensor, errors: Tensor) -> Tensor:
    """Return the area (…) of groups, given what each and those before it add up to, (…, G).

    A group that starts at mass a with E errors and has g more of them in a mass of m gives, at
    i = a + 1..a + m, a mean risk of (E + (i - a)·g/m)/i; summed, g + (E - a·g/m)·(H_{a+m} - H_a)
    with the harmonic numbers H. Where weights are not whole, H goes on as the digamma function.
    """
    zero = torch.zeros_like(mass[..., :1])
    harmonic = torch.cat([zero + 1, mass + 1], -1).digamma().diff()
    before, errors_before = (torch.cat([zero, sums[..., :-1]], -1) for sums in (mass, errors))
    more, wrong = mass - before, errors - errors_before
    rate = torch.where(more > 0, wrong / more, 0.0)
    return (wrong + (errors_before - before * rate) * harmonic).sum(-1) / mass[..., -1]
