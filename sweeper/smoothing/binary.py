"""Binary models with one logit per example, as models of two classes with the logits [0, z]."""

import torch
from torch import Tensor

from sweeper.smoothing.checks import values_readable


def is_single_logit(logits: Tensor) -> bool:
    """Return whether the logits have shape (N,), (N, 1) or (N, 1, d1, …)."""
    return logits.dim() == 1 or (logits.dim() > 1 and logits.shape[1] == 1)


def two_class_logits(logits: Tensor) -> Tensor:
    """Return the logits (N, 2, d1, …) of two classes for single logits z; the first is 0."""
    logits = logits.unsqueeze(1) if logits.dim() == 1 else logits
    return torch.cat([torch.zeros_like(logits), logits], 1)


def two_classes(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits (N, 2, d1, …) of two classes, and labels for them.

    `logits` are single logits. `labels` have their shape, or (N, d1, …): integers or bools are
    returned as integers (N, d1, …), and floats, which are probabilities of class 1, as those of
    both classes. Raises ValueError for other shapes and for floats outside [0, 1].
    """
    shape = (logits.shape[0], *logits.shape[2:])
    if tuple(labels.shape) not in (shape, tuple(logits.shape)):
        raise ValueError(
            f"labels for logits of shape {tuple(logits.shape)} must have shape {shape}; "
            f"got {tuple(labels.shape)}"
        )
    labels = labels.reshape(shape)
    if not labels.is_floating_point():
        return two_class_logits(logits), labels.long()
    if values_readable(labels) and not ((labels >= 0) & (labels <= 1)).all():
        raise ValueError(
            "a label is outside [0, 1]; float labels for one logit per example are probabilities, "
            "and only integer labels can be ignored"
        )
    return two_class_logits(logits), torch.stack([1 - labels, labels], 1)
