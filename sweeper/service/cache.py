"""A cache for values that many clients request and that may be slightly out of date."""

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
class _Entry(Generic[V]):
    """A cached value and the time at which it expires."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    value: V | None = None
    until: float = 0.0


class TtlCache(Generic[K, V]):
    """Computes the value of a key at most once in `seconds`, in one thread at a time.

    Values that are slow to compute are kept longer, up to `longest` seconds, so that at most
    `share` of the time is spent on them. While one thread computes, the others get the old value.
    Exceptions are raised and not cached. The `most` recently used keys are kept.
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
        self._slots: OrderedDict[K, _Entry[V]] = OrderedDict()

    def __call__(self, key: K) -> V:
        """Return the value of a key, computed now or cached."""
        slot = self._slot(key)
        # Return an expired value rather than wait for the thread that computes a new one.
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

    async def get(self, key: K) -> V:
        """Return the value of a key from an event loop; computes it in a thread if necessary."""
        slot = self._slot(key)
        if slot.value is not None and self._clock() < slot.until:
            return slot.value
        return await run_in_threadpool(self, key)

    def forget(self, key: K) -> None:
        """Remove the value of a key, so that it is computed on the next call."""
        with self._lock:
            self._slots.pop(key, None)

    def _slot(self, key: K) -> _Entry[V]:
        with self._lock:
            slot = self._slots.setdefault(key, _Entry())
            self._slots.move_to_end(key)
            while len(self._slots) > self._most:
                self._slots.popitem(last=False)
            return slot
