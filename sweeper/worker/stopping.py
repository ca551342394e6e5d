"""Requests to stop a worker: a signal, a deadline, or the death of its launcher."""

import math
import os
import signal
import threading
import time
from types import FrameType


class StopRequest:
    """True once the worker should stop; it is checked after each report and twice a second.

    `deadline` is in `time.monotonic()` seconds, and `parent` the process id of the launcher. After
    the first SIGINT or SIGTERM the worker releases its running trials; the second ends the process
    at once. `grace` is the number of seconds that training processes have to reach their next
    report before they are killed.
    """

    def __init__(
        self,
        *,
        deadline: float | None = None,
        parent: int | None = None,
        grace: float = math.inf,
    ) -> None:
        self._event = threading.Event()
        self._deadline = deadline
        # A launch that runs its worker in its own process is not a parent process.
        self._parent = None if parent == os.getpid() else parent
        self._requested_at = math.inf
        self.grace = grace
        self.signal: int | None = None  # the signal that requested the stop

    def __bool__(self) -> bool:
        late = self._deadline is not None and time.monotonic() >= self._deadline
        if late or self._orphaned():
            self._request()
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep until a stop is requested, at most `seconds`; return whether it was requested."""
        return self._event.wait(seconds) or bool(self)

    @property
    def overdue(self) -> bool:
        """Whether the grace period of the training processes is over."""
        return time.monotonic() - self._requested_at > self.grace

    def listen(self) -> None:
        """Handle SIGINT and SIGTERM; no-op outside the main thread, where Python forbids it."""
        if threading.current_thread() is not threading.main_thread():
            return
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self._event.is_set():
            os._exit(128 + number)
        self.signal = number
        self._request()

    def _request(self) -> None:
        self._requested_at = min(self._requested_at, time.monotonic())
        self._event.set()

    def _orphaned(self) -> bool:
        # A killed launcher must not leave workers running unnoticed.
        return self._parent is not None and os.getppid() != self._parent
