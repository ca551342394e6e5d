"""The smoothed targets themselves: the formula that the loss must agree with."""

import torch
from torch import Tensor
from torch.nn import functional as F

from sweeper.smoothing.checks import check_epsilons, check_labels, may_look
from sweeper.smoothing.conventions import (
    UNIFORM,
    check_classes,
    check_convention,
    check_epsilon,
)


def smooth_targets(
    labels: Tensor,
    classes: int,
    epsilon: float | Tensor,
    *,
    convention: str = "others",
    mask: Tensor | None = None,
) -> Tensor:
    """Return the smoothed target distribution of each sample, (N, K).

    `labels` (N,) integer, or (N, K) probabilities; `epsilon` a float, a 0-dim tensor or (N,);
    `mask` (K,) or (N, K) bool, True where a class is allowed: epsilon is shared by the allowed
    classes of the row alone, and a single allowed class gets all the mass.

        others:   (1 - ε)·q + ε·(1 - q)/(K - 1)      Müller et al. 2019 call this ε·K/(K - 1)
        uniform:  (1 - ε)·q + ε/K                    Szegedy et al. 2016, torch

    Raises ValueError for an epsilon outside [0, 1], fewer than 2 classes, or labels that are
    not among the allowed classes (values of tensors only in eager mode on the CPU).
    """
    check_classes(classes)
    check_convention(convention)
    column = _epsilon_column(epsilon)
    hot = _distribution(labels, classes, column.dtype)
    allowed = _allowed(mask, hot)
    count = allowed.sum(1, keepdim=True)
    if convention == UNIFORM:
        return (1 - column) * hot + column * allowed / count
    smoothed = (1 - column) * hot + column * (allowed - hot) / (count - 1).clamp(min=1)
    return torch.where(count > 1, smoothed, allowed)


def _epsilon_column(epsilon: float | Tensor) -> Tensor:
    if not isinstance(epsilon, Tensor):
        return torch.full((1, 1), check_epsilon(epsilon))
    if epsilon.dim() > 1:
        raise ValueError(f"epsilon has shape {tuple(epsilon.shape)}; it is 0-dim or (N,)")
    if may_look(epsilon):
        check_epsilons(epsilon)
    return epsilon.reshape(-1, 1)


def _distribution(labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    if labels.is_floating_point() and labels.dim() == 2 and labels.shape[1] == classes:
        return labels
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.dim() != 1:
        raise ValueError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}; "
            f"they are integers (N,) or probabilities (N, {classes})"
        )
    if may_look(labels):
        check_labels(labels, classes)
    return F.one_hot(labels.long(), classes).to(dtype)


def _allowed(mask: Tensor | None, hot: Tensor) -> Tensor:
    if mask is None:
        return torch.ones_like(hot)
    if mask.dtype != torch.bool or mask.shape not in (hot.shape, hot.shape[1:]):
        raise ValueError(
            f"mask is {mask.dtype} of shape {tuple(mask.shape)}; "
            f"it is bool, ({hot.shape[1]},) or {tuple(hot.shape)}, True for an allowed class"
        )
    if may_look(mask, hot) and ((hot != 0) & ~mask).any():
        raise ValueError("a label's class is masked out; the mask must allow every label")
    return mask.expand_as(hot).to(hot.dtype)
