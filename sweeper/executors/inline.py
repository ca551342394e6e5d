"""Workers inside this process, one after another: for debugging, or if only one process may run."""

import gc
import logging
import os
import runpy
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from sweeper.executors.base import JobSpec, JobState, Traits
from sweeper.executors.local import PARENT, preview, read_log, unused_log


@dataclass
class InlineJob:
    """A module that runs in this process as `__main__`, when `state` is first called."""

    command: Sequence[str]
    env: dict[str, str] = field(repr=False)
    output: Path
    _state: JobState = JobState.WAITING

    def state(self) -> JobState:
        """Run the job if it has not run yet, and return its final state."""
        if self._state is JobState.WAITING:
            self._state = JobState.RUNNING  # the job itself may call `state`
            status = self._run()
            self._state = JobState.SUCCEEDED if status == 0 else JobState.FAILED
            if status == 128 + signal.SIGINT:  # pass Ctrl-C on to the caller
                raise KeyboardInterrupt
        return self._state

    def cancel(self) -> None:
        """Prevent the job from running, if it has not started."""
        if self._state is JobState.WAITING:
            self._state = JobState.FAILED

    def kill(self) -> None:
        """Do the same as `cancel`."""
        self.cancel()

    def log(self) -> str:
        """Return the output of the job."""
        return read_log(self.output)

    def _run(self) -> int | str:
        _, _, module, *arguments = self.command
        with (
            self.output.open("w", encoding="utf-8") as stream,
            redirect_stdout(stream),
            redirect_stderr(stream),
            _environment(self.env),
            chdir(Path.cwd()),  # restores the current folder, which the job may change
            _arguments(arguments),
            _signals(),
            _logging(),
        ):
            try:
                runpy.run_module(module, run_name="__main__", alter_sys=True)
            except SystemExit as end:
                return end.code or 0
            finally:
                gc.unfreeze()  # the program may have frozen objects
        return 0


@dataclass(frozen=True)
class InlineExecutor:
    """Runs `python -m MODULE …` in this process."""

    traits: ClassVar[Traits] = Traits("inline", max_jobs=1)

    def check(self, spec: JobSpec, count: int) -> None:
        """Do nothing: no resources are needed."""

    def start(self, spec: JobSpec, count: int) -> Sequence[InlineJob]:
        """Return `count` jobs; each runs when its `state` is first called."""
        env = {**spec.env, PARENT: str(os.getpid())}
        return [InlineJob(spec.command, env, unused_log(spec.logs)) for _ in range(count)]

    def preview(self, spec: JobSpec, count: int) -> str:
        """Return the command line and the names of added environment variables."""
        return preview(spec, "in this process")

    def close(self) -> None:
        """Do nothing: there are no resources to release."""


@contextmanager
def _environment(env: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(env)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _arguments(arguments: list[str]) -> Iterator[None]:
    before = sys.argv
    sys.argv = ["", *arguments]  # run_module puts its own path first
    try:
        yield
    finally:
        sys.argv = before


@contextmanager
def _signals() -> Iterator[None]:
    """Restore the signal handlers that the program replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _logging() -> Iterator[None]:
    """Restore where messages are logged: the program logs to its output, which is closed then."""
    root, own = logging.getLogger(), logging.getLogger("sweeper")
    handlers, levels = list(root.handlers), (root.level, own.level)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(levels[0])
        own.setLevel(levels[1])
