"""Samples in the order of a model's confidence, where tied ones have no order."""

from typing import NamedTuple

import torch
from torch import Tensor


class Ranking(NamedTuple):
    """Samples, the most confident first.

    `order` (N,) are their indices, `confidence` (N,) is sorted; `ends` (G,) are the places of the
    last sample of each group of equal confidence. Within a group, order means nothing.
    """

    order: Tensor
    confidence: Tensor
    ends: Tensor

    def cumulative(self, values: Tensor) -> Tensor:
        """Return the sums (…, G) of values (…, N) over each group and all that are before it."""
        return values[..., self.order].cumsum(-1)[..., self.ends]


def ranking(confidence: Tensor) -> Ranking:
    """Return the ranking of confidences (N,)."""
    ordered, order = confidence.sort(descending=True)
    last = torch.ones_like(ordered, dtype=torch.bool)
    last[:-1] = ordered[:-1] != ordered[1:]
    return Ranking(order, ordered, last.nonzero().squeeze(1))
