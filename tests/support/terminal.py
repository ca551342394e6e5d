"""A command in a terminal of a given width, whose keys a test can press."""

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
from collections.abc import Callable
from typing import Final

_SEQUENCE: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# Seconds without any output after which a command hangs.
_SILENCE: Final = 120


class Terminal:
    """A pseudo-terminal in which `sweeper ARGUMENTS` runs in the foreground."""

    def __init__(self, *arguments: object, width: int = 80) -> None:
        command = [sys.executable, "-m", "sweeper", *map(str, arguments)]
        self._output = b""
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            try:
                # The width is set before the command asks for it.
                fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
                os.execve(command[0], command, {**os.environ, "TERM": "xterm-256color"})
            finally:
                os._exit(127)

    @property
    def lines(self) -> list[str]:
        """The lines printed so far, without colors; a redrawn line is there once per drawing."""
        text = _SEQUENCE.sub("", self._output.decode(errors="replace"))
        return [line.rstrip() for line in re.split(r"[\r\n]+", text)]

    @property
    def text(self) -> str:
        """What has been printed so far, without colors."""
        return "\n".join(self.lines)

    def wait_for(self, condition: Callable[["Terminal"], bool]) -> None:
        """Read the output until the condition holds."""
        while not condition(self):
            assert self._read(0.1) is not None, f"ended too early: {self.text}"

    def press_ctrl_c(self) -> None:
        """Send SIGINT to all processes in the foreground, as the terminal does for the keys."""
        os.write(self._terminal, b"\x03")

    def wait(self) -> int:
        """Read the rest of the output; return the exit code."""
        while (size := self._read(_SILENCE)) is not None:
            assert size, f"silent for {_SILENCE} s: {self.text}"
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def _read(self, seconds: float) -> int | None:
        """Read for at most some seconds; return the number of bytes, None at the end."""
        if not select.select([self._terminal], [], [], seconds)[0]:
            return 0
        try:
            part = os.read(self._terminal, 65536)
        except OSError:  # Linux's end of file on a pseudo-terminal
            return None
        self._output += part
        return len(part) or None
