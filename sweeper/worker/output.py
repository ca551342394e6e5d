"""The output of a training run: read from the log file of its trainer, or kept in memory."""

import os
from contextlib import suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from sweeper.trainers.output_file import origin_of

# The last bytes of a training run's output that are stored with its trial.
STORED_BYTES: Final = 64 * 1024


class PrintedOutput(Protocol):
    """The output of a training run so far."""

    def size(self) -> int:
        """Return the size of the output; it grows with each line."""
        ...

    def end(self) -> str:
        """Return the last `STORED_BYTES` of the output."""
        ...


class OutputFile:
    """The file to which a trainer prints.

    It is kept open, so that output is not lost if the file is deleted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream: BinaryIO | None = None
        self._total = 0

    def total(self) -> int:
        """Return the number of bytes printed, including bytes that were removed from the file."""
        with suppress(OSError):
            if self._stream is None:
                self._stream = self.path.open("rb")
            descriptor = self._stream.fileno()
            # While the file is being shortened, it is empty.
            total = origin_of(descriptor)[0] + os.fstat(descriptor).st_size
            self._total = max(self._total, total)
        return self._total

    def end(self, begin: int) -> str:
        """Return the end of the output after byte `begin`, "" if it cannot be read."""
        if self._stream is None:
            return ""
        with suppress(OSError):
            origin, _ = origin_of(self._stream.fileno())
            size = self._stream.seek(0, os.SEEK_END)
            self._stream.seek(max(begin - origin, size - STORED_BYTES, 0))
            return self._stream.read().decode(errors="replace")
        return ""

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


class RunOutput:
    """The output of one training run: what its trainer prints from now on."""

    def __init__(self, file: OutputFile) -> None:
        self._file, self._begin = file, file.total()

    def size(self) -> int:
        """Return the number of bytes printed."""
        return self._file.total() - self._begin

    def end(self) -> str:
        """Return the last `STORED_BYTES` of the output, "" if it cannot be read."""
        return self._file.end(self._begin)


@dataclass(frozen=True)
class InProcessOutput:
    """The output of a training run in this process, from position `begin` of `stream` on."""

    stream: StringIO
    begin: int

    def size(self) -> int:
        """Return the number of characters printed."""
        return self.stream.tell() - self.begin

    def end(self) -> str:
        """Return the last `STORED_BYTES` characters of the output."""
        return self.stream.getvalue()[self.begin :][-STORED_BYTES:]


def remove_if_empty(path: Path) -> None:
    """Remove the output file of a trainer that printed nothing."""
    with suppress(OSError):
        if path.stat().st_size == 0:
            path.unlink()
