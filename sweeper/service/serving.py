"""The HTTP server of the service."""

import errno
import socket
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, Final, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from sweeper.errors import SweeperError
from sweeper.service.auth.hosts import EVERYWHERE, host_header
from sweeper.service.client_limits import LIMITS, ClientLimits
from sweeper.service.connections import Connections, LimitedProtocol

_PORT_ERRORS: Final = (errno.EADDRINUSE, errno.EACCES)
# Connections that the kernel queues until they are accepted.
_QUEUE: Final = 1024
# Time for open requests to complete when the server stops.
STOP_SECONDS: Final = 3


class HttpServer(uvicorn.Server):
    """Serves an application: the constructor listens on the port, `serve_on` handles requests.

    Port 0 selects a free port; `address` is the resulting URL. `trusted` are the comma-separated
    addresses of proxies whose X-Forwarded headers are trusted. `on_stop` is called when the server
    is told to stop, before it waits for open requests. Raises `SweeperError` if the host or port
    cannot be used.
    """

    def __init__(
        self,
        application: ASGIApp,
        port: int,
        host: str = "127.0.0.1",
        *,
        trusted: str = "",
        limits: ClientLimits = LIMITS,
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        name = host_header(host)
        self._bound, self._on_stop = _bound(name, port, limits), on_stop
        self.address = f"http://{EVERYWHERE.get(name, name)}:{self._bound.getsockname()[1]}/"
        fitting = limits.fitting()
        proxied = ProxyHeadersMiddleware(cast(Any, application), trusted)
        connections = Connections(fitting, proxied.trusted_hosts.__contains__)
        super().__init__(
            uvicorn.Config(
                proxied,
                http=cast(Any, partial(LimitedProtocol, connections=connections)),
                # With "warning", every malformed request would log a line.
                log_level="error",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                # asyncio accepts this many connections before `Connections` can close any.
                backlog=max(1, fitting.connections // 16),
                timeout_keep_alive=limits.idle_seconds,
                timeout_graceful_shutdown=STOP_SECONDS,
                # WebSockets are not used.
                ws="none",
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to handle requests."""
        await super().startup(sockets)
        self._bound.listen(_QUEUE)  # longer than uvicorn's `backlog`

    def serve_on(self) -> None:
        """Handle requests until Ctrl-C, SIGTERM or `stop`."""
        with self._bound:
            self.run(sockets=[self._bound])

    def stop(self) -> None:
        """Make `serve_on` return; may be called from another thread."""
        self._on_stop()
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._on_stop()
        super().handle_exit(sig, frame)


def _bound(name: str, port: int, limits: ClientLimits) -> socket.socket:
    family = socket.AF_INET6 if name.startswith("[") else socket.AF_INET
    # Without an explicit protocol, asyncio does not set TCP_NODELAY, and responses are delayed by
    # 40 ms.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        # Close connections whose client does not read its response for this long (Linux only).
        unread = round(1000 * limits.unread_seconds)
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unread)
        bound.bind((name.strip("[]"), port))
        bound.listen(_QUEUE)
    except OSError as error:
        bound.close()
        key, value = ("port", port) if error.errno in _PORT_ERRORS else ("host", name)
        raise SweeperError(
            f"{key} {value}: {error.strerror}; choose another with --{key}"
        ) from None
    return bound
