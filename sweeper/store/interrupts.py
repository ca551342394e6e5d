"""Delaying Ctrl-C and SIGTERM while the database is used."""

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any, Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class _Delayed:
    """A signal handler that calls another one at the end of an operation.

    A second signal calls it at once, because the operation may be waiting for a server.
    """

    def __init__(self, handler: Any) -> None:
        self.handler = handler
        self.over = False
        self._received: tuple[int, FrameType | None] | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.over or self._received is not None:
            self.handler(number, frame)
        else:
            self._received = (number, frame)

    def deliver(self) -> None:
        """Call the other handler if a signal was received."""
        if self._received is not None:
            self.handler(*self._received)


@contextmanager
def delayed_interrupts() -> Iterator[None]:
    """Delay SIGINT and SIGTERM, whose handlers may raise KeyboardInterrupt, until after the block.

    SQLAlchemy and Optuna may lose track of a connection if KeyboardInterrupt is raised within
    their code. The connection then keeps its lock on an SQLite file. No-op outside the main
    thread, in which Python runs signal handlers, and inside another such block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    delayed = dict[signal.Signals, _Delayed]()
    try:
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            nested = isinstance(handler, _Delayed) and not handler.over
            if callable(handler) and not nested:
                delayed[number] = _Delayed(handler)
                signal.signal(number, delayed[number])
        yield
    finally:
        # A signal may interrupt these lines too. A handler that is still installed then only calls
        # the other one.
        for one in delayed.values():
            one.over = True
        for number, one in delayed.items():
            signal.signal(number, one.handler)
        with ExitStack() as stack:
            for one in delayed.values():
                stack.callback(one.deliver)
