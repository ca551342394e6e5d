"""Per-sample values of a block of logits, all computed from one softmax."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sweeper.scoring.calibration import add_class_gaps
from sweeper.scoring.score_inputs import MASKED

_TOP = 5
MIN_CLASSES_FOR_TOP5 = 10


class Samples(NamedTuple):
    """Values of samples, (n,) each.

    `nll` is in nats, `brier` in [0, 2]; `confidence` is the largest probability and `correct` says
    whether its class is the label.
    """

    nll: Tensor
    brier: Tensor
    confidence: Tensor
    correct: Tensor


class ClassProbabilities(NamedTuple):
    """The class probabilities of a block: `log_p` and `p` (K, n), `labels` (n,)."""

    log_p: Tensor
    p: Tensor
    labels: Tensor


class ClassValues(NamedTuple):
    """Per-sample values that need all class probabilities.

    `top` (n,) says whether the label is among the five most probable classes, None with fewer than
    10 classes. `entropy` (n,) is in nats.
    """

    top: Tensor | None
    entropy: Tensor


def sample_values(logits: Tensor, labels: Tensor) -> tuple[Samples, ClassProbabilities]:
    """Return the values of the samples of a block of logits (K, n), and the probabilities."""
    log_p = _log_softmax(logits)
    own = log_p.gather(0, labels.unsqueeze(0)).squeeze(0)
    p = log_p.exp()
    confidence, predicted = p.max(0)
    # Σ (p - q)² with q one-hot is Σ p² - 2·p_y + 1 (Brier 1950).
    brier = torch.linalg.vecdot(p, p, dim=0).sub_(own.exp(), alpha=2).add_(1)
    return Samples(own.neg_(), brier, confidence, predicted == labels), ClassProbabilities(
        log_p, p, labels
    )


def _log_softmax(logits: Tensor) -> Tensor:
    # Use the memory layout of the logits; log_softmax would copy a transposed tensor.
    return logits.log_softmax(0) if logits.is_contiguous() else logits.t().log_softmax(1).t()


class Columns:
    """Collects values (n,) of blocks of samples into tensors (N,).

    Keeping the small tensors of each block until the end would fragment the memory between them.
    """

    def __init__(self, count: int) -> None:
        self._count, self._filled = count, 0
        self._values: list[Tensor] = []

    def add(self, values: Sequence[Tensor]) -> None:
        """Append the values of a block."""
        size = len(values[0])
        if size == self._count:
            self._values = list(values)
            return
        if not self._values:
            self._values = [torch.empty(self._count, dtype=each.dtype) for each in values]
        for column, each in zip(self._values, values, strict=True):
            column[self._filled : self._filled + size] = each
        self._filled += size

    @property
    def values(self) -> list[Tensor]:
        """The values of all blocks, (N,) each."""
        return self._values


def class_values(samples: Samples, probabilities: ClassProbabilities, gaps: Tensor) -> ClassValues:
    """Return the `ClassValues` of a block and update `gaps` (K, bins) with `add_class_gaps`.

    The tensors in `probabilities` are modified in place.
    """
    log_p, p, labels = probabilities
    log_p.clamp_(min=MASKED)
    own = (-samples.nll).clamp_(min=MASKED)
    top = _in_top(log_p, own, labels) if len(p) >= MIN_CLASSES_FOR_TOP5 else None
    add_class_gaps(gaps, p, own.exp_(), labels)
    return ClassValues(top, -log_p.mul_(p).sum(0))


def _in_top(log_p: Tensor, own: Tensor, labels: Tensor) -> Tensor:
    # Sums of floats are vectorized; sums of booleans are not.
    at_least = torch.ge(log_p, own, out=torch.empty_like(log_p)).sum(0)
    top = at_least <= _TOP
    # The count above includes ties, so the rank decides for the others.
    uncertain = (~top).nonzero().squeeze(1)
    if len(uncertain):
        top[uncertain] = _rank(log_p[:, uncertain], own[uncertain], labels[uncertain]) < _TOP
    return top


def _rank(log_p: Tensor, own: Tensor, labels: Tensor) -> Tensor:
    tied_before = (log_p == own) & (torch.arange(len(log_p)).unsqueeze(1) < labels)
    return ((log_p > own) | tied_before).sum(0)
