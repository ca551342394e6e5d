"""What one block of samples gets, from one softmax: the values that every score is a mean of."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sweeper.scoring.calibration import add_class_gaps
from sweeper.scoring.score_inputs import MASKED

_TOP = 5
FEWEST_CLASSES_FOR_TOP = 10


class Samples(NamedTuple):
    """What samples get, (n,) each: `nll` in nats, `brier` in [0, 2], the largest probability."""

    nll: Tensor
    brier: Tensor
    confidence: Tensor
    correct: Tensor


class Shares(NamedTuple):
    """All probabilities of a block: `log_p` and `p` (K, n), `labels` (n,)."""

    log_p: Tensor
    p: Tensor
    labels: Tensor


class Spread(NamedTuple):
    """What scores in full need of all classes.

    `top` (n,) says whether the label is among the five likeliest, None below 10 classes;
    `entropy` (n,) in nats.
    """

    top: Tensor | None
    entropy: Tensor


def judged(logits: Tensor, labels: Tensor) -> tuple[Samples, Shares]:
    """Return what the samples of a block of logits (K, n) get, and what they get it from."""
    log_p = _log_softmax(logits)
    own = log_p.gather(0, labels.unsqueeze(0)).squeeze(0)
    p = log_p.exp()
    confidence, predicted = p.max(0)
    # Σ (p - q)² with q one-hot is Σ p² - 2·p_y + 1 (Brier 1950).
    brier = torch.linalg.vecdot(p, p, dim=0).sub_(own.exp(), alpha=2).add_(1)
    return Samples(own.neg_(), brier, confidence, predicted == labels), Shares(log_p, p, labels)


def _log_softmax(logits: Tensor) -> Tensor:
    # Over the classes as they lie in memory: it would copy what is turned.
    return logits.log_softmax(0) if logits.is_contiguous() else logits.t().log_softmax(1).t()


def joined(parts: Sequence[Samples]) -> Samples:
    """Return the samples of all blocks as one."""
    return parts[0] if len(parts) == 1 else Samples(*map(torch.cat, zip(*parts, strict=True)))


def spread(samples: Samples, shares: Shares, gaps: Tensor) -> Spread:
    """Return what is left to work out of a block, whose `log_p` is used up.

    Adds to `gaps` (K, bins) as `add_class_gaps` does.
    """
    log_p, p, labels = shares
    log_p.clamp_(min=MASKED)
    own = (-samples.nll).clamp_(min=MASKED)
    top = _in_top(log_p, own, labels) if len(p) >= FEWEST_CLASSES_FOR_TOP else None
    add_class_gaps(gaps, p, own.exp_(), labels)
    return Spread(top, -log_p.mul_(p).sum(0))


def _in_top(log_p: Tensor, own: Tensor, labels: Tensor) -> Tensor:
    # Sums of floats are vectorised, those of booleans are not.
    at_least = torch.ge(log_p, own, out=torch.empty_like(log_p)).sum(0)
    top = at_least <= _TOP
    unsure = (~top).nonzero().squeeze(1)
    if len(unsure):
        top[unsure] = _rank(log_p[:, unsure], own[unsure], labels[unsure]) < _TOP
    return top


def _rank(log_p: Tensor, own: Tensor, labels: Tensor) -> Tensor:
    tied_before = (log_p == own) & (torch.arange(len(log_p)).unsqueeze(1) < labels)
    return ((log_p > own) | tied_before).sum(0)
