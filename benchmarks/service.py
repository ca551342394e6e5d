"""Users of the service while workers write: times of answers, and the effect on the workers.

Claim     50 users watch a study of 10,000 trials (its numbers, figures and table) while 8 workers
          go on with it. All are answered without an error. The workers lose no more than the share
          of the cores that the service and the users take.
Method    The study is filled with copies of trials that were really run, and has trials left.
          Workers, service and simulated users (benchmarks/shared/service_users.py) are separate
          processes that share the cores of this machine; real users would have their own.
          Periods with users and without alternate, with the same workers.
Run       python -m benchmarks.service [--users 50] [--workers 8] [--finished 10000]
          [--seconds 30] [--turns 3] [--backend sqlite|postgresql] [--quick]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import numpy as np
import psutil

from benchmarks.shared.arguments import parse, parser
from benchmarks.shared.databases import BACKENDS, opened_backend
from benchmarks.shared.surface_study import NAME, LaunchedStudy, launched
from benchmarks.shared.tables import markdown_table, median_range
from sweeper.api import Study

T = TypeVar("T")


@contextmanager
def service(launch: LaunchedStudy, *options: str) -> Iterator[tuple[psutil.Process, int]]:
    """Serve the study; yield the process and its port."""
    command = [sys.executable, "-m", "sweeper", "serve", "--no-browser", "--port", "0", *options]
    environment = {**os.environ, "SWEEPER_STORAGE": launch.storage}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().split("/ ")[0].rsplit(":", 1)[1])
        yield psutil.Process(process.pid), port
        process.terminate()


@contextmanager
def workers(launch: LaunchedStudy, count: int, *options: str) -> Iterator[None]:
    """Run workers on the study."""
    command = [sys.executable, "-m", "sweeper", "worker", NAME, "--folder", str(launch.folder)]
    environment = {**os.environ, "SWEEPER_STORAGE": launch.storage}
    started = [
        subprocess.Popen(
            [*command, "--results", str(launch.folder), *options],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(count)
    ]
    try:
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()


class Period(NamedTuple):
    """A period with users: the trials per second, what the users report, and the CPU seconds."""

    rate: float
    times: dict[str, list[float]]
    errors: list[str]
    users_cpu: float
    service_cpu: float


def rate(study: Study, wait: Callable[[], T]) -> tuple[float, T]:
    """Return the trials per second until a call returns, and its result."""
    before, began = study.progress().ended, time.perf_counter()
    result = wait()
    return (study.progress().ended - before) / (time.perf_counter() - began), result


def with_users(
    study: Study, service: psutil.Process, port: int, given: argparse.Namespace
) -> Period:
    """Let users watch for one period."""
    numbers = map(str, (given.users, given.arrival, given.seconds))
    command = [sys.executable, "-m", "benchmarks.shared.service_users", str(port), NAME, *numbers]
    before = sum(service.cpu_times()[:2])
    found, done = rate(
        study, lambda: subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    )
    said = json.loads(done.stdout)
    spent = sum(service.cpu_times()[:2]) - before
    return Period(found, said["times"], said["errors"], said["cpu"], spent)


def compare(launch: LaunchedStudy, given: argparse.Namespace) -> None:
    """Print the times of answers, and the trials per second of the workers with and without."""
    study = Study(NAME, launch.storage)
    length = given.seconds + given.arrival
    alone, periods = list[float](), list[Period]()
    with service(launch) as (process, port), workers(launch, given.workers):
        ended = study.progress().ended
        while study.progress().ended < ended + 2 * given.workers:  # until all have begun
            time.sleep(0.2)
        for turn in range(given.turns):
            # The order alternates too, because a machine's speed drifts.
            if turn % 2 == 0:
                alone.append(rate(study, lambda: time.sleep(length))[0])
            periods.append(with_users(study, process, port, given))
            if turn % 2 == 1:
                alone.append(rate(study, lambda: time.sleep(length))[0])
            last = periods[-1]
            print(f"turn {turn}: {alone[-1]:.2f} and {last.rate:.2f} trials/s", *last.errors[:3])
        memory = process.memory_info().rss / 2**20
    print(
        f"\n{given.users} users, {given.workers} workers, {study.progress().ended:,} trials, "
        f"{given.turns} turns of {given.seconds:g} s, "
        f"{sum(len(period.errors) for period in periods)} errors\n"
    )
    print(answers(periods))
    shares = [period.rate / rate for period, rate in zip(periods, alone, strict=True)]
    print(
        f"\nworkers: {statistics.median(alone):.2f} trials/s without users, "
        f"{statistics.median(period.rate for period in periods):.2f} with users, "
        f"ratio {median_range(shares, '{:.3f}')}"
    )
    machine = given.turns * length * (os.cpu_count() or 1)
    print(
        f"CPU: the service had {sum(one.service_cpu for one in periods) / machine:.1%} of the "
        f"machine, the users {sum(one.users_cpu for one in periods) / machine:.1%}; "
        f"the service holds {memory:.0f} MiB"
    )


def answers(periods: Sequence[Period]) -> str:
    """Return a table of the times of each kind of answer."""
    times: defaultdict[str, list[float]] = defaultdict(list)
    for period in periods:
        for kind, seconds in period.times.items():
            times[kind] += seconds
    rows = [
        [kind, f"{len(of):,}", *(f"{1e3 * cut:,.0f}" for cut in np.percentile(of, (50, 99, 100)))]
        for kind, of in times.items()
    ]
    headings = ["response", "requests", "median, ms", "99th percentile, ms", "longest, ms"]
    return markdown_table(headings, rows)


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--users", type=int, default=50)
    arguments.add_argument("--workers", type=int, default=8)
    arguments.add_argument("--finished", type=int, default=10_000)
    arguments.add_argument("--arrival", type=float, default=10.0, help="seconds until all are here")
    arguments.add_argument("--seconds", type=float, default=30.0, help="that each user stays")
    arguments.add_argument("--turns", type=int, default=3)
    arguments.add_argument("--backend", choices=BACKENDS, default="sqlite")
    given = parse(arguments, users=4, workers=1, finished=500, arrival=1.0, seconds=3.0, turns=1)
    with (
        opened_backend(given.backend) as backend,
        launched(backend, 2 * given.finished, given.finished) as launch,
    ):
        compare(launch, given)


if __name__ == "__main__":
    main()
