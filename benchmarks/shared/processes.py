"""Wall time, CPU time and peak memory (PSS) of a command and all of its descendants; Linux."""

import ctypes
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import psutil

PR_SET_CHILD_SUBREAPER: Final = 36
SAMPLES_PER_SECOND: Final = 5


class Usage(NamedTuple):
    """What a command used: seconds, processor seconds, and the peak of memory in MiB."""

    wall: float
    cpu: float
    memory: float
    processes: int


class _Watch(threading.Thread):
    """Samples the descendants of this process until it is told to stop."""

    def __init__(self) -> None:
        super().__init__()
        self.over = threading.Event()
        self.peak = 0
        self.processes = 0
        self.seconds: dict[psutil.Process, float] = {}

    def run(self) -> None:
        while not self.over.wait(1 / SAMPLES_PER_SECOND):
            children = psutil.Process().children(recursive=True)
            self.peak = max(self.peak, sum(map(self._sample, children)))
            self.processes = max(self.processes, len(children))

    def _sample(self, process: psutil.Process) -> int:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            used = process.cpu_times()
            self.seconds[process] = used.user + used.system
            return int(process.memory_full_info().pss)
        return 0


def run_measured(
    command: Sequence[str],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Usage:
    """Run a command with its output in a file. Exits this process if the command fails.

    PSS counts a page that n processes share as 1/n for each, so the sum is the memory in use.
    """
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    before, watch = _seconds_of_ended(), _Watch()
    watch.start()
    began = time.perf_counter()
    with log.open("w") as file:
        ended = subprocess.run(command, env=env, cwd=cwd, stdout=file, stderr=file)
    wall = time.perf_counter() - began
    watch.over.set()
    watch.join()
    _reap_orphans()
    if ended.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{log.read_text()[-2000:]}")
    # No parent waits for Ray's workers: getrusage sees a sixth of their time.
    cpu = max(_seconds_of_ended() - before, sum(watch.seconds.values()))
    return Usage(wall, cpu, watch.peak / 2**20, watch.processes)


def _reap_orphans() -> None:
    """Wait for the processes that a command left behind, so that the next command runs alone."""
    with suppress(ChildProcessError):
        while True:
            os.wait()


def _seconds_of_ended() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
