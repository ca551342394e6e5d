"""Temperature scaling (Guo et al. 2017): one parameter that calibrates a model's confidence."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sweeper.scoring.logits_file import Logits
from sweeper.scoring.samples import Columns
from sweeper.scoring.score_inputs import MASKED, block, check_inputs, rows_per_block

LOWEST, HIGHEST = 0.01, 100.0
_STEPS = 100
# Halley's method converges cubically: after a relative step below this, the error is < 1e-10.
_PRECISION = 1e-4
# After this many steps without an upper bound, check whether there is one at all.
_UNBOUNDED = 3
# With more than _MANY blocks, fit every _SHARE-th block first, to get a good starting value.
_LARGE_BLOCK_COUNT, _SUBSET_STEP = 32, 16
# Arbitrary but fixed, so that the evaluations of all trials are split in the same way.
_SPLIT_SEED = 0


# Margins of up to this many logits (256 MiB) are kept in memory. Beyond that they are computed
# again in each pass, so that the memory in use does not grow with the number of samples. The rows
# of each half are then ascending, because logits in a file are read in that order.
MAX_KEPT = 2**25


class Margins(NamedTuple):
    """The logits of a block relative to their maximum: all (K, n), and those of the labels (n,)."""

    below: Tensor
    own: Tensor


# Functions that return the margins of one block each.
MarginBlocks = Sequence[Callable[[], Margins]]


class Halves(NamedTuple):
    """All samples, randomly split into halves; `order` (N,) are the rows of the first, then second.

    The split is the same for all trials.
    """

    first: MarginBlocks
    second: MarginBlocks
    order: Tensor

    @property
    def all(self) -> MarginBlocks:
        """Both halves."""
        return [*self.first, *self.second]


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the T in [0.01, 100] that minimizes the NLL of softmax(logits / T).

    `logits` (N, K) have any float type, `labels` (N,) are hard. The NLL is convex in β = 1/T, with
    L' = mean(E_p[z] - z_y) and L'' = mean(Var_p[z]). It is minimized with a bracketed Halley's
    method. For perfectly separable data the result is 0.01; if a logit is NaN or +inf, it is NaN.
    Raises ValueError in the same cases as `score`.
    """
    return 1 / fit_beta(split_in_halves(*check_inputs(logits, labels)).all)


def split_in_halves(logits: Logits, labels: Tensor, groups: Tensor | None = None) -> Halves:
    """Split checked logits (N, K) and labels (N,) in halves of about N/2 samples.

    No group is divided; `groups` (N,) are integers, None means one group per sample. With a single
    group, the first half is empty.
    """
    if groups is None:
        order, half = _order(len(labels)), len(labels) // 2
    else:
        order, half = _order_by_group(groups)
    first, second = order.tensor_split([half])
    if logits.numel() > MAX_KEPT:
        first, second = first.sort().values, second.sort().values
        order = torch.cat([first, second])
    return Halves(_margins_of(logits, labels, first), _margins_of(logits, labels, second), order)


def _order_by_group(groups: Tensor) -> tuple[Tensor, int]:
    """Return the samples (N,) in a random order of groups, and the size of the first half."""
    _, index, sizes = (
        torch.from_numpy(each)
        for each in np.unique(groups.numpy(), return_inverse=True, return_counts=True)
    )
    shuffled = _order(len(sizes))
    ends = sizes[shuffled].cumsum(0)[:-1]
    half = int(ends[(ends - len(groups) // 2).abs().argmin()]) if len(ends) else 0
    return shuffled.argsort()[index].argsort(stable=True), half


@lru_cache(maxsize=1)
def _order(count: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(_SPLIT_SEED))


def _margins_of(logits: Logits, labels: Tensor, rows: Tensor) -> MarginBlocks:
    def compute(part: Tensor) -> Margins:
        return margins(*block(logits[part], labels[part]))

    found = [partial(compute, part) for part in torch.split(rows, rows_per_block(logits.shape[1]))]
    if logits.numel() <= MAX_KEPT:
        return [partial(_kept, each()) for each in found]
    return found


def _kept(samples: Margins) -> Margins:
    return samples


def margins(logits: Tensor, labels: Tensor) -> Margins:
    """Return the margins of a block of logits (K, n); NaN for samples with NaN or +inf."""
    below = logits - logits.amax(0)
    own = below.gather(0, labels.unsqueeze(0)).squeeze(0)
    return Margins(below.clamp_(min=MASKED), own)


def cross_fit(halves: Halves, start: float) -> tuple[Tensor, Tensor]:
    """Return NLL and confidence (N,), each half scaled with the temperature of the other half.

    `start` is the initial β of both fits. The temperature of an empty half is 1.
    """
    first, second, order = halves
    beta_second, beta_first = fit_beta(second, start), fit_beta(first, start)
    columns = Columns(len(order))
    for blocks, beta in ((first, beta_second), (second, beta_first)):
        for each in blocks:
            columns.add(scaled_values(each(), beta))
    nll, confidence = columns.values
    inverse = order.argsort()
    return nll[inverse], confidence[inverse]


def scaled_values(samples: Margins, beta: float) -> tuple[Tensor, Tensor]:
    """Return the NLL and confidence (n,) of softmax(βz) for a block of samples."""
    total = (beta * samples.below).exp_().sum(0)
    return total.log() - beta * samples.own, total.reciprocal()


def fit_beta(samples: MarginBlocks, start: float | None = None) -> float:
    """Return the β in [0.01, 100] with the lowest NLL.

    It is 1 if the NLL does not depend on β, and NaN if a margin is NaN. Samples whose label is a
    masked class (z_y = -inf) are left out, because their NLL is infinite at every temperature.
    `start` is the initial value; None means that one is estimated.
    """
    if start is None:
        # The samples are shuffled, so a subset of the blocks is representative.
        start = fit_beta(samples[::_SUBSET_STEP]) if len(samples) > _LARGE_BLOCK_COUNT else 1.0
    return _halley(samples, start)


def _without_masked_labels(samples: Margins) -> Margins:
    below, own = samples
    usable = own != -math.inf
    if usable.all():
        return samples
    # If a logit is +inf, the other margins are -inf without being masked; keep these samples.
    usable |= below.isnan().any(0)
    return Margins(below[:, usable], own[usable])


def _halley(samples: MarginBlocks, beta: float) -> float:
    """Find the root of L' within the limits, by Halley steps or bisection of the bracket."""
    lowest, highest = 1 / HIGHEST, 1 / LOWEST
    low, high = 0.0, math.inf
    for step in range(_STEPS):
        slope, curvature, third = _derivatives(samples, beta)
        if math.isnan(slope):
            return math.nan
        if slope == curvature == 0:
            return (
                highest
                if any(_without_masked_labels(each()).below.any() for each in samples)
                else 1.0
            )
        low, high = (beta, high) if slope < 0 else (low, beta)
        if step == _UNBOUNDED and high == math.inf and _derivatives(samples, highest)[0] <= 0:
            # Separable data: the NLL decreases for all β, so it has no minimum.
            return highest
        proposed = min(max(beta - _halley_step(slope, curvature, third), lowest), highest)
        if not low <= proposed <= high:
            proposed = math.sqrt(max(low, lowest) * min(high, highest))
        elif abs(proposed - beta) <= _PRECISION * beta:
            return proposed
        beta = proposed
    return beta


def _halley_step(slope: float, curvature: float, third: float) -> float:
    """Return Halley's step f/(f' - f·f''/(2f')) for f = L', or Newton's f/f' if it is invalid."""
    if curvature <= 0:
        return math.copysign(math.inf, slope)
    divisor = curvature - slope * third / (2 * curvature)
    return slope / (divisor if divisor > 0 else curvature)


def _derivatives(samples: MarginBlocks, beta: float) -> tuple[float, float, float]:
    """Return L', L'' and L''' at β of the summed NLL."""
    slope = curvature = third = 0.0
    for each in samples:
        below, own = _without_masked_labels(each())
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
