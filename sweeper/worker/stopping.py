"""Reasons to stop a worker: a signal, a launcher that is gone, a deadline."""

import math
import os
import signal
import threading
import time
from types import FrameType


class StopRequest:
    """Asked once after each epoch; once true it stays true.

    The first SIGINT or SIGTERM lets the running trial go back to the queue; the second
    ends the process at once. `own_process` says that the process is the worker's alone, which
    may end it where nothing gentler helps; `grace` is how many seconds after the first signal it
    has to be gone.
    """

    def __init__(
        self,
        *,
        deadline: float | None = None,
        parent: int | None = None,
        own_process: bool = False,
        grace: float = math.inf,
    ) -> None:
        self._event = threading.Event()
        self._deadline = deadline
        # A worker that its launch runs within its own process has no other to look after.
        self._parent = None if parent == os.getpid() else parent
        self._grace = grace
        self._asked = math.inf
        self.own_process = own_process and parent != os.getpid()
        self.signal: int | None = None  # the one that asked

    def __bool__(self) -> bool:
        late = self._deadline is not None and time.monotonic() >= self._deadline
        if late or self._orphaned():
            self._event.set()
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep, but no longer than until a stop is asked for; return whether it is."""
        return self._event.wait(seconds) or bool(self)

    @property
    def overdue(self) -> bool:
        """Whether the process should have ended by now."""
        return self.own_process and time.monotonic() - self._asked > self._grace

    def listen(self) -> None:
        """Take over this process' SIGINT and SIGTERM, which only its main thread can."""
        if threading.current_thread() is not threading.main_thread():
            return
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self._event.is_set():
            os._exit(128 + number)
        self._asked, self.signal = time.monotonic(), number
        self._event.set()

    def _orphaned(self) -> bool:
        # A killed launcher must not leave workers that nobody sees.
        return self._parent is not None and os.getppid() != self._parent
