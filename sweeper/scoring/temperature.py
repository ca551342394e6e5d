"""Temperature scaling: one number that makes a model as confident as it is right."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from sweeper.scoring.inputs import checked

LOWEST, HIGHEST = 0.01, 100.0
_STEPS = 100
# Newton's error is squared by each step: after one as small as this it is below 1e-10.
_PRECISION = 1e-6
_MASKED = 1e100
# Any fixed number: every trial's evaluation is split the same way.
_SPLIT_SEED = 0


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the T in [0.01, 100] that minimises the NLL of softmax(logits / T).

    `logits` (N, K) of any float type, `labels` (N,) hard. The NLL is convex in β = 1/T, with
    L' = mean(E_p[z] - z_y) and L'' = mean(Var_p[z]); Newton's method within a bracket (Guo et
    al. 2017). Perfectly separable data get the lower end; NaN or +inf logits give NaN. Raises
    ValueError as `score` does.
    """
    return 1 / fitted_beta(margins(*checked(logits, labels)))


def cross_fitted_nll(shifted: Tensor, start: float = 1.0) -> float:
    """Return the mean NLL, in nats, with each half scaled by the temperature of the other.

    Takes what `margins` gives. The halves come from a fixed permutation. A half without samples
    has temperature 1.
    """
    count = shifted.shape[1]
    first, second = shifted[:, _order(count)].tensor_split([count // 2], dim=1)
    total = _nll_sum(first, fitted_beta(second, start)) + _nll_sum(
        second, fitted_beta(first, start)
    )
    return total / count


@lru_cache(maxsize=1)
def _order(count: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(_SPLIT_SEED))


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Return z - z_y of logits (K, N): NaN for NaN or +inf, all inf where the label is masked."""
    own = logits.gather(0, labels.unsqueeze(0))
    shifted = torch.where(own == -math.inf, math.inf, logits - own)
    # A finite stand-in for a masked class: its p underflows to 0, and 0·(-inf) would be NaN.
    shifted = shifted.clamp(min=-_MASKED)
    return shifted.where(logits < math.inf, math.nan)


def fitted_beta(shifted: Tensor, start: float = 1.0) -> float:
    """Return the β in [0.01, 100] with the least NLL; 1 if nothing depends on it, NaN with NaN."""
    # A label on a masked class (z_y = -inf) costs infinity at every temperature.
    shifted = shifted[:, ~(shifted == math.inf).any(0)]
    if not shifted.any():
        return 1.0
    slope, _ = _derivatives(shifted, 1 / LOWEST)
    if math.isnan(slope):
        return math.nan
    # Separable data: the NLL falls for ever, until the float is 0.
    return 1 / LOWEST if slope <= 0 else _newton(shifted, start)


def _newton(shifted: Tensor, beta: float) -> float:
    """Return the root of L' between the limits: a Newton step if it stays inside the bracket."""
    low, high = 1 / HIGHEST, 1 / LOWEST
    for _ in range(_STEPS):
        slope, curvature = _derivatives(shifted, beta)
        low, high = (beta, high) if slope < 0 else (low, beta)
        proposed = beta - slope / curvature if curvature > 0 else math.nan
        if not low <= proposed <= high:
            proposed = math.sqrt(low * high)
        if abs(proposed - beta) <= _PRECISION * beta:
            return proposed
        beta = proposed
    return beta


def _derivatives(shifted: Tensor, beta: float) -> tuple[float, float]:
    """Return L' and L'' at β of the mean NLL."""
    p = (beta * shifted).softmax(0)
    weighted = p * shifted
    mean = weighted.sum(0)
    square = (weighted * shifted).sum(0)
    return mean.mean().item(), (square - mean**2).mean().item()


def _nll_sum(shifted: Tensor, beta: float) -> float:
    return (beta * shifted).logsumexp(0).sum().item()
