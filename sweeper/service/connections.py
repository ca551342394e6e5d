"""Limits on the number of connections and on the time that a client takes to send a request.

uvicorn closes connections that are idle between two requests. It does not limit the time in which a
request must arrive, nor the number of connections per address.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from sweeper.service.client_limits import ClientLimits, client_key


class Connections:
    """The open connections by address; trusted proxies have no limit per address."""

    def __init__(self, limits: ClientLimits, is_proxy: Callable[[str], bool]) -> None:
        self.limits, self._is_proxy = limits, is_proxy
        # Oldest first.
        self._open: dict[LimitedProtocol, None] = {}
        self._by_address: defaultdict[str, dict[LimitedProtocol, None]] = defaultdict(dict)

    def add(self, connection: "LimitedProtocol") -> bool:
        """Register a connection and return whether it is accepted.

        At the limit, it replaces the oldest connection that waits for its client.
        """
        limits, host = self.limits, connection.client[0] if connection.client else ""
        same_address = self._by_address[client_key(host)]
        same_address[connection] = self._open[connection] = None
        if not self._is_proxy(host) and len(same_address) > limits.connections_per_address:
            return self._close_oldest(same_address, connection)
        return len(self._open) <= limits.connections or self._close_oldest(self._open, connection)

    def remove(self, connection: "LimitedProtocol") -> None:
        key = client_key(connection.client[0] if connection.client else "")
        self._open.pop(connection, None)
        self._by_address[key].pop(connection, None)
        if not self._by_address[key]:
            del self._by_address[key]

    def _close_oldest(self, among: Iterable["LimitedProtocol"], new: "LimitedProtocol") -> bool:
        """Close the oldest connection that waits for its client; return whether there is one."""
        waiting = (connection for connection in among if connection.waiting)
        oldest = next((connection for connection in waiting if connection is not new), None)
        if oldest is None:
            return False
        self.remove(oldest)
        oldest.transport.abort()
        return True


class LimitedProtocol(H11Protocol):
    """The HTTP protocol of uvicorn with the limits of `Connections`."""

    def __init__(self, *args: Any, connections: Connections, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._all = connections
        self._awaited: Any = None
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> bool:
        """Whether the server waits for the client to send a request or the rest of one."""
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a new connection or close it."""
        super().connection_made(transport)
        if self._all.add(self):
            self._set_deadline()
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.remove(self)
        self._cancel_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Handle received data and update the deadline."""
        super().data_received(data)
        self._set_deadline()

    def on_response_complete(self) -> None:
        """Continue with the next request and update the deadline."""
        super().on_response_complete()
        self._set_deadline()

    def _set_deadline(self) -> None:
        """Set the deadline for the headers of a request or for its body."""
        awaited = self.conn.their_state if self.waiting else None
        if awaited is self._awaited:
            return
        self._cancel_deadline()
        self._awaited = awaited
        if awaited is not None:
            limits = self._all.limits
            seconds = limits.header_seconds if awaited is h11.IDLE else limits.body_seconds
            self._deadline = self.loop.call_later(seconds, self.transport.abort)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._awaited = None
