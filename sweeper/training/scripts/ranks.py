"""The supervisor's side of `sweeper.current_run()` in a script: a socket for all its processes."""

import os
import selectors
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from sweeper.trainers.channel import Channel, ChannelClosed, Message
from sweeper.training.failures import TrainingFailed
from sweeper.training.messages import FromTrainer, Reply, ToTrainer, TrainingEnd

# Longest path of a Unix socket, without the final NUL.
_LONGEST_PATH = 107


class Ranks:
    """Answers the processes of a script.

    Rank 0 sends reports, which `report` handles. The other ranks wait for the reply to report n.
    No rank waits for a rank with a higher number, so that reports of rank 0 alone cannot deadlock.
    `ending` is the end of the run as the script sees it, sent when rank 0 exits.
    """

    def __init__(
        self,
        path: Path,
        run: Callable[[], Mapping[str, Any]],
        report: Callable[[FromTrainer], ToTrainer],
    ) -> None:
        self.ending: TrainingEnd | None = None
        self._failures: list[tuple[float, int, TrainingEnd]] = []
        self._path, self._run, self._report = path, run, report
        self._replies: dict[int, Reply] = {}
        self._waiting: list[tuple[Channel, int]] = []
        self._selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX)

    def __enter__(self) -> Self:
        if len(os.fsencode(self._path)) > _LONGEST_PATH:
            raise TrainingFailed(
                f"the path of the socket is too long: {self._path}; set TMPDIR to a shorter folder"
            )
        self._path.unlink(missing_ok=True)
        self._listener.bind(str(self._path))
        self._listener.listen(128)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        return self

    def __exit__(self, *_: object) -> None:
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, Channel):
                key.fileobj.close()
        self._selector.close()
        self._listener.close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def watch(self, descriptor: int) -> None:
        """Let `serve` return when this descriptor is readable."""
        self._selector.register(descriptor, selectors.EVENT_READ)

    def serve(self, seconds: float) -> bool:
        """Wait up to `seconds` for messages and answer them; return whether there were any."""
        events = self._selector.select(seconds)
        for key, _ in events:
            if key.fileobj is self._listener:
                self._accept()
            elif isinstance(key.fileobj, Channel):
                self._read(key.fileobj)
        return bool(events)

    def drain(self) -> None:
        """Answer the messages that were sent before the script ended."""
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, int):
                self._selector.unregister(key.fileobj)
        while self.serve(0.0):
            pass

    def _accept(self) -> None:
        with suppress(OSError):
            connection, _ = self._listener.accept()
            self._selector.register(Channel(connection), selectors.EVENT_READ)

    def _read(self, channel: Channel) -> None:
        try:
            for message in channel.read_messages():
                self._answer(channel, message)
        except (ChannelClosed, ValueError, TypeError, KeyError):
            self._waiting = [(c, number) for c, number in self._waiting if c is not channel]
            self._selector.unregister(channel)
            channel.close()

    def _answer(self, channel: Channel, message: Message) -> None:
        match message["do"]:
            case "begin":
                channel.send(self._run())
            case "report":
                received = FromTrainer.from_dict(message["message"])
                answer = self._report(received)
                for sent in received.reports:
                    self._replies[sent.number] = answer.replies.get(sent.key, Reply("drop"))
                channel.send(answer.to_dict())
                self._release_waiting()
            case "wait":
                self._waiting.append((channel, int(message["number"])))
                self._release_waiting()
            case "end":
                if message.get("rank", 0) == 0:
                    self.ending = TrainingEnd.from_dict(message["ending"])
            case "failed":
                ending = TrainingEnd.from_dict(message["ending"])
                self._failures.append((message["at"], message["rank"], ending))

    @property
    def failures(self) -> list[tuple[int, TrainingEnd]]:
        """The ranks that failed and how, in the order in which they failed."""
        in_order = sorted(self._failures, key=lambda failure: failure[:2])
        return [(rank, ending) for _, rank, ending in in_order]

    def _release_waiting(self) -> None:
        """Send the replies that other ranks wait for."""
        for channel, number in list(self._waiting):
            if number in self._replies:
                self._waiting.remove((channel, number))
                with suppress(ChannelClosed):
                    channel.send(vars(self._replies[number]))
