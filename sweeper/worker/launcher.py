"""A launch: start workers, watch the study until it is finished, then stop the workers."""

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
from sweeper.worker.served_studies import EndReason
from sweeper.worker.worker_states import revoke_dead_leases

POLL_SECONDS: Final = 0.2
# A launch gives up after this many deaths per worker without a finished trial in between. This is
# more than one bad trial can cause, so that the study continues after such a trial.
MAX_DEATHS: Final = 7
# Seconds before a dead worker is replaced.
FIRST_PAUSE: Final = 0.25
LONGEST_PAUSE: Final = 5.0

_log = logging.getLogger(__name__)

# Seconds after which a launch logs that its jobs are still queued.
QUEUE_SECONDS: Final = 10.0

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class RunningLaunch:
    """The settings of a launch; `job` starts one worker."""

    store: Store
    record: StudyRecord
    trials: int
    workers: int
    executor: Executor
    job: JobSpec
    deadline: float | None = None  # time.monotonic() seconds

    def start(self, count: int) -> Sequence[Job]:
        """Start `count` workers that stop at the deadline."""
        left = None if self.deadline is None else max(0.0, self.deadline - time.monotonic())
        return self.executor.start(with_time_limit(self.job, left), count)


@dataclass(frozen=True)
class Jobs:
    """The jobs of a launch.

    `count` is the number of workers and `slots` the number of slots of each; with 0 slots a worker
    trains in its own process. `results` is the absolute path of the folder for checkpoints.
    `storage` is the database URL, including the password. `functions` is true if the study has a
    user-defined training function, and `pickled` is its path if trainers cannot import it.
    """

    study: str
    count: int
    slots: int
    results: Path
    resources: Resources
    storage: str
    functions: bool
    pickled: str = ""


def worker_job(jobs: Jobs, executor: Executor) -> JobSpec:
    """Return the job that starts one of the workers."""
    study, results = jobs.study, jobs.results
    command = [sys.executable, "-m", "sweeper", "worker", study, "--workers", str(jobs.count)]
    command += ["--slots", str(jobs.slots)]
    if executor.traits.shares_files:
        command += ["--results", str(results)]
    # The URL contains the password, so a password file named in the job's environment is ignored.
    env = {"SWEEPER_STORAGE": jobs.storage, "SWEEPER_PASSWORD_FILE": ""}
    if jobs.functions and executor.traits.name == "local":
        env["SWEEPER_PREPARE"] = "1"
    if jobs.pickled:
        env["SWEEPER_PICKLED"] = jobs.pickled
    return JobSpec(study, tuple(command), results / study / "logs", env, jobs.resources)


def with_time_limit(job: JobSpec, seconds: float | None) -> JobSpec:
    """Return the job with a time limit in seconds, None for no limit."""
    limit = () if seconds is None else ("--timeout", f"{seconds:.1f}")
    return replace(job, command=(*job.command, *limit))


def run_launch(launch: RunningLaunch, on_progress: OnProgress) -> EndReason:
    """Run workers until the study is finished or the deadline passes.

    Raises `SweeperError` if workers refuse to work or keep dying, and KeyboardInterrupt after
    Ctrl-C. Running trials are released first.
    """
    revoke_dead_leases(launch.store, launch.record)
    jobs = list(launch.start(launch.workers))
    try:
        return _watch(launch, jobs, on_progress)
    finally:
        _end(launch, jobs, on_progress)


def _watch(launch: RunningLaunch, jobs: list[Job], on_progress: OnProgress) -> EndReason:
    deaths = _WorkerDeaths(MAX_DEATHS * launch.workers)
    queue_check_at = time.monotonic() + QUEUE_SECONDS
    while True:
        progress = read_progress(launch.store, launch.record, launch.trials)
        on_progress(progress)
        if launch.deadline is not None and time.monotonic() >= launch.deadline:
            return EndReason.STOPPED
        for job in [job for job in jobs if job.state() is JobState.FAILED]:
            jobs.remove(job)
            deaths.count(job, progress.ended + progress.confirmed)
            revoke_dead_leases(launch.store, launch.record)
        jobs.extend(_replace_dead(launch, jobs, deaths))
        if time.monotonic() > queue_check_at and jobs:
            queue_check_at = math.inf
            if all(job.state() is JobState.WAITING for job in jobs):
                name = launch.executor.traits.name
                _log.info("%s: %d jobs are still waiting in the queue", name, len(jobs))
        if not deaths.waiting and all(job.state() is JobState.SUCCEEDED for job in jobs):
            return EndReason.FINISHED
        time.sleep(POLL_SECONDS)


def _replace_dead(
    launch: RunningLaunch, jobs: Sequence[Job], deaths: "_WorkerDeaths"
) -> Sequence[Job]:
    """Start workers in place of dead ones; return the new jobs.

    If the executor fails, it is asked again later as long as other workers run. Raises
    `SweeperError` if no worker is left.
    """
    count = deaths.replacements()
    if count == 0:
        return []
    try:
        return launch.start(count)
    except SweeperError as error:
        if all(job.state().ended for job in jobs):
            raise
        _log.warning("%s; retrying", error)
        deaths.postpone(count)
        return []


class _WorkerDeaths:
    """Count dead workers and schedule their replacements.

    The pause before a replacement doubles with each death until a trial ends again.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._in_a_row = 0
        self._ended = 0
        self._due: list[float] = []

    @property
    def waiting(self) -> bool:
        """Whether a replacement is scheduled."""
        return bool(self._due)

    def count(self, job: Job, ended: int) -> None:
        """Record a dead worker; `ended` is the number of trials that have ended.

        Raises `SweeperError` if a replacement would end in the same way.
        """
        self._in_a_row = self._in_a_row + 1 if ended == self._ended else 1
        self._ended = ended
        _check_replaceable(job, self._in_a_row, self._limit)
        pause = min(FIRST_PAUSE * 2 ** (self._in_a_row - 1), LONGEST_PAUSE)
        self._due.append(time.monotonic() + pause)

    def replacements(self) -> int:
        """Return the number of workers to start now."""
        now = time.monotonic()
        later = [due for due in self._due if due > now]
        count = len(self._due) - len(later)
        self._due = later
        return count

    def postpone(self, count: int) -> None:
        """Schedule `count` replacements again, because they could not be started."""
        self._due += [time.monotonic() + LONGEST_PAUSE] * count


def _check_replaceable(job: Job, in_a_row: int, limit: int) -> None:
    """Raise `SweeperError` if this worker refused to work, or if too many have died."""
    log = job.log().strip()
    refusal = log.rsplit("error: ", 1)
    if len(refusal) == 2 and "Traceback" not in refusal[1]:
        raise SweeperError(refusal[1])
    if in_a_row > limit:
        raise SweeperError(
            f"{in_a_row} workers died in a row and no trial ended in between; last line of the "
            f"last worker's log: {log.splitlines()[-1] if log else '(empty)'}"
        )


def _end(launch: RunningLaunch, jobs: Sequence[Job], on_progress: OnProgress) -> None:
    """Stop all workers and release their trials; a second Ctrl-C kills the workers."""
    try:
        for job in jobs:
            job.cancel()
        while not all(job.state().ended for job in jobs):
            time.sleep(0.05)
    except KeyboardInterrupt:
        for job in jobs:
            job.kill()
    revoke_dead_leases(launch.store, launch.record)
    on_progress(read_progress(launch.store, launch.record, launch.trials))
