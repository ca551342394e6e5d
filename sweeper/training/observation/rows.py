"""Find validation inputs that are also training inputs, and evaluations in training mode."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sweeper.smoothing.binary import is_single_logit, two_class_logits

Hashes = NDArray[np.uint64]
# Inputs that are compared; more would need much memory.
MOST_ROWS: Final = 500_000
_NONE: Final = np.empty(0, np.uint64)


def hash_rows(rows: Tensor) -> Hashes:
    """Return a 64-bit hash of the bytes of each row: equal rows have equal hashes."""
    flat = rows.detach().cpu().contiguous().reshape(len(rows), -1)
    # NumPy has no bfloat16, so the bytes are viewed as such first.
    content = flat.view(torch.uint8).numpy()
    padding = -content.shape[1] % 8
    words = np.ascontiguousarray(np.pad(content, ((0, 0), (0, padding)))).view(np.uint64)
    factors = np.random.default_rng(0).integers(2**64, size=words.shape[1], dtype=np.uint64)
    mixed = words ^ (words >> np.uint64(29))
    hashes: Hashes = (mixed * (factors | np.uint64(1))).sum(1, dtype=np.uint64)
    return hashes


class RowObserver:
    """Watches the calls of the model: the inputs in training, inputs and outputs in evaluation."""

    def __init__(self) -> None:
        self.trained: list[Hashes] = []
        self._depth = 0
        self._inner: Tensor | None = None
        self._evaluated: list[tuple[Hashes, Hashes, str]] = []  # outputs, inputs, mode
        self._trained_rows = self._evaluated_rows = 0

    def before(self, module: nn.Module, arguments: Any) -> None:
        """Note the beginning of a call of a module."""
        if self._depth == 0:
            self._inner = None
        self._depth += 1
        if self._inner is None and self._depth > 1:
            self._inner = _first_tensor(arguments)

    def after(self, module: nn.Module, arguments: Any, options: Any, output: Any) -> None:
        """Note the end of a call of a module; the outermost one is the model."""
        self._depth = max(self._depth - 1, 0)
        if self._depth or next(module.parameters(), None) is None:
            return
        inputs = _first_tensor((*arguments, *options.values()))
        inputs = self._inner if inputs is None else inputs
        logits = _first_float(output)
        if inputs is None or inputs.requires_grad or logits is None or not len(inputs):
            return
        if logits.requires_grad:
            if self._trained_rows < MOST_ROWS:
                self._trained_rows += len(inputs)
                self.trained.append(hash_rows(inputs))
        elif len(logits) == len(inputs) and self._evaluated_rows < MOST_ROWS:
            self._evaluated_rows += len(inputs)
            of_inputs, mode = hash_rows(inputs), _random_layers(module)
            for rows in _as_rows(logits):
                of_rows = np.repeat(of_inputs, len(rows) // len(inputs))
                self._evaluated.append((hash_rows(rows.float()), of_rows, mode))

    def take(self, logits: Hashes) -> tuple[Hashes, Hashes, str]:
        """Return the hashes of the reported and of the training inputs, and the training mode.

        `logits` are the hashes of the reported logits. The hashes of their inputs are empty, and
        the mode "", unless the model has returned all of them. Forgets everything.
        """
        evaluated, trained = self._evaluated, self.trained
        self.trained, self._evaluated, self._trained_rows, self._evaluated_rows = [], [], 0, 0
        training = np.concatenate(trained) if trained else _NONE
        inputs, modes = _matched(logits, evaluated)
        return inputs, training, max(modes, default="")


def _matched(
    logits: Hashes, evaluated: Sequence[tuple[Hashes, Hashes, str]]
) -> tuple[Hashes, set[str]]:
    """Return the inputs and the modes of the evaluations that returned the reported logits."""
    distinct = np.unique(logits)
    # A model that returns the same for most inputs does not tell which input a row belongs to.
    if not evaluated or 2 * len(distinct) <= len(logits):
        return _NONE, set()
    outputs = np.concatenate([part[0] for part in evaluated])
    inputs = np.concatenate([part[1] for part in evaluated])
    found = np.isin(outputs, distinct)
    if len(np.unique(outputs[found])) < len(distinct):
        return _NONE, set()
    modes = {mode for part, _, mode in evaluated if np.isin(part, distinct).any()}
    order = np.argsort(outputs, kind="stable")
    return inputs[order[np.searchsorted(outputs, logits, sorter=order)]], modes


def _first_tensor(values: Any) -> Tensor | None:
    for value in values:
        if isinstance(value, Tensor) and value.dim() and not value.is_complex():
            return value
        if isinstance(value, tuple | list | Mapping):
            items = value.values() if isinstance(value, Mapping) else value
            found = _first_tensor(items)
            if found is not None:
                return found
    return None


def _first_float(output: Any) -> Tensor | None:
    """Return the logits among the outputs of a model: the first tensor that can be logits."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() and output.dim() else None
    if isinstance(output, Mapping):
        named = output.get("logits")
        return named if isinstance(named, Tensor) else _first_of(output.values())
    return _first_of(output) if isinstance(output, tuple | list) else None


def _first_of(values: Any) -> Tensor | None:
    return next((found for value in values if (found := _first_float(value)) is not None), None)


def _as_rows(logits: Tensor) -> Iterator[Tensor]:
    """Yield logits as rows (n, K), with the classes on the second and on the last axis."""
    if is_single_logit(logits):
        yield two_class_logits(logits).reshape(-1, 2)
    elif logits.dim() == 2:
        yield logits
    elif logits.dim() > 2:
        yield logits.movedim(1, -1).reshape(-1, logits.shape[1])
        yield logits.reshape(-1, logits.shape[-1])


def _random_layers(module: nn.Module) -> str:
    """Return the type of a layer that is in training mode and then behaves differently, or ""."""
    if not module.training:
        return ""
    for layer in module.modules():
        drops = isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0  # noqa: SLF001
        if layer.training and (drops or isinstance(layer, nn.modules.batchnorm._BatchNorm)):  # noqa: SLF001
            return type(layer).__name__
    return ""
