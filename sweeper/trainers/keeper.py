"""A keeper: starts one trainer at a time for a slot, monitors it, and cleans up after it."""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sweeper.trainers import system
from sweeper.trainers.channel import Channel, ChannelClosed
from sweeper.trainers.output_file import shorten
from sweeper.trainers.process import Clock, train

# Interval between checks of the time, the memory and the output of a trainer.
POLL_SECONDS: Final = 0.5
# Without a memory limit, memory is measured less often if that takes long: the pause after it is
# this many times as long.
MEASURE_PAUSE: Final = 200
# After a trainer has ended, its helper processes have this time to end, for example those that
# free shared memory.
HELPER_SECONDS: Final = 0.1
# If a check is late by more than this, the machine or this process was suspended.
SUSPENDED_SECONDS: Final = 5.0


@dataclass
class _Trainer:
    """A running trainer: its process and its limits."""

    process: int
    descriptor: int  # pidfd of the process; -1 where pidfds are not supported
    output: Path
    limits: Mapping[str, Any]
    clock: Clock
    kills: int  # out-of-memory kills in our control group before it started
    cause: str = ""
    suspended: float = 0.0  # seconds for which it was suspended
    measure_at: float = 0.0  # when its memory is measured again


class _Keeper:
    def __init__(self, worker: Channel, program: Any, request: Mapping[str, Any]) -> None:
        self._worker, self._server = worker, os.getppid()
        self._program, self._request = program, request
        self._selector = selectors.DefaultSelector()
        self._trainer: _Trainer | None = None

    def run(self) -> None:
        """Serve until the worker or the server ends."""
        self._selector.register(self._worker, selectors.EVENT_READ, self._messages)
        watched = system.descriptor_of(self._server)
        if watched >= 0:
            self._selector.register(watched, selectors.EVENT_READ, self._orphaned)
        with suppress(ChannelClosed):
            while True:
                timeout = None if self._trainer is None else POLL_SECONDS
                before = time.monotonic()
                events = self._selector.select(timeout)
                late = time.monotonic() - before - POLL_SECONDS
                if self._trainer is not None and late > SUSPENDED_SECONDS:
                    self._trainer.suspended += late
                for key, _ in events:
                    key.data()
                self._check()

    def _orphaned(self) -> None:
        raise ChannelClosed("the server has ended")

    def _messages(self) -> None:
        for message in self._worker.read_messages():
            match message["do"]:
                case "train":
                    self._start(message)
                case "kill":
                    self._kill(message["cause"])

    # ---- a trainer -----------------------------------------------------------------------

    def _start(self, message: Mapping[str, Any]) -> None:
        descriptor = self._worker.next_descriptor()
        output = Path(message["output"])
        clock = Clock() if self._program is not None else Clock.with_descriptor()
        process = self._spawn(descriptor, output, clock, message["environment"])
        os.close(descriptor)
        watched = system.descriptor_of(process)
        if watched >= 0:
            self._selector.register(watched, selectors.EVENT_READ, self._ended)
        self._trainer = _Trainer(
            process,
            watched,
            output,
            message["limits"],
            clock,
            system.out_of_memory_kills(),
        )

    def _spawn(
        self, descriptor: int, output: Path, clock: Clock, environment: Mapping[str, str]
    ) -> int:
        if self._program is None:
            return _execute(descriptor, clock, output, self._request, environment)
        keeper = os.getpid()
        process = os.fork()
        if process:
            return process
        try:
            self._selector.close()
            self._worker.close()
            system.die_with_parent(signal.SIGKILL)
            if os.getppid() != keeper:
                os._exit(1)
            os.environ.update(environment)
            train(descriptor, output, self._program, clock)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)

    def _kill(self, cause: str) -> None:
        if self._trainer is not None:
            self._trainer.cause = self._trainer.cause or cause
            with suppress(ProcessLookupError):
                os.kill(self._trainer.process, signal.SIGKILL)

    def _check(self) -> None:
        """Kill a trainer that exceeds its limits, and shorten an output that is too long."""
        trainer = self._trainer
        if trainer is None:
            return
        if trainer.descriptor < 0:
            self._ended()
        limits, clock = trainer.limits, trainer.clock
        used = clock.seconds_since_reply if limits["by_report"] else clock.seconds
        if limits["seconds"] is not None and used - trainer.suspended > limits["seconds"]:
            self._kill("timeout")
        if limits["memory"] is not None or time.monotonic() >= trainer.measure_at:
            memory = _measure(trainer)
            if limits["memory"] is not None and memory > limits["memory"]:
                self._kill("memory")
        shorten(trainer.output)

    def _ended(self) -> None:
        """If the trainer has ended, clean up after it and inform the worker."""
        trainer = self._trainer
        if trainer is None:
            return
        ended, status = os.waitpid(trainer.process, os.WNOHANG)
        if not ended:
            return
        self._trainer = None
        peak = trainer.clock.peak or None
        trainer.clock.close()
        if trainer.descriptor >= 0:
            self._selector.unregister(trainer.descriptor)
            os.close(trainer.descriptor)
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            _wait_for_children(HELPER_SECONDS)
        system.kill_children()
        shorten(trainer.output)
        oom = code == -signal.SIGKILL and system.out_of_memory_kills() > trainer.kills
        cause = trainer.cause or ("memory" if oom else "")
        self._worker.send({"status": code, "cause": cause, "peak": peak})

    def clean_up(self) -> None:
        """Kill all child processes."""
        system.kill_children()


def run_keeper(worker: Channel, program: Any, request: Mapping[str, Any]) -> None:
    """Serve a slot of a worker until the worker or the server ends.

    `program` has loaded the study's code. If it is None, trainers are not forked but load the code
    themselves, as given by `request`.
    """
    os.setsid()
    system.adopt_orphans()
    keeper = _Keeper(worker, program, request)
    try:
        with suppress(ChannelClosed):
            worker.send({"keeper": os.getpid()})
        keeper.run()
    finally:
        keeper.clean_up()


def _execute(
    descriptor: int,
    clock: Clock,
    output: Path,
    request: Mapping[str, Any],
    environment: Mapping[str, str],
) -> int:
    """Start a trainer that is not forked and imports the study's code itself."""
    arguments = (str(descriptor), str(clock.descriptor), str(output))
    process = subprocess.Popen(
        [sys.executable, "-m", "sweeper.trainers.process", *arguments],
        pass_fds=[descriptor, clock.descriptor],
        stdin=subprocess.PIPE,
        env={**os.environ, **environment, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.write(json.dumps(request).encode())
    process.stdin.close()
    process.returncode = 0  # so that Popen does not wait for it; `_ended` does
    return process.pid


def _measure(trainer: _Trainer) -> int:
    """Return the memory of a trainer and its child processes in bytes; record the peak."""
    began = time.monotonic()
    memory = system.memory_of(system.tree_of(trainer.process))
    trainer.clock.peak = max(trainer.clock.peak, memory)
    ended = time.monotonic()
    trainer.measure_at = ended + MEASURE_PAUSE * (ended - began)
    return memory


def _wait_for_children(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while system.has_children() and time.monotonic() < deadline:
        with suppress(ChildProcessError):
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                system.sleep(0.01)
