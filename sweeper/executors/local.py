"""Workers as processes on this machine."""

import os
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from sweeper.executors.base import JobSpec, JobState, Traits

# Environment variable with the id of the process that a worker must not outlive.
PARENT: Final = "SWEEPER_PARENT"


@dataclass(frozen=True)
class LocalJob:
    """A process on this machine, with its output in a file."""

    process: subprocess.Popen[bytes]
    output: Path

    def state(self) -> JobState:
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
        """Send SIGKILL and wait for the process to end."""
        self.process.kill()
        self.process.wait()

    def log(self) -> str:
        """Return the output of the process so far."""
        return read_log(self.output)


@dataclass(frozen=True)
class LocalExecutor:
    """Starts processes on this machine."""

    traits: ClassVar[Traits] = Traits("local", max_jobs=256)

    def check(self, spec: JobSpec, count: int) -> None:
        """Do nothing: resources are not checked."""

    def start(self, spec: JobSpec, count: int) -> Sequence[LocalJob]:
        """Start `count` processes of the command."""
        return [LocalJob(*start_process(spec)) for _ in range(count)]

    def preview(self, spec: JobSpec, count: int) -> str:
        """Return the command line and the names of added environment variables."""
        processes = "1 process" if count == 1 else f"{count} processes"
        return preview(spec, f"{processes} on this machine")

    def close(self) -> None:
        """Do nothing: there are no resources to release."""


def start_process(spec: JobSpec) -> tuple[subprocess.Popen[bytes], Path]:
    """Start the command as a process on this machine; return it and its output file."""
    output = unused_log(spec.logs)
    with output.open("wb") as stream:
        process = subprocess.Popen(
            list(spec.command),
            env={**os.environ, **spec.env, PARENT: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # only the launcher gets Ctrl-C, and passes it on
        )
    return process, output


def unused_log(folder: Path) -> Path:
    """Create the next unused log file in a folder, and the folder if necessary."""
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
    """Return the content of a log file, or "" if it does not exist yet."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def preview(spec: JobSpec, where: str) -> str:
    """Return a command line with the names of added environment variables, without their values."""
    names = ", ".join(name for name, value in spec.env.items() if value)
    return f"{where}, with {names} in the environment:\n{shlex.join(spec.command)}\n"
