"""What one launch costs: time, CPU, memory of all processes, and the wait for the first trial.

Method    `sweeper launch` is run as a user does, in an empty folder with an SQLite file, so start,
          confirmation, report and export are included. CPU and memory are of all descendants;
          memory is the sum of their PSS, five times per second.
Run       python -m benchmarks.launch [STUDY] [--runs 3]; Linux
"""

import argparse
import os
import sqlite3
import statistics
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.shared.processes import run_measured

COLUMNS = ("wall, s", "CPU, s", "PSS, MiB", "processes", "first trial, s")


def launch(study: Path) -> tuple[float, ...]:
    """Launch a study in a folder of its own; return its figures in the order of COLUMNS."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = datetime.now(UTC).replace(tzinfo=None)
        command = [sys.executable, "-m", "sweeper", "launch", str(study.resolve())]
        env = {key: value for key, value in os.environ.items() if key != "SWEEPER_STORAGE"}
        usage = run_measured(command, folder / "log", env=env, cwd=folder)
        with sqlite3.connect(folder / "sweeper.db") as database:
            [[first]] = database.execute("select min(datetime_start) from trials")
        return *usage, (datetime.fromisoformat(first) - began).total_seconds()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", nargs="?", type=Path, default=Path("studies/digits.toml"))
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    runs = []
    for _ in range(arguments.runs):
        runs.append(launch(arguments.study))
        print(*(f"{value:.1f}" for value in runs[-1]), file=sys.stderr, flush=True)
    print(f"| {' | '.join(COLUMNS)} |")
    print(f"|{' --- |' * len(COLUMNS)}")
    medians = [statistics.median(column) for column in zip(*runs, strict=True)]
    print(f"| {' | '.join(f'{value:.1f}' for value in medians)} |")


if __name__ == "__main__":
    main()
