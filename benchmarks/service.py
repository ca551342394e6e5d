"""People at the service while workers write: how long it takes to answer, and what it costs them.

Claim     50 people who watch a study of 10,000 trials, its numbers, figures and table, while 8
          workers go on with it, are answered without an error; it costs the workers no more than
          what service and people take of the cores that all of them share.
Method    The study is filled with copies of trials that were really run, and has more to go.
          Workers and service are processes of their own, and so are the people
          (benchmarks/crowd.py). Everything shares this machine's cores, the people too, who
          would have their own. Windows with people and without take turns, on the same workers.
Run       python benchmarks/service.py [--people 50] [--workers 8] [--finished 10000]
          [--seconds 30] [--turns 3] [--backend sqlite|postgresql]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psutil

from benchmarks.shared.databases import running_postgresql
from benchmarks.shared.service_users import ARRIVAL
from benchmarks.shared.surface_study import NAME, Backend, Scene, launched
from sweeper.api import Study


@contextmanager
def service(scene: Scene) -> Iterator[tuple[psutil.Process, int]]:
    """Serve the study; yield the process and its port."""
    command = [sys.executable, "-m", "sweeper", "serve", "--no-browser", "--port", "0"]
    environment = {**os.environ, "SWEEPER_STORAGE": scene.storage}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().split("/ ")[0].rsplit(":", 1)[1])
        yield psutil.Process(process.pid), port
        process.terminate()


@contextmanager
def workers(scene: Scene, count: int) -> Iterator[None]:
    """Let so many workers go on with the study."""
    command = [sys.executable, "-m", "sweeper", "worker", NAME, "--folder", str(scene.folder)]
    environment = {**os.environ, "SWEEPER_STORAGE": scene.storage}
    started = [
        subprocess.Popen(
            [*command, "--results", str(scene.folder)],
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


def rate(study: Study, work: subprocess.Popen[str] | float) -> tuple[float, str]:
    """Return the trials a second while a crowd is there, or for so many seconds alone."""
    before, began = study.progress().ended, time.perf_counter()
    if isinstance(work, float):
        time.sleep(work)
        said = ""
    else:
        said, _ = work.communicate()
    return (study.progress().ended - before) / (time.perf_counter() - began), said


def compare(scene: Scene, people: int, count: int, seconds: float, turns: int) -> None:
    """Print how long answers took, and the workers' trials a second with people and without."""
    study = Study(NAME, scene.storage)
    times: defaultdict[str, list[float]] = defaultdict(list)
    alone: list[float] = []
    beside: list[float] = []
    errors, cpu = 0, {"service": 0.0, "people": 0.0}
    with service(scene) as (process, port), workers(scene, count):
        ended = study.progress().ended
        while study.progress().ended < ended + 2 * count:  # until all have begun
            time.sleep(0.2)
        for turn in range(turns):
            # Who is first takes turns too: the machine's speed has its own course.
            if turn % 2 == 0:
                alone.append(rate(study, seconds + ARRIVAL)[0])
            before = sum(process.cpu_times()[:2])
            given = [str(port), NAME, str(people), str(seconds)]
            command = [sys.executable, "-m", "benchmarks.shared.service_users", *given]
            there = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            found, said = rate(study, there)
            beside.append(found)
            cpu["service"] += sum(process.cpu_times()[:2]) - before
            if turn % 2 == 1:
                alone.append(rate(study, seconds + ARRIVAL)[0])
            met: dict[str, Any] = json.loads(said)
            cpu["people"] += met["cpu"]
            errors += len(met["errors"])
            for kind, values in met["times"].items():
                times[kind] += values
            print(f"turn {turn}: {alone[-1]:.2f} and {found:.2f} trials/s", *met["errors"][:3])
        memory = process.memory_info().rss / 2**20
    print(
        f"\n{people} people, {count} workers, {study.progress().ended:,} trials, "
        f"{turns} turns of {seconds:g} s, {errors} errors\n"
    )
    print("| answer  | asked  | median, ms | 99th percentile, ms | longest, ms |")
    print("| ------- | ------ | ---------- | ------------------- | ----------- |")
    for kind, values in times.items():
        cuts = statistics.quantiles(values, n=100)
        row = f"{1e3 * cuts[49]:>10.0f} | {1e3 * cuts[98]:>19.0f} | {1e3 * max(values):>11.0f}"
        print(f"| {kind:7} | {len(values):>6,} | {row} |")
    shares = [with_people / without for without, with_people in zip(alone, beside, strict=True)]
    whole = turns * (seconds + ARRIVAL) * (os.cpu_count() or 1)
    print(
        f"\nworkers: {statistics.median(alone):.2f} trials/s alone, "
        f"{statistics.median(beside):.2f} beside people: {statistics.median(shares):.3f} "
        f"({min(shares):.3f} to {max(shares):.3f}) of it"
    )
    print(
        f"CPU: the service had {cpu['service'] / whole:.1%} of the machine, the people "
        f"{cpu['people'] / whole:.1%}; the service holds {memory:.0f} MiB"
    )


def main() -> None:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--people", type=int, default=50)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--finished", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--backend", choices=("sqlite", "postgresql"), default="sqlite")
    given = parser.parse_args()
    with ExitStack() as stack:
        server = None
        if given.backend == "postgresql":
            server = stack.enter_context(running_postgresql())
        backend = Backend(given.backend, server)
        scene = stack.enter_context(launched(backend, 2 * given.finished, given.finished))
        compare(scene, given.people, given.workers, given.seconds, given.turns)


if __name__ == "__main__":
    main()
