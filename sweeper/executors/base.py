"""Interface of executors and jobs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

from sweeper.errors import SweeperError


class JobState(Enum):
    WAITING = "waiting"  # queued
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether the job has succeeded or failed."""
        return self in (JobState.SUCCEEDED, JobState.FAILED)


@dataclass(frozen=True)
class Resources:
    """Resources of one job: cores, GPUs and memory in GiB; None: the default of the executor."""

    cpus: int = 1
    gpus: float = 0
    memory: float | None = None

    @property
    def mebibytes(self) -> int | None:
        """Memory in MiB, the unit of Slurm and Kubernetes."""
        return None if self.memory is None else round(1024 * self.memory)

    def whole_gpus(self, executor: str) -> int:
        """Return the number of GPUs; raises `SweeperError` for a fraction."""
        if self.gpus != int(self.gpus):
            raise SweeperError(
                f"resources.gpus: must be an integer with {executor}, got {self.gpus:g}; only ray "
                "and workers on this machine can share a GPU"
            )
        return int(self.gpus)


@dataclass(frozen=True)
class JobSpec:
    """A command to run as one or more jobs.

    `command` starts with the path of this Python; executors replace it where another path is used.
    `env` is added to the environment. It holds the database URL, which must not appear in command
    lines or files because it may contain a password. `logs` is the folder for the output of jobs.
    """

    name: str
    command: tuple[str, ...]
    logs: Path
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    resources: Resources = field(default_factory=Resources)


class Job(Protocol):
    """One started command."""

    def state(self) -> JobState:
        """Return the state; `FAILED` for any exit status except 0."""
        ...

    def cancel(self) -> None:
        """Ask the job to end gracefully; no-op if it has ended."""
        ...

    def kill(self) -> None:
        """End the job immediately; no-op if it has ended."""
        ...

    def log(self) -> str:
        """Return the output of the job so far, or the last part of it."""
        ...


@dataclass(frozen=True)
class Traits:
    """Properties of an executor.

    `max_jobs` is the maximum number of jobs. `multiple_machines` is whether jobs may run on other
    machines, `shares_files` whether they can access this machine's folders, and `outlives_parent`
    whether they continue after the process that started them ends.
    """

    name: str
    max_jobs: int
    multiple_machines: bool = False
    shares_files: bool = True
    outlives_parent: bool = False


class Executor(Protocol):
    """Starts a command as one or more jobs."""

    @property
    def traits(self) -> Traits: ...

    def check(self, spec: JobSpec, count: int) -> None:
        """Raise `SweeperError` if `count` jobs would be rejected; starts nothing."""
        ...

    def start(self, spec: JobSpec, count: int) -> Sequence[Job]:
        """Start `count` jobs; raises `SweeperError` if they are rejected."""
        ...

    def preview(self, spec: JobSpec, count: int) -> str:
        """Return a readable text of what `start` would submit; submits nothing."""
        ...

    def close(self) -> None:
        """Release resources of the executor; does not end jobs that survive this process."""
        ...
