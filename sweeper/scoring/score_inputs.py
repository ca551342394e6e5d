"""Validation of the inputs of scores, and iteration over blocks of samples."""

from collections.abc import Iterator

import torch
from torch import Tensor

from sweeper.scoring.logits_file import Logits

# Replaces -inf for a masked class: its p still underflows to 0, but 0·(-inf) would be NaN.
MASKED = -1e100
# Elements per block, so that intermediate results fit in a core's cache.
_ELEMENTS = 2**16
# With at least this many classes, operations over the classes of one sample vectorize well.
_WIDE = 64


def check_inputs(logits: Logits, labels: Tensor) -> tuple[Logits, Tensor]:
    """Return logits (N, K) and int64 labels (N,), both on the CPU.

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
            f"labels range from {low} to {high}; for logits with {classes} classes "
            f"they must be in [0, {classes - 1}]"
        )
    return logits.detach().cpu() if isinstance(logits, Tensor) else logits, labels


def blocks(logits: Logits, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield blocks of samples: float64 logits (K, n), classes first, and labels (n,)."""
    rows = rows_per_block(logits.shape[1])
    for start in range(0, len(logits), rows):
        yield block(logits[start : start + rows], labels[start : start + rows])


def block(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return float64 logits (K, n), classes first, and labels (n,)."""
    return _classes_first(logits), labels


def rows_per_block(classes: int) -> int:
    """Return the number of samples in a block."""
    return max(_ELEMENTS // classes, 1)


def _classes_first(logits: Tensor) -> Tensor:
    transposed = logits.t()
    if transposed.shape[0] >= _WIDE:
        return transposed.to(torch.float64)
    # With few classes, operations vectorize only over the samples. `to` converts and transposes in
    # one copy, but copies nothing if the dtype stays the same; hence `contiguous`.
    return transposed.to(torch.float64, memory_format=torch.contiguous_format).contiguous()


def _check_shapes(logits: Logits, labels: Tensor) -> None:
    if len(logits.shape) != 2 or logits.shape[1] < 2 or not logits.dtype.is_floating_point:
        raise ValueError(
            f"logits are {logits.dtype} of shape {tuple(logits.shape)}; "
            "they must be floats of shape (N, K) with K at least 2"
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels are {labels.dtype}; they must be hard labels: integers (N,)")
    if labels.shape != logits.shape[:1]:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}; for logits of shape "
            f"{tuple(logits.shape)} it must be ({logits.shape[0]},)"
        )
    if labels.numel() == 0:
        raise ValueError("no samples to score; at least 1 is needed")
