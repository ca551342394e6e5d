"""The outputs of a model on one split, as they are scored: logits (N, K) and labels (N,)."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeGuard

import numpy as np
import torch
from torch import Tensor

from sweeper.errors import SweeperError
from sweeper.scoring.logits_file import Logits, LogitsFile, bytes_of
from sweeper.scoring.temperature import MAX_KEPT
from sweeper.smoothing.binary import is_single_logit, two_class_logits
from sweeper.training.conversion import as_tensor, describe

# The types that a training run can report.
Array = Tensor | np.ndarray[Any, Any] | Sequence[Any]
Batch = tuple[Array, Array] | tuple[Array, Array, Array]

IGNORED: Final = -100
# Logits that are copied at a time if they have to be rearranged.
_PIECE: Final = 2**22


class Outputs(NamedTuple):
    """Logits (N, K), labels (N,) and groups (N,); the groups are None if there are none."""

    logits: Logits
    labels: Tensor
    groups: Tensor | None


class Scorer:
    """Collects the outputs of a model batch by batch, for `run.report`.

    A run creates it with `run.scorer()`. Small outputs are kept in memory. From 33 million logits
    on they are written to a temporary file, so that memory holds only a few numbers per example.
    The scores are those of a single call with all examples.
    """

    def __init__(self, ignore_index: int = IGNORED, directory: Path | None = None) -> None:
        if not isinstance(ignore_index, int):
            raise TypeError(f"ignore_index must be an integer, got {describe(ignore_index)}")
        self.ignore_index = ignore_index
        self._directory = directory
        self._batches = self._rows = 0
        # Bytes that grow in place: many small tensors would fragment the memory.
        self._kept, self._labels, self._groups = bytearray(), bytearray(), bytearray()
        self._file: LogitsFile | None = None
        self._grouped: bool | None = None
        self._layout: tuple[int, torch.dtype] | None = None
        self._outputs: Outputs | None = None

    def add(self, logits: Array, labels: Array, groups: Array | None = None) -> None:
        """Add the outputs for a batch.

        `logits` has shape (N, K) or (N, K, d1, …), `labels` (N,) or (N, d1, …). `groups` (N,) or
        (N, d1, …) are integers; equal numbers in different batches are the same group. Without
        them, each entry of the first axis of logits (N, K, d1, …) is a group. Raises TypeError or
        ValueError for other types and shapes, and if a batch does not match the batches before it.
        """
        if self._outputs is not None:
            raise SweeperError(
                "this scorer was already reported; create one for each report with run.scorer()"
            )
        self._batches += 1
        place = f"batch {self._batches}: "
        try:
            self.add_tensors(*_as_tensors(logits, labels, groups, place))
        except ValueError as error:
            raise ValueError(f"{place}{error}") from None

    def add_tensors(self, logits: Tensor, labels: Tensor, groups: Tensor | None) -> None:
        """Add tensors in pieces, so that the memory for rearranging them is limited."""
        check_shapes(logits, labels, groups)
        if groups is None and logits.dim() > 2:
            groups = torch.arange(self._rows, self._rows + len(logits))
        self._rows += len(logits)
        rows = max(_PIECE * len(logits) // max(logits.numel(), 1), 1)
        for start in range(0, len(logits), rows):
            part = slice(start, start + rows)
            of_part = None if groups is None else groups[part]
            self._append(flatten(logits[part], labels[part], of_part, self.ignore_index))

    def _append(self, outputs: Outputs) -> None:
        logits, labels, groups = outputs
        assert isinstance(logits, Tensor)
        self._check_layout(logits, groups is not None)
        if self._file is not None:
            self._file.append(logits.cpu())
        elif len(logits):
            self._kept += bytes_of(logits.cpu().contiguous())
            if len(self._kept) > MAX_KEPT * logits.dtype.itemsize:
                self._file = LogitsFile.temporary(logits.shape[1], logits.dtype, self._directory)
                self._file.append(self._kept_logits())
                self._kept = bytearray()
        if len(labels):
            self._labels += bytes_of(labels.to("cpu", torch.int64).contiguous())
            if groups is not None:
                self._groups += bytes_of(groups.to("cpu", torch.int64).contiguous())

    def _kept_logits(self) -> Tensor:
        assert self._layout is not None
        classes, dtype = self._layout
        return torch.frombuffer(self._kept, dtype=dtype).view(-1, classes)

    def _check_layout(self, logits: Tensor, grouped: bool) -> None:
        layout = logits.shape[1], logits.dtype
        if self._layout is None:
            self._layout, self._grouped = layout, grouped
        if layout != self._layout:
            classes, dtype = self._layout
            raise ValueError(
                f"logits have {layout[0]} classes and type {layout[1]}; those of the first batch "
                f"have {classes} classes and type {dtype}; they must be the same in all batches"
            )
        if grouped != self._grouped:
            raise ValueError("groups must be given for all batches or for none")

    def outputs(self) -> Outputs:
        """Return the outputs of all batches; no batch can be added afterwards.

        Raises ValueError if there is no example.
        """
        if self._outputs is None:
            if not self._labels:
                raise ValueError(
                    "logits contain no examples to score: there are no batches, or every label is "
                    f"{self.ignore_index} (ignore_index)"
                )
            labels, groups = (
                torch.frombuffer(each, dtype=torch.int64) if each else None
                for each in (self._labels, self._groups)
            )
            logits = self._kept_logits() if self._file is None else self._file
            assert labels is not None
            self._outputs = Outputs(logits, labels, groups)
        return self._outputs


def collect(given: tuple[object, object, object], scorer: Scorer, place: str) -> Outputs:
    """Return logits, labels and groups in the form that is scored.

    The logits may be a `Scorer` or an iterable of batches; then labels and groups are None.
    `scorer` is an empty one, for outputs that have to be rearranged. `place` comes before "logits",
    "labels" and "groups" in error messages. Raises TypeError or ValueError for other types and
    shapes.
    """
    if isinstance(given[0], LogitsFile):
        return Outputs(*given)  # type: ignore[arg-type]  # the outputs of another Evaluation
    try:
        if given[1] is None:
            return _collect_batches(given[0], given[2], scorer)
        tensors = _as_tensors(*given, "")
        check_shapes(*tensors)
        if _ready(*tensors[:2], scorer.ignore_index):
            logits, labels, groups = tensors
            return Outputs(logits.detach(), labels, None if groups is None else groups.cpu().long())
        scorer.add_tensors(*tensors)
        return scorer.outputs()
    except (TypeError, ValueError) as error:
        raise type(error)(f"{place}{error}") from None


def _as_tensors(
    logits: object, labels: object, groups: object, place: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    return (
        as_tensor(logits, f"{place}logits"),
        as_tensor(labels, f"{place}labels"),
        None if groups is None else as_tensor(groups, f"{place}groups"),
    )


def _collect_batches(batches: object, groups: object, scorer: Scorer) -> Outputs:
    if groups is not None:
        raise ValueError("groups cannot be used without labels; add them to each batch")
    if isinstance(batches, Scorer):
        if scorer.ignore_index not in (IGNORED, batches.ignore_index):
            raise ValueError(
                f"ignore_index is {scorer.ignore_index}, but the scorer was created with "
                f"{batches.ignore_index}; use run.scorer(ignore_index={scorer.ignore_index})"
            )
        return batches.outputs()
    if isinstance(batches, Tensor | np.ndarray | str) or not isinstance(batches, Iterable):
        raise TypeError(
            f"logits is {describe(batches)} without labels; give logits and labels, an iterable of "
            "batches (logits, labels), or the object from run.scorer()"
        )
    for number, batch in enumerate(batches, 1):
        if not is_batch(batch):
            raise TypeError(
                f"batch {number} is {describe(batch)}; it must be (logits, labels) or "
                "(logits, labels, groups)"
            )
        scorer.add(*batch)
    return scorer.outputs()


def is_batch(value: object) -> TypeGuard[Sequence[Any]]:
    """Return whether a value is a tuple or list of logits, labels and optionally groups."""
    return isinstance(value, tuple | list) and len(value) in (2, 3)


def _ready(logits: Tensor, labels: Tensor, ignore_index: int) -> bool:
    """Return whether the logits are (N, K) and no label is ignored."""
    if logits.dim() != 2 or logits.shape[1] < 2:
        return False
    return not bool((labels.long() == ignore_index).any())


def check_shapes(logits: Tensor, labels: Tensor, groups: Tensor | None) -> None:
    """Raise ValueError unless the shapes and types of labels and groups match the logits."""
    if not logits.is_floating_point() or logits.dim() < 1:
        raise ValueError(
            f"logits are {logits.dtype} of shape {tuple(logits.shape)}; they must be floats of "
            "shape (N, K) or (N, K, d1, …), or (N,) for one logit per example"
        )
    shape, binary = (*logits.shape[:1], *logits.shape[2:]), is_single_logit(logits)
    if not binary and (labels.is_floating_point() or labels.dtype in (torch.bool, torch.complex64)):
        raise ValueError(
            f"labels are {labels.dtype}; they must be integer class numbers of shape {shape}"
        )
    if tuple(labels.shape) != shape and not (binary and labels.shape == logits.shape):
        hint = ""
        if labels.shape == logits.shape[:-1]:
            hint = "; if the classes are on the last axis, give logits.movedim(-1, 1)"
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}; for logits of shape "
            f"{tuple(logits.shape)} it must be {shape}{hint}"
        )
    if groups is None:
        return
    integers = not (groups.is_floating_point() or groups.is_complex() or groups.dtype == torch.bool)
    if not integers or tuple(groups.shape) not in (shape[:1], shape):
        raise ValueError(
            f"groups are {groups.dtype} of shape {tuple(groups.shape)}; for logits of shape "
            f"{tuple(logits.shape)} they must be integers of shape {shape[:1]}"
            + (f" or {shape}" if len(shape) > 1 else "")
        )


def flatten(logits: Tensor, labels: Tensor, groups: Tensor | None, ignore_index: int) -> Outputs:
    """Return logits (n, K), labels (n,) and groups (n,) of the positions that are not ignored.

    The arguments must have passed `check_shapes`. One logit per example becomes two, [0, z].
    Raises ValueError for labels that are not hard.
    """
    logits, labels = logits.detach(), _hard(labels)
    if is_single_logit(logits):
        logits = two_class_logits(logits)
    shape = (logits.shape[0], *logits.shape[2:])
    labels = labels.reshape(-1)
    if groups is not None:
        groups = groups.reshape(*groups.shape, *[1] * (len(shape) - groups.dim()))
        groups = groups.expand(shape).reshape(-1)
    if logits.dim() > 2:
        logits = logits.movedim(1, -1).reshape(-1, logits.shape[1])
    counts = labels != ignore_index
    if counts.all():
        return Outputs(logits, labels, groups)
    return Outputs(
        logits[counts.to(logits.device)],
        labels[counts],
        None if groups is None else groups[counts.to(groups.device)],
    )


def _hard(labels: Tensor) -> Tensor:
    """Return labels as int64; with one logit per example they may be floats or bools."""
    whole = labels.long()
    if labels.is_floating_point() and bool((whole != labels).any()):
        raise ValueError("labels contain fractions; for one logit per example they must be 0 or 1")
    return whole


def split_outputs(returned: object, scorer: Scorer, name: str) -> Outputs:
    """Return the outputs that a function of `Evaluation.splits` has returned.

    Raises TypeError or ValueError, naming `name`, if they are not valid.
    """
    place = f"{name}: "
    if isinstance(returned, Scorer | Iterator) or _is_list_of_batches(returned):
        return collect((returned, None, None), scorer, place)
    if not is_batch(returned):
        raise TypeError(
            f"{name} returned {describe(returned)}; it must return logits and labels, "
            "optionally with groups, or batches of these"
        )
    logits, labels, groups = (*returned, None)[:3]
    return collect((logits, labels, groups), scorer, place)


def _is_list_of_batches(value: object) -> bool:
    first = value[0] if isinstance(value, tuple | list) and value else None
    return is_batch(first) and isinstance(first[0], Tensor | np.ndarray)
