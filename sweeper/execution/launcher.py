"""A launch: starts workers, watches the study until it is finished, and cleans up behind them."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sweeper.errors import SweeperError
from sweeper.execution.executors.base import Executor, Job, JobState
from sweeper.execution.identity import is_dead
from sweeper.execution.worker import Ended
from sweeper.store.database import Store
from sweeper.store.studies import StudyRecord
from sweeper.store.tickets import free_leases, ticket_states
from sweeper.study.progress import Progress, read_progress

POLL_SECONDS: Final = 0.5
# Workers started anew in one launch before it gives up on them.
MAX_REPLACEMENTS: Final = 10

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Launch:
    """What a launch needs: `storage` is the database in full, for the workers' environment."""

    writer: Store
    reader: Store
    record: StudyRecord
    storage: str
    trials: int
    workers: int
    executor: Executor
    logs: Path
    deadline: float | None = None  # time.monotonic() seconds

    def command(self, parent: int) -> list[str]:
        """Return a worker's command line, which never holds the database's URL."""
        return [
            *(sys.executable, "-m", "sweeper", "worker", self.record.name),
            *("--parent", str(parent)),
        ]


def run_launch(launch: Launch, parent: int, on_progress: OnProgress) -> Ended:
    """Run workers until the study is finished, the deadline passes or Ctrl-C is pressed.

    Raises `SweeperError` where workers refuse to work or keep dying.
    """
    free_dead(launch.writer, launch.record)
    jobs = list(_start(launch, parent, launch.workers))
    try:
        return _watch(launch, parent, jobs, on_progress)
    except KeyboardInterrupt:
        return Ended.STOPPED
    finally:
        _end(launch, jobs, on_progress)


def free_dead(store: Store, record: StudyRecord) -> int:
    """Free the leases of workers of this host that are no more; return how many."""
    holders = {ticket.worker for ticket in ticket_states(store, record) if ticket.leased}
    dead = [worker for worker in holders if worker and is_dead(worker)]
    return free_leases(store, dead) if dead else 0


def _start(launch: Launch, parent: int, count: int) -> Sequence[Job]:
    env = {"SWEEPER_STORAGE": launch.storage}
    return launch.executor.start(launch.command(parent), env, count, launch.logs)


def _watch(launch: Launch, parent: int, jobs: list[Job], on_progress: OnProgress) -> Ended:
    replaced = 0
    while True:
        on_progress(read_progress(launch.reader, launch.record, launch.trials))
        if launch.deadline is not None and time.monotonic() >= launch.deadline:
            return Ended.STOPPED
        lost = [job for job in jobs if job.state() is JobState.FAILED]
        for job in lost:
            replaced += 1
            _check_worth(job, replaced)
            jobs.remove(job)
            free_dead(launch.writer, launch.record)
            jobs.extend(_start(launch, parent, 1))
        if all(job.state() is JobState.SUCCEEDED for job in jobs):
            return Ended.FINISHED
        time.sleep(POLL_SECONDS)


def _check_worth(job: Job, replaced: int) -> None:
    """Raise where another worker would end like this one: it refused, or too many have died."""
    said = job.log().strip()
    refusal = said.rsplit("error: ", 1)
    if len(refusal) == 2 and "Traceback" not in refusal[1]:
        raise SweeperError(refusal[1])
    if replaced > MAX_REPLACEMENTS:
        raise SweeperError(
            f"{replaced} workers died in this launch; the last one said: "
            f"{said.splitlines()[-1] if said else 'nothing'}"
        )


def _end(launch: Launch, jobs: Sequence[Job], on_progress: OnProgress) -> None:
    """Let running trials go back to the queue; a second Ctrl-C ends them at once."""
    try:
        for job in jobs:
            job.cancel()
        while any(job.state() is JobState.RUNNING for job in jobs):
            time.sleep(0.05)
    except KeyboardInterrupt:
        for job in jobs:
            job.kill()
    free_dead(launch.writer, launch.record)
    on_progress(read_progress(launch.reader, launch.record, launch.trials))
