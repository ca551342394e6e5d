"""A network that fails: a proxy between clients and a server that cuts, slows or swallows."""

import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Final, Literal

Mode = Literal["pass", "cut", "slow", "half-open"]
SLOW_SECONDS: Final = 0.15
# Closing sends a reset.
_RESET: Final = struct.pack("ii", 1, 0)


class Proxy:
    """Forwards connections to a server, as its `mode` says.

    "cut" resets them and refuses others; "slow" delays what is sent; "half-open" keeps them open
    and forwards nothing, and those that are open then are reset when it ends.
    """

    def __init__(self, server: str | tuple[str, int]) -> None:
        self._server, self._mode = server, "pass"
        self._flowing = threading.Event()
        self._flowing.set()
        self._lock = threading.Lock()
        self._open = set[socket.socket]()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def set(self, mode: Mode) -> None:
        """Change what happens to connections."""
        before, self._mode = self._mode, mode
        if mode == "cut" or before == "half-open":
            self._reset()
        if mode == "half-open":
            self._flowing.clear()
        else:
            self._flowing.set()

    def close(self) -> None:
        """Stop listening, and reset what is open."""
        self._listener.close()
        self.set("cut")

    def _reset(self) -> None:
        with self._lock:
            for end in self._open:
                _abort(end)
            self._open.clear()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        with self._lock:
            self._open.add(client)
        self._flowing.wait()
        server: socket.socket | None = None
        if self._mode != "cut":
            server = _connected(self._server)
        with self._lock:
            alive = server is not None and client in self._open
            if server is not None and alive:
                self._open.add(server)
        if server is None or not alive:
            self._end(client, server)
            return
        threading.Thread(target=self._forward, args=(server, client), daemon=True).start()
        self._forward(client, server)

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._flowing.wait()
                if self._mode == "slow":
                    time.sleep(SLOW_SECONDS)
                target.sendall(data)
        self._end(source, target)

    def _end(self, *ends: socket.socket | None) -> None:
        with self._lock:
            for end in ends:
                if end is not None:
                    self._open.discard(end)
                    _abort(end)


def _connected(server: str | tuple[str, int]) -> socket.socket | None:
    family = socket.AF_UNIX if isinstance(server, str) else socket.AF_INET
    made = socket.socket(family)
    try:
        made.connect(server)
    except OSError:
        made.close()
        return None
    return made


def _abort(end: socket.socket) -> None:
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads from it
    end.close()
