"""The label-smoothing loss as a function of logits, labels and epsilon."""

import math
from typing import Any

import torch
from torch import Tensor

from sweeper.smoothing.checks import check_epsilons, check_labels, may_look
from sweeper.smoothing.conventions import (
    UNIFORM,
    check_classes,
    check_convention,
    check_epsilon,
)
from sweeper.smoothing.kernels.eager import finite_rows, is_plain, may_fuse, plain_loss, row_sums

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
    plain = weight is None and is_plain(logits, labels, epsilon)
    if plain:
        factor = _uniform_factor(logits.shape[1], convention)
        loss = plain_loss(logits, labels, _looked_at(epsilon), factor, ignore_index, reduction)
        if loss is not None:
            return loss
        if reduction == "none" and logits.dim() == 2:
            finite = finite_rows(logits)
            if finite.any():
                return _losses_of_both(finite, logits, labels, epsilon, convention, ignore_index)
    if weight is None and may_fuse(logits, labels, epsilon):
        return _fused(logits, labels, epsilon, convention, ignore_index, reduction)
    _check_values(labels, epsilon, logits.shape[1], ignore_index)
    return _any_loss(logits, labels, epsilon, convention, weight, ignore_index, reduction, plain)


def _fused(
    logits: Tensor,
    labels: Tensor,
    epsilon: float | Tensor,
    convention: str,
    ignore_index: int,
    reduction: str,
) -> Tensor:
    from sweeper.smoothing.kernels.fused import fused_loss  # Triton is there on a GPU alone

    def general(logits: Tensor) -> Tensor:
        return _any_loss(
            logits, labels, epsilon, convention, None, ignore_index, reduction, masked=False
        )

    others = convention != UNIFORM
    return fused_loss(logits, labels, epsilon, others, ignore_index, reduction, general)


def _looked_at(epsilon: float | Tensor) -> float | Tensor:
    """Return epsilon as a float if it is one number, and checked."""
    if not isinstance(epsilon, Tensor):
        return float(epsilon)
    if epsilon.dim() == 0:
        return check_epsilon(float(epsilon.item()))
    check_epsilons(epsilon)
    return epsilon


def _losses_of_both(
    finite: Tensor,
    logits: Tensor,
    labels: Tensor,
    epsilon: float | Tensor,
    convention: str,
    ignore_index: int,
) -> Tensor:
    """Return the losses of rows of which some are masked or NaN, each as if it were alone."""
    losses = torch.zeros_like(finite, dtype=torch.promote_types(logits.dtype, torch.float32))
    for rows in (finite, ~finite):
        part = smoothing_loss(
            logits[rows],
            labels[rows],
            epsilon[rows] if isinstance(epsilon, Tensor) and epsilon.dim() else epsilon,
            convention=convention,
            ignore_index=ignore_index,
            reduction="none",
        )
        losses = losses.masked_scatter(rows, part)
    return losses


def _any_loss(
    logits: Tensor,
    labels: Tensor,
    epsilon: float | Tensor,
    convention: str,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    masked: bool,
) -> Tensor:
    """Return the loss in operations that each have a gradient; `masked` if a look said so."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    counts = None if labels.is_floating_point() else labels != ignore_index
    targets = labels if counts is None else torch.where(counts, labels.long(), 0)
    if weight is not None:
        weight = weight.to(logits)
    look = not masked and may_look(logits)
    losses = _sample_losses(
        logits, targets, counts, _per_sample(epsilon, logits), convention, weight, look
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
    look: bool,
) -> Tensor:
    """Return the loss of each sample; a row without -inf needs no mask."""
    if look:
        log_p = logits.log_softmax(1)
        total = -row_sums(_weighted(log_p, weight)).squeeze(1)
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
    total = -row_sums(_weighted(log_p.where(allowed, 0.0), weight)).squeeze(1)
    nll = _nll(known, targets, weight)
    return _blend(nll, total, epsilon, allowed.sum(1).to(logits.dtype), convention)


def _nll(log_p: Tensor, targets: Tensor, weight: Tensor | None) -> Tensor:
    if targets.is_floating_point():
        return -row_sums(_weighted(targets * log_p, weight)).squeeze(1)
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
    epsilon = epsilon * _uniform_factor(classes, convention)
    return (1 - epsilon) * nll + epsilon * (total / classes)


def _uniform_factor(classes: Any, convention: str) -> Any:
    """Return what turns an epsilon of this convention into the `uniform` one."""
    if convention == UNIFORM:
        return 1.0
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


def _check_values(labels: Tensor, epsilon: float | Tensor, classes: int, ignore_index: int) -> None:
    if not labels.is_floating_point() and may_look(labels):
        check_labels(labels, classes, ignore_index)
    if isinstance(epsilon, Tensor) and may_look(epsilon):
        check_epsilons(epsilon)
