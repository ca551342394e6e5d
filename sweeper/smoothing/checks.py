"""When tensor values may be looked at, and the checks that look."""

import torch
from torch import Tensor


def may_look(*tensors: Tensor) -> bool:
    """Return whether the values of these tensors may decide a branch.

    They may in eager mode on the CPU, outside torch.func: a look at a value would split a
    compiled graph, break vmap, and wait for a GPU.
    """
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    return all(tensor.device.type == "cpu" for tensor in tensors)


def check_labels(labels: Tensor, classes: int, ignore_index: int | None = None) -> None:
    """Raise ValueError, naming the first, if a label that counts is not in [0, classes)."""
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
            f"a label is {labels[wrong][0].item()}; with {classes} classes labels lie in "
            f"[0, {classes - 1}]" + _unless_ignored(ignore_index)
        )


def check_epsilons(epsilon: Tensor) -> None:
    """Raise ValueError, naming it, if an epsilon is not in [0, 1]; NaN is not."""
    if epsilon.numel() == 0:
        return
    # aminmax hands NaN on, and only this form of the comparison refuses it.
    low, high = (bound.item() for bound in epsilon.detach().aminmax())
    if not (low >= 0 and high <= 1):
        given = low if not low >= 0 else high
        raise ValueError(f"epsilon is {given}; it is a number in [0, 1]")


def _unless_ignored(ignore_index: int | None) -> str:
    return "" if ignore_index is None else f", or are {ignore_index} to be ignored"
