"""Values of user code as plain numbers and tensors; what cannot be one is named in the error."""

from collections import Counter, OrderedDict
from collections.abc import Mapping
from numbers import Real
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

# Progress is often a sum of fractions: 20 times 1/20 is not exactly 1.
_ROUNDING: Final = 1e-9
_ROWS_LOOKED_AT: Final = 1000
_SAVED_AS_THEY_ARE: Final = (
    *(type(None), bool, int, float, complex, str, bytes),
    *(torch.Size, torch.dtype, torch.device),
)


def as_number(value: object, name: str) -> float:
    """Return a Python, NumPy or torch number as a float.

    Arrays and tensors of one element are numbers, too. Raises TypeError, with `name`, for all else.
    """
    if isinstance(value, Tensor | np.ndarray | np.generic) and _count(value) == 1:
        value = value.item()
    if isinstance(value, Real):
        try:
            return float(value)
        except OverflowError:
            raise TypeError(f"{name} is larger than the largest float") from None
    raise TypeError(f"{name} is {describe(value)}; it must be a number")


def as_progress(value: object, name: str = "progress") -> float:
    """Return a share of the training in (0, 1]; what differs from 1 by rounding is 1.

    Raises TypeError for what is not a number, ValueError for a number outside of (0, 1].
    """
    progress = as_number(value, name)
    if abs(progress - 1.0) <= _ROUNDING:
        return 1.0
    if not 0.0 < progress <= 1.0:
        raise ValueError(f"{name} is {progress}; it must be in (0, 1]")
    return progress


def as_tensor(value: object, name: str) -> Tensor:
    """Return a tensor as it is, an array or a list as a tensor; raises TypeError with `name`."""
    if isinstance(value, Tensor):
        return value
    try:
        return torch.as_tensor(np.ascontiguousarray(np.asarray(value)))
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} is {describe(value)}; it must be a tensor or an array") from None


def as_state(value: object, place: str) -> Any:
    """Return a state as it can be saved: NumPy numbers as Python's.

    Raises TypeError, naming the place, for what `torch.load(weights_only=True)` refuses to read.
    """
    kind = type(value)
    if isinstance(value, np.generic):
        return value.item()
    if kind in (dict, OrderedDict, Counter):
        items = {
            as_state(key, f"{place}'s keys"): as_state(item, f"{place}[{key!r}]")
            for key, item in value.items()  # type: ignore[attr-defined]
        }
        return items if kind is dict else kind(items)
    if isinstance(value, list | tuple) and kind in (list, tuple):
        return kind(as_state(item, f"{place}[{number}]") for number, item in enumerate(value))
    if kind in _SAVED_AS_THEY_ARE or isinstance(value, Tensor):
        return value
    raise TypeError(
        f"{place} is {describe(value)}; allowed: tensors, numbers, strings, None, "
        "and lists, tuples and dicts of them"
    )


def looks_like_probabilities(logits: Tensor) -> bool:
    """Return whether, in the first rows, no value is negative and each row sums to 1."""
    if logits.dim() != 2 or not logits.is_floating_point() or not len(logits):
        return False
    rows = logits.detach()[:_ROWS_LOOKED_AT].double()
    return bool((rows >= 0).all()) and bool((rows.sum(1) - 1).abs().max() < 1e-3)


def describe(value: object) -> str:
    """Return the type of a value in words, with its shape or length."""
    kind = type(value).__name__
    if isinstance(value, Tensor | np.ndarray):
        return f"{_article(kind)} of shape {tuple(value.shape)}"
    if isinstance(value, list | tuple | Mapping | set):
        return f"{_article(kind)} of length {len(value)}"
    return "None" if value is None else f"of type {kind}"


def _count(value: Any) -> int:
    return int(value.numel() if isinstance(value, Tensor) else value.size)


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0].lower() in "aeiou" or noun == "ndarray" else f"a {noun}"
