"""What every score is computed from, checked once."""

import torch
from torch import Tensor


def checked(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return float64 logits with classes first, (K, N), and int64 labels (N,), on the CPU.

    Raises ValueError for other shapes and types, no samples, fewer than 2 classes, or a label
    outside [0, K). The values of the logits are not checked.
    """
    _check_shapes(logits, labels)
    logits = logits.detach().to("cpu", torch.float64)
    labels = labels.detach().to("cpu", torch.int64)
    low, high = (bound.item() for bound in labels.aminmax())
    classes = logits.shape[1]
    if low < 0 or high >= classes:
        raise ValueError(
            f"labels run from {low} to {high}; for logits of {classes} classes "
            f"they lie in [0, {classes - 1}]"
        )
    # A softmax over few classes is vectorised only over the samples.
    return logits.t().contiguous(), labels


def _check_shapes(logits: Tensor, labels: Tensor) -> None:
    if logits.dim() != 2 or logits.shape[1] < 2 or not logits.is_floating_point():
        raise ValueError(
            f"logits are {logits.dtype} of shape {tuple(logits.shape)}; "
            "they are floats (N, K) with K at least 2"
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels are {labels.dtype}; scores need hard labels: integers (N,)")
    if labels.shape != logits.shape[:1]:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}; for logits "
            f"{tuple(logits.shape)} it is ({logits.shape[0]},)"
        )
    if labels.numel() == 0:
        raise ValueError("there are no samples to score; at least 1 is needed")
