"""Samples sorted by confidence, with groups of tied samples."""

from typing import NamedTuple

import torch
from torch import Tensor


class Ranking(NamedTuple):
    """Samples sorted by descending confidence.

    `order` (N,) are the indices of the samples, `confidence` (N,) is sorted. `ends` (G,) are the
    positions of the last sample of each group of equal confidence. The order within a group is
    arbitrary.
    """

    order: Tensor
    confidence: Tensor
    ends: Tensor

    def cumulative(self, values: Tensor) -> Tensor:
        """Return the cumulative sums (…, G) of values (…, N), up to the end of each group."""
        return values[..., self.order].cumsum(-1)[..., self.ends]


def ranking(confidence: Tensor) -> Ranking:
    """Return the ranking of confidences (N,)."""
    ordered, order = confidence.sort(descending=True)
    last = torch.ones_like(ordered, dtype=torch.bool)
    last[:-1] = ordered[:-1] != ordered[1:]
    return Ranking(order, ordered, last.nonzero().squeeze(1))
