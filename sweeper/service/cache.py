"""Answers that many ask for and that may be a moment old: computed once, for all of them."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from starlette.concurrency import run_in_threadpool

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass
class _Slot(Generic[V]):
    """One answer, and until when it will do."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    value: V | None = None
    until: float = 0.0


class Recent(Generic[K, V]):
    """Computes a value for a key at most once in `seconds`, by one thread at a time.

    What takes long to compute is kept for longer, so that `share` of the time is spent on it,
    but no more than `longest` seconds for that. While somebody computes, others are given what
    there was. An error is raised to whoever asked and not kept. The `most` keys asked for last
    are remembered.
    """

    def __init__(
        self,
        compute: Callable[[K], V],
        *,
        seconds: float,
        share: float = 0.1,
        longest: float = 10.0,
        most: int = 128,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._compute, self._seconds = compute, seconds
        self._share, self._longest = share, longest
        self._most, self._clock = most, clock
        self._lock = threading.Lock()
        self._slots: OrderedDict[K, _Slot[V]] = OrderedDict()

    def __call__(self, key: K) -> V:
        """Return the value for a key, computed now or a moment ago."""
        slot = self._slot(key)
        # What is a moment too old is better than to wait for what somebody is computing.
        if not slot.lock.acquire(blocking=slot.value is None):
            assert slot.value is not None
            return slot.value
        try:
            if slot.value is None or self._clock() >= slot.until:
                began = self._clock()
                slot.value = self._compute(key)
                took = self._clock() - began
                slot.until = (
                    began + took + max(self._seconds, min(took / self._share, self._longest))
                )
            return slot.value
        finally:
            slot.lock.release()

    async def soon(self, key: K) -> V:
        """Return the same from an event loop: at once where it is known, else by a thread."""
        slot = self._slot(key)
        if slot.value is not None and self._clock() < slot.until:
            return slot.value
        return await run_in_threadpool(self, key)

    def forget(self, key: K) -> None:
        """Let the next to ask for a key have it computed."""
        with self._lock:
            self._slots.pop(key, None)

    def _slot(self, key: K) -> _Slot[V]:
        with self._lock:
            slot = self._slots.setdefault(key, _Slot())
            self._slots.move_to_end(key)
            while len(self._slots) > self._most:
                self._slots.popitem(last=False)
            return slot
