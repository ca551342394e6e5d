"""The smoothed target distributions, as a reference for the loss."""

import torch
from torch import Tensor
from torch.nn import functional as F

from sweeper.smoothing.checks import check_epsilons, check_labels, values_readable
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

    `labels` are integers (N,) or probabilities (N, K). `epsilon` is a float or a tensor, 0-dim or
    (N,). `mask` is a bool tensor (K,) or (N, K), True for allowed classes: epsilon is distributed
    over the allowed classes of the row, and a single allowed class gets all the mass.

        others:   (1 - ε)·q + ε·(1 - q)/(K - 1)      Müller et al. 2019 call this ε·K/(K - 1)
        uniform:  (1 - ε)·q + ε/K                    Szegedy et al. 2016, torch

    Raises ValueError for an epsilon outside [0, 1], fewer than 2 classes, and labels that are not
    allowed classes. Values of tensors are checked only in eager mode on the CPU.
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
        raise ValueError(f"epsilon must be 0-dim or (N,), got shape {tuple(epsilon.shape)}")
    if values_readable(epsilon):
        check_epsilons(epsilon)
    return epsilon.reshape(-1, 1)


def _distribution(labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    if labels.is_floating_point() and labels.dim() == 2 and labels.shape[1] == classes:
        return labels
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.dim() != 1:
        raise ValueError(
            f"labels must be integers (N,) or probabilities (N, {classes}); "
            f"got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    if values_readable(labels):
        check_labels(labels, classes)
    return F.one_hot(labels.long(), classes).to(dtype)


def _allowed(mask: Tensor | None, hot: Tensor) -> Tensor:
    if mask is None:
        return torch.ones_like(hot)
    if mask.dtype != torch.bool or mask.shape not in (hot.shape, hot.shape[1:]):
        raise ValueError(
            f"mask must be bool of shape ({hot.shape[1]},) or {tuple(hot.shape)}, True for allowed "
            f"classes; got {mask.dtype} of shape {tuple(mask.shape)}"
        )
    if values_readable(mask, hot) and ((hot != 0) & ~mask).any():
        raise ValueError("the class of a label is masked; the mask must allow every label")
    return mask.expand_as(hot).to(hot.dtype)
