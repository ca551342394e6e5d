"""The service on a socket of its own."""

import errno
import socket
from collections.abc import Callable
from types import FrameType
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from sweeper.errors import SweeperError
from sweeper.service.hosts import EVERYWHERE, spelt

_PORT_ERRORS: Final = (errno.EADDRINUSE, errno.EACCES)
# How long answers under way have when it is told to stop.
STOP_SECONDS: Final = 3


def serve(
    application: ASGIApp,
    port: int,
    on_ready: Callable[[str], None],
    host: str = "127.0.0.1",
    *,
    trusted: str = "",
    on_stop: Callable[[], None] = lambda: None,
) -> None:
    """Serve until Ctrl-C or SIGTERM; `on_ready` is given the address. Port 0 takes a free one.
    `on_stop` is called when it is told to stop, before it waits for answers under way.

    `trusted` are the addresses of proxies whose X-Forwarded headers are believed, as a list
    with commas. Raises `SweeperError` where the port or the host cannot be had.
    """
    name = spelt(host)
    bound = _bound(name, port)
    with bound:
        address = f"http://{EVERYWHERE.get(name, name)}:{bound.getsockname()[1]}/"
        config = uvicorn.Config(
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
        on_ready(address)
        _Server(config, on_stop).run(sockets=[bound])


class _Server(uvicorn.Server):
    """Says that it is told to stop before it waits."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal."""
        self._on_stop()
        super().handle_exit(sig, frame)


def _bound(name: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if name.startswith("[") else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
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
