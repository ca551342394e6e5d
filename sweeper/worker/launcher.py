"""A launch: starts workers, watches the study until it is finished, and cleans up behind them."""

import logging
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sweeper.errors import SweeperError
from sweeper.executors.base import Executor, Job, JobSpec, JobState, Resources
from sweeper.store.database import Store
from sweeper.store.studies import StudyRecord
from sweeper.study.progress import Progress, read_progress
from sweeper.worker.presence import free_dead
from sweeper.worker.worker import Ended

POLL_SECONDS: Final = 0.5
# Deaths a worker, without a trial ending in between, before a launch gives up. More than a
# poison trial can kill: the study goes on after it.
MAX_DEATHS: Final = 7
# Before a dead worker is replaced.
FIRST_PAUSE: Final = 0.25
LONGEST_PAUSE: Final = 5.0

_log = logging.getLogger(__name__)

# A launch whose jobs still wait then says so.
QUEUE_SECONDS: Final = 10.0

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Launch:
    """What a launch needs; `job` is how one of its workers is started."""

    writer: Store
    reader: Store
    record: StudyRecord
    trials: int
    workers: int
    executor: Executor
    job: JobSpec
    deadline: float | None = None  # time.monotonic() seconds

    def start(self, count: int) -> Sequence[Job]:
        """Start so many workers, for the time that is left."""
        left = None if self.deadline is None else max(0.0, self.deadline - time.monotonic())
        return self.executor.start(limited(self.job, left), count)


def worker_job(
    study: str, workers: int, results: Path, executor: Executor, resources: Resources, storage: str
) -> JobSpec:
    """Return how one of so many workers on a study is started.

    `results`, absolute, is where they keep their checkpoints; `storage` is the database in full.
    """
    command = [sys.executable, "-m", "sweeper", "worker", study, "--workers", str(workers)]
    if executor.traits.files:
        command += ["--results", str(results)]
    # The URL has its password: a machine that has a file of it in its environment is not to look.
    env = {"SWEEPER_STORAGE": storage, "SWEEPER_PASSWORD_FILE": ""}
    return JobSpec(study, tuple(command), results / study / "logs", env, resources)


def limited(job: JobSpec, seconds: float | None) -> JobSpec:
    """Return the job of a worker that leaves after so many seconds, None for no limit."""
    limit = () if seconds is None else ("--timeout", f"{seconds:.1f}")
    return replace(job, command=(*job.command, *limit))


def run_launch(launch: Launch, on_progress: OnProgress) -> Ended:
    """Run workers until the study is finished, the deadline passes or Ctrl-C is pressed.

    Raises `SweeperError` where workers refuse to work or keep dying.
    """
    free_dead(launch.writer, launch.record)
    jobs = list(launch.start(launch.workers))
    try:
        return _watch(launch, jobs, on_progress)
    except KeyboardInterrupt:
        return Ended.STOPPED
    finally:
        _end(launch, jobs, on_progress)


def _watch(launch: Launch, jobs: list[Job], on_progress: OnProgress) -> Ended:
    deaths = _Deaths(MAX_DEATHS * launch.workers)
    silent_until = time.monotonic() + QUEUE_SECONDS
    while True:
        progress = read_progress(launch.reader, launch.record, launch.trials)
        on_progress(progress)
        if launch.deadline is not None and time.monotonic() >= launch.deadline:
            return Ended.STOPPED
        for job in [job for job in jobs if job.state() is JobState.FAILED]:
            jobs.remove(job)
            deaths.count(job, progress.ended + progress.confirmed)
            free_dead(launch.writer, launch.record)
        jobs.extend(_replaced(launch, jobs, deaths))
        if time.monotonic() > silent_until and jobs:
            silent_until = math.inf
            if all(job.state() is JobState.WAITING for job in jobs):
                name = launch.executor.traits.name
                _log.info("%s: its queue has not come to these jobs yet: %d", name, len(jobs))
        if not deaths.waiting and all(job.state() is JobState.SUCCEEDED for job in jobs):
            return Ended.FINISHED
        time.sleep(POLL_SECONDS)


def _replaced(launch: Launch, jobs: Sequence[Job], deaths: "_Deaths") -> Sequence[Job]:
    """Start workers in place of dead ones; while others work, an engine may refuse to for a time.

    Raises `SweeperError` where nobody is left.
    """
    count = deaths.replacements()
    if count == 0:
        return []
    try:
        return launch.start(count)
    except SweeperError as error:
        if all(job.state().ended for job in jobs):
            raise
        _log.warning("%s; asking again", error)
        deaths.postpone(count)
        return []


class _Deaths:
    """Workers that died, each replaced after a pause that grows until a trial ends again."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._in_a_row = 0
        self._ended = 0
        self._due: list[float] = []

    @property
    def waiting(self) -> bool:
        """Whether a worker is still to be replaced."""
        return bool(self._due)

    def count(self, job: Job, ended: int) -> None:
        """Take note of a dead worker; raises where no other would fare better."""
        self._in_a_row = self._in_a_row + 1 if ended == self._ended else 1
        self._ended = ended
        _check_worth(job, self._in_a_row, self._limit)
        pause = min(FIRST_PAUSE * 2 ** (self._in_a_row - 1), LONGEST_PAUSE)
        self._due.append(time.monotonic() + pause)

    def replacements(self) -> int:
        """Return how many workers are to be started now."""
        now = time.monotonic()
        still = [due for due in self._due if due > now]
        count = len(self._due) - len(still)
        self._due = still
        return count

    def postpone(self, count: int) -> None:
        """Have so many started later, as they could not be now."""
        self._due += [time.monotonic() + LONGEST_PAUSE] * count


def _check_worth(job: Job, in_a_row: int, limit: int) -> None:
    """Raise where another worker would end like this one: it refused, or too many have died."""
    said = job.log().strip()
    refusal = said.rsplit("error: ", 1)
    if len(refusal) == 2 and "Traceback" not in refusal[1]:
        raise SweeperError(refusal[1])
    if in_a_row > limit:
        raise SweeperError(
            f"{in_a_row} workers died and no trial ended in between; the last one said: "
            f"{said.splitlines()[-1] if said else 'nothing'}"
        )


def _end(launch: Launch, jobs: Sequence[Job], on_progress: OnProgress) -> None:
    """Let running trials go back to the queue; a second Ctrl-C ends them at once."""
    try:
        for job in jobs:
            job.cancel()
        while not all(job.state().ended for job in jobs):
            time.sleep(0.05)
    except KeyboardInterrupt:
        for job in jobs:
            job.kill()
    free_dead(launch.writer, launch.record)
    on_progress(read_progress(launch.reader, launch.record, launch.trials))
