"""The output of a script: its last lines, and the numbers that it reports itself."""

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from sweeper.trainers.output_file import origin_of
from sweeper.training.messages import Grade

# A longer line is not read: it contains no report.
_LONGEST_LINE: Final = 1 << 20
_LINE_END: Final = re.compile(rb"[\r\n]+")
_LAST_BYTES: Final = 1 << 14
LAST_LINES: Final = 20


@dataclass(frozen=True)
class SelfReport:
    """Numbers that a script prints; `progress` is None if it prints none, `extra` other numbers."""

    nll: float
    progress: float | None
    extra: dict[str, float]
    grade: ClassVar[Grade] = "self-reported"


class ScriptOutput:
    """Reads what a script appends to the standard output of this process, which is a file.

    `pattern` is a regular expression with one group, the NLL; None to read JSON lines.
    """

    def __init__(self, pattern: str | None) -> None:
        self._pattern = None if pattern is None else re.compile(pattern)
        self._file = -1
        with suppress(OSError):  # it is opened a second time, because it is open for writing only
            self._file = os.open("/dev/fd/1", os.O_RDONLY)
        if self._file >= 0 and not stat.S_ISREG(os.fstat(self._file).st_mode):
            self.close()
        # Positions in everything that was printed; the file may lose its beginning.
        self._start = self._position = self._origin() + self._size()
        self._rest = b""

    def reports(self, *, ended: bool = False) -> Iterator[SelfReport]:
        """Yield the reports in the lines that were printed since the last call.

        If the script has `ended`, its last line may have no line end.
        """
        yield from filter(None, map(self._report, self._lines()))
        if ended and (last := self._report(self._rest.decode(errors="replace"))) is not None:
            yield last

    def last_lines(self) -> str:
        """Return the last lines of the output, "" if there are none."""
        return "\n".join(self.end().strip().splitlines()[-LAST_LINES:])

    def end(self) -> str:
        """Return the end of the output of the script, "" if there is none."""
        end = self._size()
        if self._file < 0:
            return ""
        begin = max(0, min(self._start - self._origin(), end), end - _LAST_BYTES)
        with suppress(OSError):
            return os.pread(self._file, end - begin, begin).decode(errors="replace")
        return ""

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _size(self) -> int:
        return 0 if self._file < 0 else os.fstat(self._file).st_size

    def _origin(self) -> int:
        return 0 if self._file < 0 else origin_of(self._file)[0]

    def _read(self) -> bytes:
        """Return what was printed since the last call, without what was removed from the file."""
        if self._file < 0:
            return b""
        while True:
            origin, note = origin_of(self._file)
            begin, size = self._position - origin, self._size()
            if begin < note:  # a part that was not read was removed
                begin, self._rest = note, b""
            part = os.pread(self._file, max(size - begin, 0), begin)
            if origin_of(self._file)[0] == origin:
                break
        if part:
            self._position = origin + begin + len(part)
        return part

    def _lines(self) -> Iterator[str]:
        part = self._read()
        if not part:
            return
        # A progress bar ends its lines with \r.
        *lines, rest = _LINE_END.split(self._rest + part)
        self._rest = rest[-_LONGEST_LINE:]
        for line in lines:
            if len(line) < _LONGEST_LINE:
                yield line.decode(errors="replace")

    def _report(self, line: str) -> SelfReport | None:
        if self._pattern is not None:
            found = self._pattern.search(line)
            nll = None if found is None else _number(found[1])
            return None if nll is None else SelfReport(nll, None, {})
        _, brace, rest = line.partition("{")  # a progress bar may be in front
        try:
            content = json.loads(brace + rest)
        except (ValueError, RecursionError):
            return None
        if not isinstance(content, dict) or (nll := _number(content.get("nll"))) is None:
            return None
        numbers = {name: _number(value) for name, value in content.items()}
        extra = {name: value for name, value in numbers.items() if value is not None}
        progress = extra.pop("progress", None)
        del extra["nll"]
        return SelfReport(nll, progress, extra)


def _number(value: Any) -> float | None:
    """Return a number, or a text that is one, as a float; None for other values."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    with suppress(ValueError, OverflowError):
        return float(value)
    return None
