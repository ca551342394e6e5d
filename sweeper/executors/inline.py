"""Workers in this process, one after another: for a debugger, or where one process is allowed."""

import gc
import os
import runpy
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from sweeper.executors.base import JobSpec, JobState, Traits
from sweeper.executors.local import PARENT, preview, read_log, unused_log


@dataclass
class InlineJob:
    """A module that is run as a program by this process, when its state is first asked for."""

    command: Sequence[str]
    env: dict[str, str] = field(repr=False)
    output: Path
    _state: JobState = JobState.WAITING

    def state(self) -> JobState:
        """Run the job if it has not been, and return how it ended."""
        if self._state is JobState.WAITING:
            self._state = JobState.RUNNING  # what it runs may ask
            status = self._run()
            self._state = JobState.SUCCEEDED if status == 0 else JobState.FAILED
            if status == 128 + signal.SIGINT:  # it took Ctrl-C from whoever waits for it
                raise KeyboardInterrupt
        return self._state

    def cancel(self) -> None:
        """Keep the job from being run, if it has not been."""
        if self._state is JobState.WAITING:
            self._state = JobState.FAILED

    def kill(self) -> None:
        """Do as `cancel`."""
        self.cancel()

    def log(self) -> str:
        """Return what the job printed."""
        return read_log(self.output)

    def _run(self) -> int | str:
        _, _, module, *arguments = self.command
        with (
            self.output.open("w", encoding="utf-8") as stream,
            redirect_stdout(stream),
            redirect_stderr(stream),
            _environment(self.env),
            _arguments(arguments),
            _signals(),
        ):
            try:
                runpy.run_module(module, run_name="__main__", alter_sys=True)
            except SystemExit as end:
                return end.code or 0
            finally:
                gc.unfreeze()  # a program that ends freezes what it leaves
        return 0


@dataclass(frozen=True)
class InlineExecutor:
    """Runs `python -m MODULE …` in this process."""

    traits: ClassVar[Traits] = Traits("inline", most=1)

    def check(self, spec: JobSpec, count: int) -> None:
        """Do nothing: this process is there."""

    def start(self, spec: JobSpec, count: int) -> Sequence[InlineJob]:
        """Return `count` jobs, each of which is run when its state is asked for."""
        env = {**spec.env, PARENT: str(os.getpid())}
        return [InlineJob(spec.command, env, unused_log(spec.logs)) for _ in range(count)]

    def preview(self, spec: JobSpec, count: int) -> str:
        """Return the command line."""
        return preview(spec, count, "in this process")

    def close(self) -> None:
        """Do nothing."""


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
    """Give this process back the signals that the program takes over."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
