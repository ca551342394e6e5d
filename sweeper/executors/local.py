"""Workers as processes of this machine."""

import os
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from sweeper.executors.base import JobSpec, JobState, Traits

# Tells a worker which process it is not to outlive.
PARENT: Final = "SWEEPER_PARENT"


@dataclass(frozen=True)
class LocalJob:
    """One process of this machine, with its output in a file."""

    process: subprocess.Popen[bytes]
    output: Path

    def state(self) -> JobState:
        """Return where the process stands."""
        match self.process.poll():
            case None:
                return JobState.RUNNING
            case 0:
                return JobState.SUCCEEDED
            case _:
                return JobState.FAILED

    def cancel(self) -> None:
        """Send SIGTERM."""
        self.process.terminate()

    def kill(self) -> None:
        """Send SIGKILL and wait until the process is gone."""
        self.process.kill()
        self.process.wait()

    def log(self) -> str:
        """Return what the process printed so far."""
        return read_log(self.output)


@dataclass(frozen=True)
class LocalExecutor:
    """Starts processes on this machine."""

    traits: ClassVar[Traits] = Traits("local", most=256)

    def check(self, spec: JobSpec, count: int) -> None:
        """Do nothing: a process can always be started."""

    def start(self, spec: JobSpec, count: int) -> Sequence[LocalJob]:
        """Start `count` processes of the command."""
        return [LocalJob(*started(spec)) for _ in range(count)]

    def preview(self, spec: JobSpec, count: int) -> str:
        """Return the command line."""
        return preview(spec, count, "processes of this machine")

    def close(self) -> None:
        """Do nothing."""


def started(spec: JobSpec) -> tuple[subprocess.Popen[bytes], Path]:
    """Start the command as a process of this machine; return it and the file of its output."""
    output = unused_log(spec.logs)
    with output.open("wb") as stream:
        process = subprocess.Popen(
            list(spec.command),
            env={**os.environ, **spec.env, PARENT: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the launcher, which passes it on
        )
    return process, output


def unused_log(folder: Path) -> Path:
    """Make the folder and, in it, the empty file of the next log; two never get the same one."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        path = folder / f"worker-{number}.log"
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            number += 1
        else:
            return path


def read_log(path: Path) -> str:
    """Return what is in the file of a log; nothing where it is not there (yet)."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def preview(spec: JobSpec, count: int, what: str) -> str:
    """Return a command line with the names, not the values, of what its environment adds."""
    needs = ", ".join(name for name, value in spec.env.items() if value)
    return f"{count} {what}, with {needs} in the environment:\n{shlex.join(spec.command)}\n"
