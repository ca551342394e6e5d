"""A trainer process: its output, signals and exit. What it trains is up to the program.

`python -m sweeper.trainers.process DESCRIPTOR CLOCK OUTPUT` runs a trainer that is not forked. It
reads from standard input which code to load.
"""

import atexit
import errno
import io
import json
import logging
import mmap
import multiprocessing.util
import os
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NoReturn, Self

from sweeper.trainers import system
from sweeper.trainers.channel import Channel, ChannelClosed, Message

_TIMES: Final = struct.Struct("dd")
_PEAK: Final = struct.Struct("q")
# Saved before user code is imported, which may replace time.monotonic.
_now: Final = time.monotonic


class Clock:
    """The training time and the peak memory of a trainer, in memory shared with its keeper.

    Time spent waiting for replies does not count. A process that is not forked opens the shared
    memory by its `descriptor`.
    """

    def __init__(self, descriptor: int = -1) -> None:
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, _TIMES.size + _PEAK.size)

    @classmethod
    def with_descriptor(cls) -> Self:
        """Return a clock for a process that is not forked."""
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("sweeper")
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.ftruncate(descriptor, _TIMES.size + _PEAK.size)
        return cls(descriptor)

    @property
    def seconds(self) -> float:
        """Seconds trained so far."""
        return self._times()[0] + self.seconds_since_reply

    @property
    def seconds_since_reply(self) -> float:
        """Seconds trained since the last reply; 0 while the trainer waits for a reply."""
        _, since = self._times()
        return _now() - since if since else 0.0

    @property
    def peak(self) -> int:
        """The peak memory of all processes of the trainer in bytes; 0 if not measured."""
        return int(_PEAK.unpack_from(self._memory, _TIMES.size)[0])

    @peak.setter
    def peak(self, memory: int) -> None:
        _PEAK.pack_into(self._memory, _TIMES.size, memory)

    def resume(self) -> None:
        """Start or continue counting."""
        _TIMES.pack_into(self._memory, 0, self._times()[0], _now())

    def pause(self) -> None:
        """Stop counting."""
        _TIMES.pack_into(self._memory, 0, self.seconds, 0.0)

    def close(self) -> None:
        """Release the shared memory."""
        self._memory.close()
        if self.descriptor >= 0:
            os.close(self.descriptor)

    def _times(self) -> tuple[float, float]:
        total, since = _TIMES.unpack_from(self._memory)
        return float(total), float(since)


class WorkerConnection:
    """A program's connection to the worker.

    It works in the trainer process only. In processes that the program forks, its methods raise
    `ChannelClosed`.
    """

    def __init__(self, channel: Channel, clock: Clock) -> None:
        self._channel, self._clock = channel, clock
        self._process = os.getpid()

    def receive(self) -> Message:
        """Wait for a message; raises `ChannelClosed` if the worker has closed its end."""
        self._check_process()
        self._clock.pause()
        try:
            return self._channel.receive()
        finally:
            self._clock.resume()

    def send(self, message: Message) -> None:
        """Send a message; raises `ChannelClosed` if the worker has closed its end."""
        self._check_process()
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # user code may have closed or replaced the stream
                stream.flush()
        self._channel.send(message)

    def begin_peak(self) -> None:
        """Forget the peak memory of earlier training runs."""
        self._clock.peak = 0

    def peak_memory(self) -> int:
        """Return the peak memory in bytes; of this process alone if its keeper measured none."""
        return self._clock.peak or system.memory_of([os.getpid()])

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise ChannelClosed("this process was forked from the trainer")


def train(descriptor: int, output: Path, program: Any, clock: Clock) -> None:
    """Run `program` for the worker until the worker closes its end; never returns."""
    write_to(output)
    system.on_job_signals(signal.SIG_DFL)
    system.prefer_oom_kill()
    worker = WorkerConnection(Channel(socket.socket(fileno=descriptor)), clock)
    status = 0
    try:
        with suppress(ChannelClosed):
            program.serve(worker)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    finally:
        finish(status)


def write_to(output: Path) -> None:
    """Append the output of this process and its child processes to a file.

    If the file cannot be opened, the output goes to the worker's log.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError as error:
        file = os.dup(2)
        os.write(2, f"the output of training runs cannot be saved: {error}\n".encode())
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(file, 1)
    os.dup2(file, 2)
    for descriptor in (file, null):
        if descriptor > 2:
            os.close(descriptor)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = io.TextIOWrapper(
            io.BufferedWriter(_Output(descriptor, "w", closefd=False)),
            encoding="utf-8",
            errors="backslashreplace",
            line_buffering=True,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


class _Output(io.FileIO):
    """An output file that discards output while the disk is full, instead of raising."""

    def write(self, data: Any, /) -> int:
        """Write bytes; return their number."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return len(data)


def finish(status: int) -> NoReturn:
    """Exit like Python does: join threads, run `atexit` functions, flush streams."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        system.flush_c_streams()
    finally:
        os._exit(status)


def forget_exit_functions() -> None:
    """Unregister the exit functions inherited from the parent process."""
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        finalizer.atexit = False
    atexit._clear()
    for function in (
        logging.shutdown,
        multiprocessing.util._exit_function,  # type: ignore[attr-defined]
        weakref.finalize._exitfunc,  # type: ignore[attr-defined]
    ):
        atexit.register(function)


def hide_program() -> None:
    """Replace `__main__` and `sys.argv` by empty ones.

    Otherwise `multiprocessing` would import sweeper's main module in the processes that it spawns.
    """
    sys.modules["__main__"] = ModuleType("__main__")
    sys.argv = [""]


def main() -> None:
    """Load the code of a study, and train for the worker."""
    from sweeper.trainers.server import load

    descriptor, clock, output = int(sys.argv[1]), Clock(int(sys.argv[2])), Path(sys.argv[3])
    system.die_with_parent(signal.SIGKILL)
    request = json.loads(sys.stdin.buffer.read())
    os.environ.pop("PYTHONUNBUFFERED", None)
    hide_program()
    write_to(output)
    train(descriptor, output, load(request), clock)


if __name__ == "__main__":
    main()
