"""Temperature scaling: one number that makes a model as confident as it is right."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from sweeper.scoring.score_inputs import MASKED, blocks, checked

LOWEST, HIGHEST = 0.01, 100.0
_STEPS = 100
# Halley's error is cubed by each step: after one as small as this it is below 1e-10.
_PRECISION = 1e-4
# So many steps without an upper bound: perhaps there is none.
_UNBOUNDED = 3
# Of so many blocks, a share gives a start that spares most passes over all of them.
_MANY, _SHARE = 32, 16
# Any fixed number: every trial's evaluation is split the same way.
_SPLIT_SEED = 0


class Margins(NamedTuple):
    """Samples as their temperature sees them: z - max z (K, n), and of the label, `own` (n,)."""

    below: Tensor
    own: Tensor


class Halves(NamedTuple):
    """All samples in two halves, drawn by the fixed permutation `order` (N,)."""

    first: Sequence[Margins]
    second: Sequence[Margins]
    order: Tensor

    @property
    def all(self) -> Sequence[Margins]:
        """Both halves."""
        return [*self.first, *self.second]


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the T in [0.01, 100] that minimises the NLL of softmax(logits / T).

    `logits` (N, K) of any float type, `labels` (N,) hard. The NLL is convex in β = 1/T, with
    L' = mean(E_p[z] - z_y) and L'' = mean(Var_p[z]) (Guo et al. 2017); Halley's method within a
    bracket. Perfectly separable data get the lower end; NaN or +inf logits give NaN. Raises
    ValueError as `score` does.
    """
    return 1 / fitted_beta(halved(*checked(logits, labels)).all)


def halved(logits: Tensor, labels: Tensor) -> Halves:
    """Return the halves of checked logits (N, K); the first of one sample is empty."""
    order = _order(len(labels))
    first, second = order.tensor_split([len(order) // 2])
    return Halves(_drawn(logits, labels, first), _drawn(logits, labels, second), order)


@lru_cache(maxsize=1)
def _order(count: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(_SPLIT_SEED))


def _drawn(logits: Tensor, labels: Tensor, chosen: Tensor) -> list[Margins]:
    return [margins(*block) for block in blocks(logits[chosen], labels[chosen])]


def margins(logits: Tensor, labels: Tensor) -> Margins:
    """Return the margins of a block of logits (K, n): NaN for NaN or +inf."""
    below = logits - logits.amax(0)
    own = below.gather(0, labels.unsqueeze(0)).squeeze(0)
    return Margins(below.clamp_(min=MASKED), own)


def cross_fitted(halves: Halves, start: float) -> tuple[Tensor, Tensor]:
    """Return NLL and confidence (N,) of samples at the temperature fitted on the other half.

    `start` is near the β of both. A half without samples has temperature 1.
    """
    first, second, order = halves
    there, here = fitted_beta(second, start), fitted_beta(first, start)
    parts = [softened(each, there) for each in first] + [softened(each, here) for each in second]
    nll, confidence = (torch.cat(values) for values in zip(*parts, strict=True))
    back = order.argsort()
    return nll[back], confidence[back]


def softened(samples: Margins, beta: float) -> tuple[Tensor, Tensor]:
    """Return NLL and confidence (n,) of softmax(βz)."""
    total = (beta * samples.below).exp_().sum(0)
    return total.log() - beta * samples.own, total.reciprocal()


def fitted_beta(samples: Sequence[Margins], start: float | None = None) -> float:
    """Return the β in [0.01, 100] with the least NLL; 1 if nothing depends on it, NaN with NaN.

    Labels on a masked class (z_y = -inf), which cost infinity at every temperature, are left
    out. `start` is near the answer.
    """
    if start is None:
        # Samples are in no order, so that a share of them stands for all.
        start = fitted_beta(samples[::_SHARE]) if len(samples) > _MANY else 1.0
    return _halley([_without_masked_labels(each) for each in samples], start)


def _without_masked_labels(samples: Margins) -> Margins:
    below, own = samples
    kept = own != -math.inf
    if kept.all():
        return samples
    # Below +inf everything is -inf, and that is no mask.
    kept |= below.isnan().any(0)
    return Margins(below[:, kept], own[kept])


def _halley(samples: Sequence[Margins], beta: float) -> float:
    """Return the root of L' between the limits: a Halley step if it stays inside the bracket."""
    lowest, highest = 1 / HIGHEST, 1 / LOWEST
    low, high = 0.0, math.inf
    for step in range(_STEPS):
        slope, curvature, third = _derivatives(samples, beta)
        if math.isnan(slope):
            return math.nan
        if slope == curvature == 0:
            return highest if any(each.below.any() for each in samples) else 1.0
        low, high = (beta, high) if slope < 0 else (low, beta)
        if step == _UNBOUNDED and high == math.inf and _derivatives(samples, highest)[0] <= 0:
            # Separable data: the NLL falls for ever, until the float is 0.
            return highest
        proposed = min(max(beta - _halley_step(slope, curvature, third), lowest), highest)
        if not low <= proposed <= high:
            proposed = math.sqrt(max(low, lowest) * min(high, highest))
        elif abs(proposed - beta) <= _PRECISION * beta:
            return proposed
        beta = proposed
    return beta


def _halley_step(slope: float, curvature: float, third: float) -> float:
    """Return f/(f' - f·f''/(2f')) of f = L'; without f'' it would be Newton's step."""
    if curvature <= 0:
        return math.copysign(math.inf, slope)
    divisor = curvature - slope * third / (2 * curvature)
    return slope / (divisor if divisor > 0 else curvature)


def _derivatives(samples: Sequence[Margins], beta: float) -> tuple[float, float, float]:
    """Return L', L'' and L''' at β of the summed NLL."""
    slope = curvature = third = 0.0
    for below, own in samples:
        odds = (beta * below).exp_()
        total = odds.sum(0)
        moment = odds.mul_(below)
        mean = moment.sum(0) / total
        square = moment.mul_(below).sum(0) / total
        cube = moment.mul_(below).sum(0) / total
        variance = square - mean.square()
        slope += (mean - own).sum().item()
        curvature += variance.sum().item()
        third += (cube - mean * (square + 2 * variance)).sum().item()
    return slope, curvature, third
