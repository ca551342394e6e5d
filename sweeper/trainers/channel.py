"""Messages between processes: length-prefixed JSON over a Unix socket."""

import json
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from sweeper.trainers import system

_HEADER: Final = struct.Struct(">I")
_READ_BYTES: Final = 1 << 16
# Timeout for sending. A process that does not read for this long is treated as gone.
SEND_SECONDS: Final = 30.0
# Interval between checks of `interrupted`.
POLL_SECONDS: Final = 0.5

Message = dict[str, Any]


class ChannelClosed(Exception):
    """The other end of a channel is closed."""


class Interrupted(Exception):
    """Waiting for a message was interrupted."""


class Channel:
    """One end of a connection. File descriptors can be sent with a message."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(None)
        self._socket = connection
        self._buffer = bytearray()
        self._descriptors = deque[int]()

    @classmethod
    def pair(cls) -> "tuple[Channel, socket.socket]":
        """Return a channel, and the socket of its other end for another process."""
        own_end, other_end = socket.socketpair()
        return cls(own_end), other_end

    def fileno(self) -> int:
        """Return the file descriptor of the socket, for selectors."""
        return self._socket.fileno()

    def send(self, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send a message; raises `ChannelClosed` if the other end is closed or does not read."""
        content = json.dumps(message).encode()
        framed = _HEADER.pack(len(content)) + content
        self._socket.settimeout(SEND_SECONDS)
        try:
            if descriptors:
                sent = socket.send_fds(self._socket, [framed], list(descriptors))
                framed = framed[sent:]
            self._socket.sendall(framed)
        except OSError as error:
            raise ChannelClosed(str(error)) from error
        finally:
            self._socket.settimeout(None)

    def receive(self, interrupted: Callable[[], object] | None = None) -> Message:
        """Wait for a message.

        Raises `ChannelClosed` if the other end is closed, and `Interrupted` when `interrupted`
        returns true; it is called twice per second.
        """
        while (message := self._next()) is None:
            if interrupted is not None:
                while not self.readable(POLL_SECONDS):
                    if interrupted():
                        raise Interrupted
            self._fill()
        return message

    def readable(self, seconds: float = 0.0) -> bool:
        """Wait up to `seconds`; return whether there is something to read."""
        return system.readable(self._socket.fileno(), seconds)

    def read_messages(self) -> Iterator[Message]:
        """Read available data, and yield the complete messages.

        Call this when a selector reports the channel as readable. Raises `ChannelClosed`.
        """
        self._fill()
        while (message := self._next()) is not None:
            yield message

    def next_descriptor(self) -> int:
        """Return the next file descriptor that was received with a message."""
        return self._descriptors.popleft()

    @property
    def open(self) -> bool:
        """Whether the other end is open, as far as known without waiting."""
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def close(self) -> None:
        self._socket.close()

    def _fill(self) -> None:
        try:
            part, descriptors, _, _ = socket.recv_fds(self._socket, _READ_BYTES, 8)
        except OSError as error:
            raise ChannelClosed(str(error)) from error
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        self._descriptors.extend(descriptors)
        if not part:
            raise ChannelClosed("the other end is closed")
        self._buffer += part

    def _next(self) -> Message | None:
        if len(self._buffer) < _HEADER.size:
            return None
        (length,) = _HEADER.unpack_from(self._buffer)
        end = _HEADER.size + length
        if len(self._buffer) < end:
            return None
        content = bytes(self._buffer[_HEADER.size : end])
        del self._buffer[:end]
        message: Message = json.loads(content)
        return message
