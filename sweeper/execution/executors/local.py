"""Workers as processes of this machine."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sweeper.execution.executors.base import JobState


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
        return self.output.read_text(encoding="utf-8", errors="replace")


@dataclass(frozen=True)
class LocalExecutor:
    """Starts processes on this machine."""

    def start(
        self, command: Sequence[str], env: Mapping[str, str], count: int, logs: Path
    ) -> Sequence[LocalJob]:
        """Start `count` processes of the command."""
        logs.mkdir(parents=True, exist_ok=True)
        return [self._start(command, env, logs) for _ in range(count)]

    def _start(self, command: Sequence[str], env: Mapping[str, str], logs: Path) -> LocalJob:
        output = _unused(logs)
        with output.open("wb") as stream:
            process = subprocess.Popen(
                list(command),
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the launcher, which passes it on
            )
        return LocalJob(process, output)


def _unused(logs: Path) -> Path:
    taken = {path.name for path in logs.glob("worker-*.log")}
    number = 1
    while f"worker-{number}.log" in taken:
        number += 1
    return logs / f"worker-{number}.log"
