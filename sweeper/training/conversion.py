"""Convert values of user code to plain numbers and tensors; errors name the invalid value."""

from collections import Counter, OrderedDict
from collections.abc import Mapping
from numbers import Real
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from sweeper.scoring.logits_file import Logits

# Tolerance, because progress is often a sum of fractions: 20 times 1/20 is not exactly 1.
_ROUNDING: Final = 1e-9
_ROWS_CHECKED: Final = 1000
_SAVED_AS_THEY_ARE: Final = (
    *(type(None), bool, int, float, complex, str, bytes),
    *(torch.Size, torch.dtype, torch.device),
)


def as_number(value: object, name: str) -> float:
    """Convert a Python, NumPy or torch number, or an array or tensor of one element, to a float.

    Raises TypeError, naming `name`, for other values.
    """
    if isinstance(value, Tensor | np.ndarray | np.generic) and _count(value) == 1:
        value = value.item()
    if isinstance(value, Real):
        try:
            return float(value)
        except OverflowError:
            raise TypeError(f"{name} is too large for a float") from None
    raise TypeError(f"{name} must be a number, got {describe(value)}")


def as_progress(value: object, name: str = "progress") -> float:
    """Convert a progress in (0, 1] to a float; rounds to 1 if the difference is below 1e-9.

    Raises TypeError if it is not a number, ValueError if it is outside (0, 1].
    """
    progress = as_number(value, name)
    if abs(progress - 1.0) <= _ROUNDING:
        return 1.0
    if not 0.0 < progress <= 1.0:
        raise ValueError(f"{name} must be in (0, 1], got {progress}")
    return progress


def as_tensor(value: object, name: str) -> Tensor:
    """Convert an array or a list to a tensor. Raises TypeError, naming `name`, on failure."""
    if isinstance(value, Tensor):
        return value
    try:
        return torch.as_tensor(np.ascontiguousarray(np.asarray(value)))
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a tensor or an array, got {describe(value)}") from None


def as_state(value: object, place: str) -> Any:
    """Return a state that can be saved, with NumPy numbers converted to Python numbers.

    `place` names the value in errors. Raises TypeError for a value that
    `torch.load(weights_only=True)` cannot read.
    """
    kind = type(value)
    if isinstance(value, np.generic):
        return value.item()
    if kind in (dict, OrderedDict, Counter):
        items = {
            as_state(key, f"a key of {place}"): as_state(item, f"{place}[{key!r}]")
            for key, item in value.items()  # type: ignore[attr-defined]
        }
        return items if kind is dict else kind(items)
    if isinstance(value, list | tuple) and kind in (list, tuple):
        return kind(as_state(item, f"{place}[{number}]") for number, item in enumerate(value))
    if kind in _SAVED_AS_THEY_ARE or isinstance(value, Tensor):
        return value
    raise TypeError(
        f"{place} is {describe(value)}; allowed: tensors, numbers, strings, None, "
        "and lists, tuples and dicts of these"
    )


def looks_like_probabilities(logits: Logits) -> bool:
    """Return whether the first rows are nonnegative and each sums to 1, as after a softmax."""
    rows = logits[:_ROWS_CHECKED].double()
    return bool((rows >= 0).all()) and bool((rows.sum(1) - 1).abs().max() < 1e-3)


def safe_exception_text(error: BaseException) -> str:
    """Return the text of an exception, even if its `__str__` fails."""
    try:
        return str(error)
    except Exception:
        return f"<{type(error).__name__} without text>"


def in_one_line(error: BaseException) -> str:
    """Return the type and the text of an exception on one line."""
    return " ".join(f"{type(error).__name__}: {safe_exception_text(error)}".split())


def describe(value: object) -> str:
    """Return a phrase with the type of a value and its shape or length, for error messages."""
    kind = type(value).__name__
    if isinstance(value, Tensor | np.ndarray):
        return f"{_article(kind)} of shape {tuple(value.shape)}"
    if isinstance(value, list | tuple | Mapping | set):
        return f"{_article(kind)} of length {len(value)}"
    return "None" if value is None else _article(kind)


def _count(value: Any) -> int:
    return int(value.numel() if isinstance(value, Tensor) else value.size)


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0].lower() in "aeiou" or noun == "ndarray" else f"a {noun}"
