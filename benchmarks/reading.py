"""Reading a study of a hundred thousand trials: its frame and its report.

Claim     The frame of a study is read at least 20 times as fast as Optuna's `trials_dataframe()`,
          with a fifth of its memory. The report of 100,000 trials with 20 epochs each is a page
          under 15 MB that a browser opens.
Method    A database is filled with copies of trials that were really run. Each reader is a new
          process; the memory of its imports is subtracted from its peak. The readers run in turn,
          and medians are reported. The page is opened in Chromium until every figure is drawn.
Run       python -m benchmarks.reading [--trials 100000] [--epochs 20] [--turns 3] [--quick]; Linux
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.shared.arguments import parse, parser
from benchmarks.shared.browser import HAS_CHROMIUM, chromium_page
from benchmarks.shared.databases import Backend
from benchmarks.shared.surface_study import NAME, launched
from benchmarks.shared.tables import markdown_table, median_range
from benchmarks.shared.timing import alternate, seconds_of

MIB: Final = 1024.0


class Usage(NamedTuple):
    """The seconds and MiB that a reader takes."""

    seconds: float
    memory: float


def _optuna(storage: str, _: Path) -> object:
    import optuna

    study = optuna.load_study(study_name=NAME, storage=storage)
    return study.trials_dataframe()


def _frame(storage: str, _: Path) -> object:
    from sweeper.api import Study

    return Study(NAME, storage).frame()


def _report(storage: str, folder: Path) -> object:
    from sweeper.api import Study

    return Study(NAME, storage).report(folder / "report.html")


READERS: Final[dict[str, Callable[[str, Path], object]]] = {
    "optuna": _optuna,
    "frame": _frame,
    "report": _report,
}
WORDS: Final = {
    "optuna": "Optuna's trials_dataframe()",
    "frame": "Study.frame()",
    "report": "Study.report(), with its page",
}


def read(reader: str, storage: str, folder: Path) -> None:
    """Read in this process; print the seconds and MiB that it took."""
    import optuna
    import plotly.graph_objects
    import torch

    import sweeper.api

    assert all((optuna, plotly.graph_objects, torch, sweeper.api))
    before = _peak()
    seconds = seconds_of(lambda: READERS[reader](storage, folder))
    print(json.dumps(Usage(seconds, _peak() - before)))


def _peak() -> float:
    # Not ru_maxrss, which starts with the size of the parent process.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / MIB


def used(reader: str, storage: str, folder: Path) -> Usage:
    """Read in a new process."""
    command = [sys.executable, "-m", "benchmarks.reading", "--read", reader, storage, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    usage = Usage(*json.loads(done.stdout.splitlines()[-1]))
    print(f"{reader}: {usage.seconds:.1f} s, {usage.memory:.0f} MiB", file=sys.stderr, flush=True)
    return usage


def table(found: dict[str, list[Usage]]) -> str:
    """Return a table with one row per reader; ratios are to Optuna."""
    medians = {
        name: Usage(*(statistics.median(values) for values in zip(*usages, strict=True)))
        for name, usages in found.items()
    }
    base = medians["optuna"]
    rows = [
        [
            WORDS[name],
            median_range([usage.seconds for usage in usages]),
            f"{medians[name].memory:,.0f}",
            f"{base.seconds / medians[name].seconds:.1f}",
            f"{medians[name].memory / base.memory:.2f}",
        ]
        for name, usages in found.items()
    ]
    return markdown_table(["", "seconds", "MiB", "speedup", "memory ratio"], rows)


def seconds_to_draw(page: Path) -> float:
    """Return the time from opening a page in Chromium until every figure is drawn."""
    with chromium_page() as tab:

        def draw() -> None:
            tab.goto(page.as_uri())
            for plot in tab.locator(".plot").all():
                plot.locator(".main-svg").first.wait_for(timeout=120_000)

        return seconds_of(draw)


def main() -> None:
    """Measure and print the table."""
    arguments = parser(__doc__)
    arguments.add_argument("--trials", type=int, default=100_000)
    arguments.add_argument("--epochs", type=int, default=20)
    arguments.add_argument("--turns", type=int, default=3)
    arguments.add_argument("--read", nargs=3, metavar=("READER", "STORAGE", "FOLDER"))
    given = parse(arguments, trials=500, epochs=4, turns=1)
    if given.read is not None:
        read(given.read[0], given.read[1], Path(given.read[2]))
        return
    with (
        launched(Backend("sqlite", None), given.trials, given.trials, given.epochs) as launch,
        tempfile.TemporaryDirectory() as folder,
    ):
        sides = {name: partial(used, name, launch.storage, Path(folder)) for name in READERS}
        found = alternate(sides, given.turns)
        page = Path(folder) / "report.html"
        print(f"{given.trials:,} trials of {given.epochs} epochs, {given.turns} turns\n")
        print(table(found))
        print(f"\nsize of the page: {page.stat().st_size / 1e6:.1f} MB")
        if HAS_CHROMIUM:
            print(f"every figure is drawn {seconds_to_draw(page):.1f} s after it is opened")
        else:
            print("skipped: Chromium is not installed")


if __name__ == "__main__":
    main()
