"""Reading a study of a hundred thousand trials: its frame, and its report.

Claim     The frame of a study is read at least 20 times as fast as by Optuna's own
          `trials_dataframe()`, in a fifth of its memory; the report of 100,000 trials with 20
          epochs each is a page under 15 MB that a browser opens.
Method    A database is filled with copies of trials that were really run. Each reader is a fresh
          process: what it has imported before it reads is taken off its peak of memory. Medians
          of so many turns, in turns. The page is opened in Chromium until every figure is drawn.
Run       python benchmarks/reading.py [--trials 100000] [--epochs 20] [--turns 3]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.shared.surface_study import NAME, Backend, launched

MIB: Final = 1024.0


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
    "report": "Study.report(), page and all",
}


def read(reader: str, storage: str, folder: Path) -> None:
    """Read, and print the seconds and MiB that it took, in a process of its own."""
    import optuna
    import plotly.graph_objects
    import torch

    import sweeper.api

    assert all((optuna, plotly.graph_objects, torch, sweeper.api))
    before, began = _peak(), time.perf_counter()
    found = READERS[reader](storage, folder)
    took = time.perf_counter() - began
    assert found is not None
    print(json.dumps({"s": took, "mib": _peak() - before}))


def _peak() -> float:
    # Not ru_maxrss: that begins with the size of whoever started this process.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / MIB


def measured(storage: str, folder: Path, turns: int) -> dict[str, tuple[list[float], list[float]]]:
    """Return the seconds and MiB of each reader in each turn."""
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in READERS}
    for _ in range(turns):
        for name, (seconds, memory) in found.items():
            command = [sys.executable, "-m", "benchmarks.reading", "--read", name]
            where = [storage, str(folder)]
            done = subprocess.run([*command, *where], capture_output=True, text=True, check=True)
            said = json.loads(done.stdout.splitlines()[-1])
            seconds.append(said["s"])
            memory.append(said["mib"])
            print(f"{name}: {said['s']:.1f} s, {said['mib']:.0f} MiB", file=sys.stderr, flush=True)
    return found


def opened(page: Path) -> float:
    """Return how many seconds a browser takes until every figure of a page is drawn."""
    from playwright.sync_api import sync_playwright

    from tests.browser import ARGUMENTS, CHROMIUM

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        tab = browser.new_page()
        began = time.perf_counter()
        tab.goto(page.as_uri())
        for plot in tab.locator(".plot").all():
            plot.locator(".main-svg").first.wait_for(timeout=120_000)
        took = time.perf_counter() - began
        browser.close()
    return took


def main() -> None:
    """Measure what the arguments ask for and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--read", nargs=3, metavar=("READER", "STORAGE", "FOLDER"))
    given = parser.parse_args()
    if given.read is not None:
        read(given.read[0], given.read[1], Path(given.read[2]))
        return
    with (
        launched(Backend("sqlite", None), given.trials, given.trials, given.epochs) as scene,
        tempfile.TemporaryDirectory() as folder,
    ):
        found = measured(scene.storage, Path(folder), given.turns)
        page = Path(folder) / "report.html"
        size, drawn = page.stat().st_size / 1e6, opened(page)
    base_s, base_mib = (statistics.median(values) for values in found["optuna"])
    print(f"{given.trials:,} trials of {given.epochs} epochs, {given.turns} turns\n")
    print(f"| {'':28} | s (lowest to highest)    | MiB   | times as fast | of the memory |")
    print(f"| {'-' * 28} | ------------------------ | ----- | ------------- | ------------- |")
    for name, (seconds, memory) in found.items():
        s, mib = statistics.median(seconds), statistics.median(memory)
        spread = f"{s:.1f} ({min(seconds):.1f} to {max(seconds):.1f})"
        share = f"{base_s / s:>13.1f} | {mib / base_mib:>13.2f}"
        print(f"| {WORDS[name]:28} | {spread:24} | {mib:5,.0f} | {share} |")
    print(f"\nthe page: {size:.1f} MB; every figure drawn {drawn:.1f} s after it is opened")


if __name__ == "__main__":
    main()
