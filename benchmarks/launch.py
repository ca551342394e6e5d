"""The cost of one launch: time, CPU, memory of all processes, and the wait for the first trial.

Method    `sweeper launch` is run as a user does, in an empty folder with an SQLite file, so start,
          confirmation, report and export are included. CPU and memory are those of all
          descendants; memory is the peak of the sum of their PSS, sampled five times per second.
Run       python -m benchmarks.launch [STUDY] [--runs 3] [--quick]; Linux
          --quick leaves out the confirmation.
"""

import os
import sqlite3
import statistics
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.shared.arguments import parse, parser
from benchmarks.shared.processes import run_measured
from benchmarks.shared.tables import markdown_table

COLUMNS = ("wall, s", "CPU, s", "PSS, MiB", "processes", "first trial, s")


def launch(study: Path, options: Sequence[str]) -> tuple[float, ...]:
    """Launch a study in a new folder; return its figures in the order of COLUMNS."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = datetime.now(UTC).replace(tzinfo=None)
        command = [sys.executable, "-m", "sweeper", "launch", str(study.resolve()), *options]
        env = {key: value for key, value in os.environ.items() if key != "SWEEPER_STORAGE"}
        usage = run_measured(command, folder / "log", env=env, cwd=folder)
        with sqlite3.connect(folder / "sweeper.db") as database:
            [[first]] = database.execute("select min(datetime_start) from trials")
        return *usage, (datetime.fromisoformat(first) - began).total_seconds()


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("study", nargs="?", type=Path, default=Path("studies/digits.toml"))
    arguments.add_argument("--runs", type=int, default=3)
    given = parse(arguments, runs=1)
    options = ["--trials", "2", "--no-confirm"] if given.quick else []
    runs = []
    for _ in range(given.runs):
        runs.append(launch(given.study, options))
        print(*(f"{value:.1f}" for value in runs[-1]), file=sys.stderr, flush=True)
    medians = [statistics.median(column) for column in zip(*runs, strict=True)]
    print(markdown_table(COLUMNS, [[f"{value:.1f}" for value in medians]]))


if __name__ == "__main__":
    main()
