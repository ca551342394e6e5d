"""The label-smoothing loss as a function of logits, labels and epsilon."""

import math
from typing import Any

import torch
from torch import Tensor

from sweeper.smoothing.binary import is_single_logit, two_classes
from sweeper.smoothing.checks import check_epsilons, check_labels, values_readable
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
    """Return the cross-entropy, in nats, with smoothed labels.

    `logits` has shape (N, K) or (N, K, d1, …). `labels` are integers (N, d1, …) or probabilities
    with the shape of the logits. Logits z of shape (N,), (N, 1) or (N, 1, d1, …) are those of a
    binary model: two classes with the logits [0, z]. Their labels are 0 or 1, or floats: the
    probabilities of class 1. `epsilon` is a float or a tensor, which may require a gradient:
    0-dim, (N,), or with the shape of integer labels. `weight` (K,) are class weights. Half
    precision is computed and returned in float32. A logit of -inf masks its class; epsilon is then
    distributed over the other classes of the row.

    With e the `uniform` epsilon, nll = -Σ w·q·log p and u = -Σ w·log p / K, the loss of a sample is
    (1 - e)·nll + e·u (Szegedy et al. 2016). As in torch (aten's
    cross_entropy_loss_label_smoothing), a class weight applies to the log-probability of its class,
    not to the sample: the smoothed mass of a class counts with the weight of that class, so the
    target of label y is proportional to (1 - e)·w[y]·1[k = y] + e·w[k]/K. The mean is that of torch
    too: divided by the sum of w[y] over the labels that are not ignored, or by the number of
    samples for probabilities. A mean over no samples is 0.

    Raises ValueError for an epsilon outside [0, 1], fewer than 2 classes, labels out of range, and
    incompatible shapes. Values of tensors are checked only in eager mode on the CPU outside
    torch.func.
    """
    if is_single_logit(logits):
        logits, labels = two_classes(logits, labels)
    _check_arguments(logits, labels, epsilon, convention, weight, ignore_index, reduction)
    plain = weight is None and is_plain(logits, labels, epsilon)
    if plain:
        factor = _uniform_factor(logits.shape[1], convention)
        loss = plain_loss(
            logits, labels, _check_epsilon_argument(epsilon), factor, ignore_index, reduction
        )
        if loss is not None:
            return loss
        if reduction == "none" and logits.dim() == 2:
            finite = finite_rows(logits)
            if finite.any():
                return _split_losses(finite, logits, labels, epsilon, convention, ignore_index)
    if weight is None and may_fuse(logits, labels, epsilon):
        return _fused(logits, labels, epsilon, convention, ignore_index, reduction)
    _check_values(labels, epsilon, logits.shape[1], ignore_index)
    return _general_loss(
        logits, labels, epsilon, convention, weight, ignore_index, reduction, plain
    )


def _fused(
    logits: Tensor,
    labels: Tensor,
    epsilon: float | Tensor,
    convention: str,
    ignore_index: int,
    reduction: str,
) -> Tensor:
    from sweeper.smoothing.kernels.fused import fused_loss  # Triton may only be installed with CUDA

    def general(logits: Tensor) -> Tensor:
        return _general_loss(
            logits, labels, epsilon, convention, None, ignore_index, reduction, masked=False
        )

    others = convention != UNIFORM
    return fused_loss(logits, labels, epsilon, others, ignore_index, reduction, general)


def _check_epsilon_argument(epsilon: float | Tensor) -> float | Tensor:
    """Check epsilon, and convert a scalar tensor to a float."""
    if not isinstance(epsilon, Tensor):
        return float(epsilon)
    if epsilon.dim() == 0:
        return check_epsilon(float(epsilon.item()))
    check_epsilons(epsilon)
    return epsilon


def _split_losses(
    finite: Tensor,
    logits: Tensor,
    labels: Tensor,
    epsilon: float | Tensor,
    convention: str,
    ignore_index: int,
) -> Tensor:
    """Compute the losses of finite and other (masked or NaN) rows separately.

    So the loss of a row does not depend on the other rows.
    """
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


def _general_loss(
    logits: Tensor,
    labels: Tensor,
    epsilon: float | Tensor,
    convention: str,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    masked: bool,
) -> Tensor:
    """Return the loss using differentiable operations; `masked` if a row is known to have -inf."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    counts = None if labels.is_floating_point() else labels != ignore_index
    targets = labels if counts is None else torch.where(counts, labels.long(), 0)
    if weight is not None:
        weight = weight.to(logits)
    read_values = not masked and values_readable(logits)
    losses = _sample_losses(
        logits, targets, counts, _per_sample(epsilon, logits), convention, weight, read_values
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
    read_values: bool,
) -> Tensor:
    """Return the loss of each sample; without a mask if no logit is -inf."""
    if read_values:
        log_p = logits.log_softmax(1)
        total = -row_sums(_apply_weight(log_p, weight)).squeeze(1)
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
    """Return the loss of each sample for any mask, without reading tensor values."""
    if counts is not None:
        logits = logits.where(counts.unsqueeze(1), 0.0)
    # NaN is not masked, so that it makes the loss NaN.
    allowed = logits != -math.inf
    log_p = logits.log_softmax(1)
    # `targets != 0` keeps the infinite loss of a label on a masked class; elsewhere 0·(-inf) would
    # be NaN.
    known = log_p if counts is not None else log_p.where(allowed | (targets != 0), 0.0)
    total = -row_sums(_apply_weight(log_p.where(allowed, 0.0), weight)).squeeze(1)
    nll = _nll(known, targets, weight)
    return _blend(nll, total, epsilon, allowed.sum(1).to(logits.dtype), convention)


def _nll(log_p: Tensor, targets: Tensor, weight: Tensor | None) -> Tensor:
    if targets.is_floating_point():
        return -row_sums(_apply_weight(targets * log_p, weight)).squeeze(1)
    nll = -log_p.gather(1, targets.unsqueeze(1)).squeeze(1)
    return nll if weight is None else nll * weight[targets]


def _apply_weight(terms: Tensor, weight: Tensor | None) -> Tensor:
    if weight is None:
        return terms
    return terms * weight.reshape(-1, *[1] * (terms.dim() - 2))


def _blend(
    nll: Tensor, total: Tensor, epsilon: float | Tensor, classes: int | Tensor, convention: str
) -> Tensor:
    """Return (1 - e)·nll + e·total/K with e the `uniform` epsilon; e is 0 for a single class."""
    epsilon = epsilon * _uniform_factor(classes, convention)
    return (1 - epsilon) * nll + epsilon * (total / classes)


def _uniform_factor(classes: Any, convention: str) -> Any:
    """Return the factor that converts an epsilon to the `uniform` convention."""
    if convention == UNIFORM:
        return 1.0
    if not isinstance(classes, Tensor):
        return classes / (classes - 1)
    return torch.where(classes > 1, classes / (classes - 1).clamp(min=1), 0.0)


def _per_sample(epsilon: float | Tensor, logits: Tensor) -> float | Tensor:
    """Return epsilon in the type of the logits; (N,) is reshaped to broadcast over positions."""
    if not isinstance(epsilon, Tensor):
        return epsilon
    epsilon = epsilon.to(logits)
    if epsilon.dim() == 1:
        return epsilon.reshape(-1, *[1] * (logits.dim() - 2))
    return epsilon


def _divisor(
    targets: Tensor, counts: Tensor | None, weight: Tensor | None, losses: Tensor
) -> int | Tensor:
    """Return the divisor of the mean; it is never 0."""
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
        raise ValueError(f"unknown reduction {reduction!r}; allowed: {', '.join(REDUCTIONS)}")
    _check_targets(labels, logits, ignore_index)
    _check_epsilon(epsilon, logits)
    if weight is not None and weight.shape != logits.shape[1:2]:
        raise ValueError(
            f"weight must have shape ({logits.shape[1]},), one value per class; "
            f"got {tuple(weight.shape)}"
        )


def _check_logits(logits: Tensor) -> None:
    if logits.dim() < 2 or not logits.is_floating_point():
        raise ValueError(
            "logits must be floats of shape (N, K) or (N, K, d1, …); "
            f"got {logits.dtype} of shape {tuple(logits.shape)}"
        )
    check_classes(logits.shape[1])


def _check_targets(labels: Tensor, logits: Tensor, ignore_index: int) -> None:
    if labels.is_floating_point():
        if labels.shape != logits.shape:
            raise ValueError(
                "soft labels must have the shape of the logits, "
                f"{tuple(logits.shape)}; got {tuple(labels.shape)}"
            )
        if ignore_index >= 0:
            raise ValueError(
                f"ignore_index must be negative for soft labels, which cannot be ignored; "
                f"got {ignore_index}"
            )
        return
    expected = (logits.shape[0], *logits.shape[2:])
    if labels.dtype == torch.bool or labels.is_complex() or tuple(labels.shape) != expected:
        raise ValueError(
            f"labels for logits of shape {tuple(logits.shape)} must be integers of shape "
            f"{expected} or floats with the shape of the logits; "
            f"got {labels.dtype} of shape {tuple(labels.shape)}"
        )


def _check_epsilon(epsilon: float | Tensor, logits: Tensor) -> None:
    if not isinstance(epsilon, Tensor):
        check_epsilon(epsilon)
        return
    samples = (logits.shape[0], *logits.shape[2:])
    if tuple(epsilon.shape) not in ((), samples[:1], samples):
        raise ValueError(
            f"epsilon must be a float or have shape (), {samples[:1]} or {samples}; "
            f"got shape {tuple(epsilon.shape)}"
        )


def _check_values(labels: Tensor, epsilon: float | Tensor, classes: int, ignore_index: int) -> None:
    if not labels.is_floating_point() and values_readable(labels):
        check_labels(labels, classes, ignore_index)
    if isinstance(epsilon, Tensor) and values_readable(epsilon):
        check_epsilons(epsilon)
