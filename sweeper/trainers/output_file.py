"""The file to which a trainer prints. If it grows too long, its beginning is removed."""

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

LONGEST_OUTPUT: Final = 10 * 2**20  # bytes
_SHORTENED_OUTPUT: Final = 2**20  # bytes
_NOTE: Final = "[%d bytes of output removed: it was too long]\n"
_FOUND: Final = re.compile(rb"\[(\d+) bytes of output removed: it was too long\]\n")


def shorten(output: Path) -> None:
    """Truncate an output of more than 10 MiB to its last 1 MiB, after a line that says so."""
    with suppress(OSError):
        if output.stat().st_size <= LONGEST_OUTPUT:
            return
        with output.open("r+b") as stream:
            first, _ = origin_of(stream.fileno())
            begin = stream.seek(-_SHORTENED_OUTPUT, os.SEEK_END)
            tail = stream.read()
            stream.truncate(0)
            stream.seek(0)
            stream.write((_NOTE % (first + begin)).encode() + tail)


def origin_of(descriptor: int) -> tuple[int, int]:
    """Return where a file begins in the whole output, and the size of the line that says so.

    Byte n of the file is byte origin + n of everything that was printed. The origin may be
    negative, because the line is not output.
    """
    found = _FOUND.match(os.pread(descriptor, 100, 0))
    return (0, 0) if found is None else (int(found[1]) - found.end(), found.end())
