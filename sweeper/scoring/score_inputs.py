"""What every score is computed from: checked once, and looked at in blocks of samples."""

from collections.abc import Iterator

import torch
from torch import Tensor

# What stands for a masked class: its p underflows to 0, and 0·(-inf) would be NaN.
MASKED = -1e100
# Elements of a block: what is worked out from it stays in a core's cache.
_ELEMENTS = 2**16
# From so many classes on, operations over the classes of one sample are vectorised well.
_WIDE = 64


def checked(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits (N, K) as they came and int64 labels (N,), on the CPU.

    Raises ValueError for other shapes and types, no samples, fewer than 2 classes, or a label
    outside [0, K). The values of the logits are not checked.
    """
    _check_shapes(logits, labels)
    labels = labels.cpu().long()
    lowest, highest = labels.aminmax()
    low, high = lowest.item(), highest.item()
    classes = logits.shape[1]
    if low < 0 or high >= classes:
        raise ValueError(
            f"labels run from {low} to {high}; for logits of {classes} classes "
            f"they lie in [0, {classes - 1}]"
        )
    return logits.detach().cpu(), labels


def blocks(logits: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield float64 logits with classes first, (K, n), and labels (n,), a block at a time."""
    count, classes = logits.shape
    rows = max(_ELEMENTS // classes, 1)
    if count <= rows:
        yield _classes_first(logits), labels
        return
    for start in range(0, count, rows):
        yield _classes_first(logits[start : start + rows]), labels[start : start + rows]


def _classes_first(logits: Tensor) -> Tensor:
    turned = logits.t()
    if turned.shape[0] >= _WIDE:
        return turned.to(torch.float64)
    # Over few classes an operation is vectorised only over the samples. Turned and widened in
    # one copy; without a change of type the format alone makes none.
    return turned.to(torch.float64, memory_format=torch.contiguous_format).contiguous()


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
