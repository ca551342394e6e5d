"""Checks of tensor values, and when tensor values may be read."""

import torch
from torch import Tensor


def values_readable(*tensors: Tensor) -> bool:
    """Return whether the values of these tensors may be read in Python.

    Returns true in eager mode on the CPU, outside torch.func. Reading a value would split a
    compiled graph, fail under vmap, and synchronize a GPU.
    """
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    return all(tensor.device.type == "cpu" for tensor in tensors)


def check_labels(labels: Tensor, classes: int, ignore_index: int | None = None) -> None:
    """Raise ValueError if a label is not in [0, classes) and is not `ignore_index`."""
    if labels.numel() == 0:
        return
    low, high = labels.aminmax()
    if low.item() >= 0 and high.item() < classes:
        return
    wrong = (labels < 0) | (labels >= classes)
    if ignore_index is not None:
        wrong &= labels != ignore_index
    if wrong.any():
        raise ValueError(
            f"a label is {labels[wrong][0].item()}; labels of {classes} classes must be in "
            f"[0, {classes - 1}]" + _or_ignored(ignore_index)
        )


def check_epsilons(epsilon: Tensor) -> None:
    """Raise ValueError if an epsilon is NaN or not in [0, 1]."""
    if epsilon.numel() == 0:
        return
    # aminmax propagates NaN, and this form of the comparison is false for NaN.
    low, high = (bound.item() for bound in epsilon.detach().aminmax())
    if not (low >= 0 and high <= 1):
        wrong = low if not low >= 0 else high
        raise ValueError(f"epsilon must be in [0, 1], got {wrong}")


def _or_ignored(ignore_index: int | None) -> str:
    return "" if ignore_index is None else f", or {ignore_index} to be ignored"
