"""Logits on disk, for splits that are too large for memory."""

import os
import tempfile
import weakref
from pathlib import Path
from typing import IO, Any, Self

import torch
from torch import Tensor

from sweeper.errors import SweeperError


class LogitsFile:
    """Logits (N, K) in a file. Rows are read when they are indexed, so only those are in memory.

    Nothing is mapped: mapped pages would count as memory of the process. `file` contains `count`
    rows from the byte `start` on, and is closed with this object.
    """

    _folder = ""

    def __init__(
        self, file: IO[bytes], classes: int, dtype: torch.dtype, *, start: int = 0, count: int = 0
    ) -> None:
        self._file = file
        weakref.finalize(self, file.close)
        self._start, self._count, self._classes, self.dtype = start, count, classes, dtype
        self._row_size = classes * dtype.itemsize

    @classmethod
    def temporary(cls, classes: int, dtype: torch.dtype, directory: Path | None) -> Self:
        """Return an empty file in a folder, which the operating system removes when it is closed.

        If `directory` is None, it is in the folder for temporary files.
        """
        file = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115
        created = cls(file, classes, dtype)
        created._folder = str(directory or tempfile.gettempdir())
        return created

    @property
    def shape(self) -> torch.Size:
        """The shape (N, K)."""
        return torch.Size((self._count, self._classes))

    def __len__(self) -> int:
        return self._count

    def numel(self) -> int:
        """Return the number of logits."""
        return self._count * self._classes

    def append(self, logits: Tensor) -> None:
        """Append logits (n, K) on the CPU. Raises SweeperError if the disk is full."""
        left = bytes_of(logits.contiguous())
        try:
            while len(left):
                left = left[os.write(self._file.fileno(), left) :]
        except OSError as error:
            raise SweeperError(
                f"the logits cannot be written to a temporary file in {self._folder}: "
                f"{error.strerror}; free disk space there, or report fewer examples"
            ) from error
        self._count += len(logits)

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Return the logits (n, K) of a slice without a step, or of ascending row numbers (n,)."""
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(self._count)
            return self._read(start, max(stop, start))
        if not len(rows):
            return self._read(0, 0)
        first, last = int(rows[0]), int(rows[-1])
        return self._read(first, last + 1)[rows - first]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as a tensor, for sending to another process."""
        return torch.clone, (self[:],)

    def _read(self, start: int, stop: int) -> Tensor:
        found = torch.empty(stop - start, self._classes, dtype=self.dtype)
        left, place = bytes_of(found), self._start + start * self._row_size
        while len(left):
            size = os.preadv(self._file.fileno(), [left], place)
            if not size:
                raise SweeperError("the file of the logits was changed while it was read")
            left, place = left[size:], place + size
        return found


Logits = Tensor | LogitsFile


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor, without a copy."""
    # NumPy has no bfloat16, so the bytes are viewed as such first.
    return tensor.reshape(-1).view(torch.uint8).numpy().data
