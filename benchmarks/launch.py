"""The cost of one launch: time, CPU, memory of all processes, and the wait for the first trial.

Method    `sweeper launch` is run as a user does, in an empty folder with an SQLite file, so start,
          confirmation, report and export are included. CPU and memory are those of all
          descendants; memory is the peak of the sum of their PSS, sampled five times per second.
          Connections are the open files of the database, sampled in the same way. The end is from
          when the last worker has left: report, note and export. With --against, launches of
          another checkout alternate with those of this one, because a machine's speed drifts.
Run       python -m benchmarks.launch [STUDY] [--runs 3] [--against CHECKOUT] [--quick]; Linux
          --quick leaves out the confirmation.
"""

import os
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmarks.shared.arguments import parse, parser
from benchmarks.shared.processes import SAMPLES_PER_SECOND, run_measured
from benchmarks.shared.tables import markdown_table

COLUMNS = (
    *("wall, s", "CPU, s", "PSS, MiB", "processes", "first trial, s", "end, s", "connections"),
)
HERE = Path(__file__).resolve().parents[1]


class Connections(threading.Thread):
    """Samples how many times the processes below this one have a file open."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file
        self.over = threading.Event()
        self.peak = 0

    def run(self) -> None:
        while not self.over.wait(1 / SAMPLES_PER_SECOND):
            children = psutil.Process().children(recursive=True)
            self.peak = max(self.peak, sum(map(self._count, children)))

    def _count(self, process: psutil.Process) -> int:
        with suppress(psutil.Error):
            return sum(opened.path == str(self.file) for opened in process.open_files())
        return 0


def launch(checkout: Path, study: Path, options: Sequence[str]) -> tuple[float, ...]:
    """Launch a study in a new folder; return its figures in the order of COLUMNS."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = datetime.now(UTC).replace(tzinfo=None)
        command = [sys.executable, "-m", "sweeper", "launch", str(study.resolve()), *options]
        env = {key: value for key, value in os.environ.items() if key != "SWEEPER_STORAGE"}
        env["PYTHONPATH"] = str(checkout)
        connections = Connections(folder / "sweeper.db")
        connections.start()
        usage = run_measured(command, folder / "log", env=env, cwd=folder)
        connections.over.set()
        connections.join()
        # The last that a worker writes is that it has finished.
        logs = folder.glob("results/*/logs/worker-*.log")
        end = time.time() - max(log.stat().st_mtime for log in logs)
        with sqlite3.connect(folder / "sweeper.db") as database:
            [[first]] = database.execute("select min(datetime_start) from trials")
        wait = (datetime.fromisoformat(first) - began).total_seconds()
        return *usage, wait, end, connections.peak


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("study", nargs="?", type=Path, default=HERE / "studies/digits.toml")
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("--against", type=Path, metavar="CHECKOUT")
    given = parse(arguments, runs=1)
    options = ["--trials", "2", "--no-confirm"] if given.quick else []
    checkouts = {"this": HERE} | ({"other": given.against.resolve()} if given.against else {})
    runs: dict[str, list[tuple[float, ...]]] = {name: [] for name in checkouts}
    for _ in range(given.runs):
        for name, checkout in checkouts.items():
            runs[name].append(launch(checkout, given.study, options))
            figures = (f"{value:.1f}" for value in runs[name][-1])
            print(name, *figures, file=sys.stderr, flush=True)
    rows = []
    for name, values in runs.items():
        medians = (statistics.median(column) for column in zip(*values, strict=True))
        rows.append([name, *(f"{median:.1f}" for median in medians)])
    print(markdown_table(("checkout", *COLUMNS), rows))


if __name__ == "__main__":
    main()
