"""Rate limits for clients without a valid token, in memory and by address.

Tokens have 256 random bits, so they cannot be guessed. These limits bound the load that guesses
put on the service.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sweeper.service.client_limits import ClientLimits

# Number of addresses to remember, about 2 MB.
_ADDRESSES: Final = 10_000


@dataclass
class _Address:
    """The state of one address; times are those of the clock."""

    paid: float = 0.0  # time at which its responses so far are covered by its rate
    failures: int = 0
    count_failure: float = 0.0


class UnauthenticatedClients:
    """Delays responses to unauthenticated clients and counts failed sign-ins."""

    def __init__(self, limits: ClientLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._lock = threading.Lock()
        self._addresses: OrderedDict[str, _Address] = OrderedDict()

    def delay(self, address: str) -> float:
        """Return the seconds to wait before the next response to an address.

        A token bucket: `unauthenticated_at_once` responses are free, and they refill with
        `unauthenticated_per_second`.
        """
        limits, now = self._limits, self._clock()
        share = 1 / limits.unauthenticated_per_second
        free = limits.unauthenticated_at_once * share
        with self._lock:
            state = self._state(address)
            state.paid = min(
                max(state.paid, now) + share, now + free + limits.unauthenticated_wait_seconds
            )
            return max(0.0, state.paid - now - free)

    def lockout(self, address: str) -> float:
        """Return the seconds for which an address is locked out after failed sign-ins, else 0.0."""
        with self._lock:
            state = self._state(address)
            over = state.failures - self._limits.free_failures
            if over < 0:
                return 0.0
            wait = min(2.0 ** min(over + 1, 30), self._limits.lockout_seconds)
            return max(0.0, state.count_failure + wait - self._clock())

    def count_failure(self, address: str) -> None:
        with self._lock:
            state = self._state(address)
            state.failures, state.count_failure = state.failures + 1, self._clock()

    def reset_failures(self, address: str) -> None:
        """Reset the failed sign-ins of an address after a successful one."""
        with self._lock:
            self._state(address).failures = 0

    def _state(self, address: str) -> _Address:
        state = self._addresses.setdefault(address, _Address())
        self._addresses.move_to_end(address)
        while len(self._addresses) > _ADDRESSES:
            self._addresses.popitem(last=False)
        return state
