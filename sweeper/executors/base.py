"""What an executor is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol


class JobState(Enum):
    """Where a job stands."""

    WAITING = "waiting"  # for its turn with the engine
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether the job has come to its end."""
        return self in (JobState.SUCCEEDED, JobState.FAILED)


@dataclass(frozen=True)
class Resources:
    """What one job needs: cores, GPUs and GiB of memory; None leaves it to the engine."""

    cpus: int = 1
    gpus: float = 0
    memory: float | None = None

    @property
    def mebibytes(self) -> int | None:
        """The memory in MiB, as engines take it."""
        return None if self.memory is None else round(1024 * self.memory)


@dataclass(frozen=True)
class JobSpec:
    """A command line that is run a number of times.

    `command` begins with this Python; an executor whose machines have another one puts that in
    its place. `env` is added to the environment: it holds the database's URL, which stands in no
    command line and in no file. `logs` is a folder for what the jobs print.
    """

    name: str
    command: tuple[str, ...]
    logs: Path
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    resources: Resources = field(default_factory=Resources)


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
        """Return what the job printed so far, or the end of it."""
        ...


@dataclass(frozen=True)
class Traits:
    """What a launch has to know of an executor.

    `most` is how many jobs it takes; `machines` whether they may run on others than this one;
    `files` whether they see this machine's folders; `survives` whether they go on when the
    process that started them ends.
    """

    name: str
    most: int
    machines: bool = False
    files: bool = True
    survives: bool = False


class Executor(Protocol):
    """Starts one command line a number of times."""

    @property
    def traits(self) -> Traits:
        """What a launch has to know."""
        ...

    def check(self, spec: JobSpec, count: int) -> None:
        """Raise `SweeperError` where the engine would not take `count` jobs; starts nothing."""
        ...

    def start(self, spec: JobSpec, count: int) -> Sequence[Job]:
        """Start `count` jobs; raises `SweeperError` where the engine does not take them."""
        ...

    def preview(self, spec: JobSpec, count: int) -> str:
        """Return what `start` would submit, to be read; nothing is asked of the engine."""
        ...

    def close(self) -> None:
        """Let go of the engine; the jobs have ended or are left to it."""
        ...
