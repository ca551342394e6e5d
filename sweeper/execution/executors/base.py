"""What an executor is."""

from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Protocol


class JobState(Enum):
    """Where a job stands."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class Job(Protocol):
    """One started command."""

    def state(self) -> JobState:
        """Return where the job stands; `FAILED` for any end but exit status 0."""
        ...

    def cancel(self) -> None:
        """Ask the job to end in its own time; no-op where it has ended."""
        ...

    def kill(self) -> None:
        """End the job at once; no-op where it has ended."""
        ...

    def log(self) -> str:
        """Return what the job printed so far."""
        ...


class Executor(Protocol):
    """Starts one command line a number of times."""

    def start(
        self, command: Sequence[str], env: Mapping[str, str], count: int, logs: Path
    ) -> Sequence[Job]:
        """Start `count` jobs; `env` is added to the environment, `logs` a folder for output."""
        ...
