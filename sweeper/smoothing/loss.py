"""The label-smoothing loss as a function of logits, labels and epsilon."""

import math

import torch
from torch import Tensor

from sweeper.smoothing.conventions import (
    UNIFORM,
    check_classes,
    check_convention,
    check_epsilon,
)
from sweeper.smoothing.values import check_epsilons, check_labels, may_look

REDUCTIONS = ("mean", "sum", "none")


def smoothing_loss(
    logits: Tensor,
    labels: Tensor,
    epsilon: float | Tensor,
    *,
    convention: str = "others",
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Return the cross-entropy, in nats, against smoothed labels.

    `logits` (N, K) or (N, K, d1, …); `labels` (N, d1, …) integer, or probabilities of the
    logits' shape; `epsilon` a float, a 0-dim tensor, (N,) or of hard labels' shape, with a
    gradient; `weight` (K,). Half precision is computed in and returned as float32. A logit of
    -inf masks its class: epsilon is shared by the other classes of the row.

    With e the `uniform` epsilon, nll = -Σ w·q·log p and u = -Σ w·log p / K, the loss of a sample
    is (1 - e)·nll + e·u (Szegedy et al. 2016). Means are torch's: over Σ w[y] of the labels that
    count, or over the samples for probabilities; over nothing it is 0.

    Raises ValueError for a float epsilon outside [0, 1], fewer than 2 classes, and shapes that
    do not fit; for the values of tensors only in eager mode on the CPU outside torch.func.
    """
    _check_arguments(logits, labels, epsilon, convention, weight, ignore_index, reduction)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    counts = None if labels.is_floating_point() else labels != ignore_index
    targets = labels if counts is None else torch.where(counts, labels.long(), 0)
    if weight is not None:
        weight = weight.to(logits)
    losses = _sample_losses(
        logits, targets, counts, _per_sample(epsilon, logits), convention, weight
    )
    if counts is not None:
        losses = losses.where(counts, 0.0)
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    return losses.sum() / _divisor(targets, counts, weight, losses)


def _sample_losses(
    logits: Tensor,
    targets: Tensor,
    counts: Tensor | None,
    epsilon: float | Tensor,
    convention: str,
    weight: Tensor | None,
) -> Tensor:
    """Return the loss of each sample; a row without -inf needs no mask."""
    if may_look(logits):
        log_p = logits.log_softmax(1)
        total = -_weighted(log_p, weight).sum(1)
        if math.isfinite(total.sum().item()):
            nll = _nll(log_p, targets, weight)
            return _blend(nll, total, epsilon, logits.shape[1], convention)
    return _masked_losses(logits, targets, counts, epsilon, convention, weight)


def _masked_losses(
    logits: Tensor,
    targets: Tensor,
    counts: Tensor | None,
    epsilon: float | Tensor,
    convention: str,
    weight: Tensor | None,
) -> Tensor:
    """Return the loss of each sample, right for any mask, without looking at a value."""
    if counts is not None:
        logits = logits.where(counts.unsqueeze(1), 0.0)
    # NaN differs from -inf too: it stays in, and makes the loss NaN.
    allowed = logits != -math.inf
    log_p = logits.log_softmax(1)
    # Not `allowed` alone: 0·(-inf) is NaN, but a label on a masked class is honestly infinite.
    known = log_p if counts is not None else log_p.where(allowed | (targets != 0), 0.0)
    total = -_weighted(log_p.where(allowed, 0.0), weight).sum(1)
    nll = _nll(known, targets, weight)
    return _blend(nll, total, epsilon, allowed.sum(1).to(logits.dtype), convention)


def _nll(log_p: Tensor, targets: Tensor, weight: Tensor | None) -> Tensor:
    if targets.is_floating_point():
        return -_weighted(targets * log_p, weight).sum(1)
    nll = -log_p.gather(1, targets.unsqueeze(1)).squeeze(1)
    return nll if weight is None else nll * weight[targets]


def _weighted(terms: Tensor, weight: Tensor | None) -> Tensor:
    if weight is None:
        return terms
    return terms * weight.reshape(-1, *[1] * (terms.dim() - 2))


def _blend(
    nll: Tensor, total: Tensor, epsilon: float | Tensor, classes: int | Tensor, convention: str
) -> Tensor:
    """Return (1 - e)·nll + e·total/K with e the uniform epsilon; a lone class is not smoothed."""
    if convention != UNIFORM:
        epsilon = epsilon * _others_to_uniform(classes)
    return (1 - epsilon) * nll + epsilon * (total / classes)


def _others_to_uniform(classes: int | Tensor) -> float | Tensor:
    if not isinstance(classes, Tensor):
        return classes / (classes - 1)
    return torch.where(classes > 1, classes / (classes - 1).clamp(min=1), 0.0)


def _per_sample(epsilon: float | Tensor, logits: Tensor) -> float | Tensor:
    """Return epsilon in the logits' type, (N,) stretched over the positions of each sample."""
    if not isinstance(epsilon, Tensor):
        return epsilon
    epsilon = epsilon.to(logits)
    if epsilon.dim() == 1:
        return epsilon.reshape(-1, *[1] * (logits.dim() - 2))
    return epsilon


def _divisor(
    targets: Tensor, counts: Tensor | None, weight: Tensor | None, losses: Tensor
) -> int | Tensor:
    """Return what a mean divides by, never 0."""
    if counts is None:
        return max(losses.numel(), 1)
    if weight is None:
        return counts.sum().clamp(min=1)
    total = (weight[targets] * counts).sum()
    return torch.where(total == 0, 1.0, total)


def _check_arguments(
    logits: Tensor,
    labels: Tensor,
    epsilon: float | Tensor,
    convention: str,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
) -> None:
    _check_logits(logits)
    check_convention(convention)
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}; it is one of {', '.join(REDUCTIONS)}")
    _check_targets(labels, logits, ignore_index)
    _check_epsilon(epsilon, logits)
    if weight is not None and weight.shape != logits.shape[1:2]:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}; it is ({logits.shape[1]},), one a class"
        )


def _check_logits(logits: Tensor) -> None:
    if logits.dim() < 2 or not logits.is_floating_point():
        raise ValueError(
            f"logits are {logits.dtype} of shape {tuple(logits.shape)}; "
            "they are floats (N, K) or (N, K, d1, …)"
        )
    check_classes(logits.shape[1])


def _check_targets(labels: Tensor, logits: Tensor, ignore_index: int) -> None:
    if labels.is_floating_point():
        if labels.shape != logits.shape:
            raise ValueError(
                f"soft labels have shape {tuple(labels.shape)}; "
                f"they have the logits', {tuple(logits.shape)}"
            )
        if ignore_index >= 0:
            raise ValueError(f"ignore_index is {ignore_index}; soft labels cannot be ignored")
        return
    expected = (logits.shape[0], *logits.shape[2:])
    if labels.dtype == torch.bool or labels.is_complex() or tuple(labels.shape) != expected:
        raise ValueError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}; for logits "
            f"{tuple(logits.shape)} they are integers {expected} or floats of the logits' shape"
        )
    if may_look(labels):
        check_labels(labels, logits.shape[1], ignore_index)


def _check_epsilon(epsilon: float | Tensor, logits: Tensor) -> None:
    if not isinstance(epsilon, Tensor):
        check_epsilon(epsilon)
        return
    samples = (logits.shape[0], *logits.shape[2:])
    if tuple(epsilon.shape) not in ((), samples[:1], samples):
        raise ValueError(
            f"epsilon has shape {tuple(epsilon.shape)}; it is a float, 0-dim, "
            f"{samples[:1]} or {samples}"
        )
    if may_look(epsilon):
        check_epsilons(epsilon)
