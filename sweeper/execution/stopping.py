"""Reasons to stop a worker: a signal, a launcher that is gone, a deadline."""

import os
import signal
import threading
import time
from types import FrameType


class StopRequest:
    """Asked once after each epoch; once true it stays true.

    The first SIGINT or SIGTERM lets the running trial go back to the queue; the second
    ends the process at once.
    """

    def __init__(self, *, deadline: float | None = None, parent: int | None = None) -> None:
        self._event = threading.Event()
        self._deadline = deadline
        self._parent = parent

    def __bool__(self) -> bool:
        late = self._deadline is not None and time.monotonic() >= self._deadline
        if late or self._orphaned():
            self._event.set()
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep, but no longer than until a stop is asked for; return whether it is."""
        return self._event.wait(seconds) or bool(self)

    def ask(self) -> None:
        """Ask for a stop."""
        self._event.set()

    def listen(self) -> None:
        """Take over this process' SIGINT and SIGTERM."""
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self._event.is_set():
            os._exit(128 + number)
        self._event.set()

    def _orphaned(self) -> bool:
        # A killed launcher must not leave workers that nobody sees.
        return self._parent is not None and os.getppid() != self._parent
