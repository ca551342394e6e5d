"""The service on a socket of its own."""

import errno
import socket
from collections.abc import Callable
from types import FrameType
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from sweeper.errors import SweeperError
from sweeper.service.auth.hosts import EVERYWHERE, spelt

_PORT_ERRORS: Final = (errno.EADDRINUSE, errno.EACCES)
# How long answers under way have when it is told to stop.
STOP_SECONDS: Final = 3


class Server(uvicorn.Server):
    """An application on a socket of its own: it listens once it is made, and answers in `serve_on`.

    Port 0 takes a free one; `address` says which. `trusted` are the addresses of proxies whose
    X-Forwarded headers are believed, as a list with commas. `on_stop` is called when it is told
    to stop, before it waits for answers under way. Raises `SweeperError` where the port or the
    host cannot be had.
    """

    def __init__(
        self,
        application: ASGIApp,
        port: int,
        host: str = "127.0.0.1",
        *,
        trusted: str = "",
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        name = spelt(host)
        self._bound, self._on_stop = _bound(name, port), on_stop
        self.address = f"http://{EVERYWHERE.get(name, name)}:{self._bound.getsockname()[1]}/"
        super().__init__(
            uvicorn.Config(
                application,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=bool(trusted),
                forwarded_allow_ips=trusted,
                timeout_graceful_shutdown=STOP_SECONDS,
                # What nobody asks for is one way in less.
                ws="none",
            )
        )

    def serve_on(self) -> None:
        """Answer until Ctrl-C, SIGTERM or `stop`."""
        with self._bound:
            self.run(sockets=[self._bound])

    def stop(self) -> None:
        """Let `serve_on` return, from another thread."""
        self._on_stop()
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal."""
        self._on_stop()
        super().handle_exit(sig, frame)


def _bound(name: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if name.startswith("[") else socket.AF_INET
    # With its protocol: asyncio would not see that it is TCP, and hold back answers for 40 ms.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((name.strip("[]"), port))
        bound.listen(128)
    except OSError as error:
        bound.close()
        key, value = ("port", port) if error.errno in _PORT_ERRORS else ("host", name)
        raise SweeperError(
            f"{key} {value}: {error.strerror}; choose another with --{key}"
        ) from None
    return bound
