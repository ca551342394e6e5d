"""Comparison of samplers, of pruners, and of the number of trials that run at once.

Claim     tpe finds more than random, grid and qmc in 64 trials. gp may find slightly more, but a
          proposal takes thirty times as long. Running an eighth of the budget at once has no
          visible effect on regret, and in packs takes a third less time. No pruner clearly saves
          training at equal regret, and one that stops by raw NLL before half of the training
          increases regret much.
Method    Searches with the study's own plan, samplers, pruners and pick on the tabulated landscape
          of digits, clean and noisy (benchmarks/landscape.py). A replicate searches on one
          training seed. Its regret is the difference between its pick and the best configuration
          of the table, as a mean over the other seven seeds.
Run       OMP_NUM_THREADS=1 python -m benchmarks.search [--kept results/search.jsonl]
          [--replicates 32] [--processes 1] [--write benchmarks/RESULTS.md] [--quick]
          About 35 minutes on one core; it continues where it was stopped. --write puts the tables
          into the document and draws its plots in the same folder. --quick cuts the searches short.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from benchmarks.shared.arguments import parse, parser
from benchmarks.shared.browser import HAS_CHROMIUM
from benchmarks.shared.plain_optuna import quiet_optuna
from benchmarks.shared.search_tables import PLOTS, tables
from benchmarks.shared.simulated_search import (
    ALL,
    Search,
    Setting,
    Signal,
    Tried,
    landscape,
    lowest,
    picked,
    search,
    worth,
)
from benchmarks.shared.tables import write_tables
from sweeper.errors import SweeperError

COUNTS: Final = (8, 16, 24, 32, 48, 64, 96, 128, 256)
BATCHES: Final = (1, 2, 4, 8, 16, 32, 64)
TASKS: Final = ("clean", "noisy")
PRUNERS: Final[tuple[dict[str, Any], ...]] = (
    {"name": "median"},
    {"name": "percentile", "percentile": 25.0},
    {"name": "halving"},
    {"name": "hyperband"},
)
SIGNALS: Final[tuple[Signal, ...]] = ("nll", "nll_calibrated")
EQUAL: Final = 64.0

Job = tuple[Setting, int]


def settings() -> Iterator[tuple[float, Setting]]:
    """Yield the settings that are simulated, with the share of the replicates of each."""
    for task in TASKS:
        for batch in BATCHES:
            yield 1.0, Setting(task, "tpe", batch, 256 if batch >= 16 else 128)
        for name in ("random", "grid", "qmc"):
            yield 1.0, Setting(task, name)
        for startup in (4, 8, 24):
            for batch in (1, 8):
                yield 0.75, Setting(task, "tpe", batch, 64, startup)
        for setting in _pruned(task):
            yield 0.75, setting
        # A Gaussian process takes thirty times as long for a proposal as trees do.
        for batch in (1, 8):
            yield 0.5, Setting(task, "gp", batch)
        yield 0.25, Setting(task, ALL)


def _pruned(task: str) -> Iterator[Setting]:
    yield Setting(task, "tpe", metric="nll_calibrated")
    for signal in SIGNALS:
        for pruner in PRUNERS:
            yield Setting(task, "tpe", pruner={**pruner, "warmup": 0.5}, signal=signal)
        for name, warmup in (("median", 0.25), ("median", 0.75), ("halving", 0.25)):
            pruner = {"name": name, "warmup": warmup}
            yield Setting(task, "tpe", pruner=pruner, signal=signal)
        for name in ("median", "halving"):
            pruner = {"name": name, "warmup": 0.5}
            yield Setting(task, "tpe", pruner=pruner, signal=signal, metric="nll_calibrated")
    for name in ("median", "halving"):
        yield Setting(task, "tpe", 32, pruner={"name": name, "warmup": 0.5})


def jobs(replicates: int) -> list[Job]:
    """Return all searches, replicate by replicate, so that unfinished results are balanced."""
    return [
        (setting, replicate)
        for replicate in range(replicates)
        for share, setting in settings()
        if replicate < replicates * share
    ]


def key_of(job: Job) -> str:
    """Return the key of a job in the file of results."""
    setting, replicate = job
    return json.dumps([vars(setting), replicate], sort_keys=True)


def simulated(job: Job, quick: bool) -> dict[str, Any]:
    """Return the results of one search as plain data; `quick` runs an eighth of its trials."""
    setting, replicate = job
    cut = replace(setting, trials=setting.trials // 8, startup=setting.startup // 4)
    found = search(cut if quick else setting, replicate)
    counts = {str(count): count for count in COUNTS if count <= setting.trials}
    if setting.pruner:
        counts["equal"] = _equal(found)
    if setting.sampler == ALL:
        counts = {ALL: len(found.tried)}
    counts = {name: min(count, len(found.tried)) for name, count in counts.items()}
    answers = {count: _answers(setting, replicate, found, count) for count in {*counts.values()}}
    return {
        "key": key_of(job),
        **vars(setting),
        "replicate": replicate,
        "asked": found.asked,
        "stopped": _stopped(found.tried),
        "answers": {name: answers[count] for name, count in counts.items()},
    }


def _answers(setting: Setting, replicate: int, found: Search, count: int) -> dict[str, float]:
    pick = worth(setting, replicate, _pick(found, count))
    least = worth(setting, replicate, lowest(found, count))
    tried = found.tried[:count]
    return {
        "pick": pick.valid,
        "pick_test": pick.test,
        "lowest": least.valid,
        "lowest_test": least.test,
        "spent": sum(one.spent for one in tried),
        "copied": sum(one.copied for one in tried) / len(tried),
    }


def _pick(found: Search, count: int) -> Mapping[str, Any]:
    try:
        return picked(found, count)
    except SweeperError:  # only ε = 0 has ended
        return found.tried[0].point


def _equal(found: Search) -> int:
    """Return the number of trials that spend as much as `EQUAL` whole ones, at most all."""
    spent = np.cumsum([one.spent for one in found.tried])
    return min(int(np.searchsorted(spent, EQUAL)) + 1, len(found.tried))


def _stopped(tried: Sequence[Tried]) -> dict[str, float]:
    """Return the share stopped of small ε, of large ε and of the trials with the best ends."""
    epsilon = np.array([one.point["epsilon"] for one in tried])
    whole = np.array([one.whole for one in tried])
    groups = {
        "small": (epsilon > 0) & (epsilon <= 0.2),
        "large": epsilon > 0.2,
        "best": whole <= np.quantile(whole, 0.1),
    }
    stopped = np.array([one.state == "pruned" for one in tried])
    return {name: float(stopped[group].mean()) for name, group in groups.items() if group.any()}


def prepare() -> None:
    torch.set_num_threads(1)
    quiet_optuna()
    for task in TASKS:
        landscape(task)


def simulate(
    kept: Path, wanted: Sequence[Job], processes: int, quick: bool
) -> list[dict[str, Any]]:
    """Simulate the searches that are missing in the file; return the results of all."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.touch()
    keys = {key_of(job): job for job in wanted}
    there = {line["key"]: line for line in map(json.loads, kept.read_text().splitlines())}
    missing = [job for key, job in keys.items() if key not in there]
    with Pool(processes, prepare) as pool, kept.open("a") as file:
        for line in pool.imap_unordered(partial(simulated, quick=quick), missing):
            file.write(json.dumps(line) + "\n")
            file.flush()
            there[line["key"]] = line
    return [there[key] for key in keys]


def draw(lines: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write the plots to a folder."""
    for name, plot in PLOTS.items():
        plot(lines, folder / name)


def main() -> None:
    """Simulate and print the tables; write them, and the plots, if asked."""
    arguments = parser(__doc__)
    arguments.add_argument("--kept", type=Path, default=Path("results/search.jsonl"))
    arguments.add_argument("--replicates", type=int, default=32)
    arguments.add_argument("--processes", type=int, default=1)
    arguments.add_argument("--write", type=Path)
    given = parse(arguments, replicates=2, processes=2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kept = folder / "search.jsonl" if given.quick else given.kept
        lines = simulate(kept, jobs(given.replicates), given.processes, given.quick)
        made = tables(lines)
        for title, rows in made.items():
            print(f"{title}\n{rows}\n")
        if given.write:
            write_tables(given.write, "search", made)
            draw(lines, given.write.parent)
        elif given.quick and HAS_CHROMIUM:
            draw(lines, folder)
        elif given.quick:
            print("skipped: Chromium is not installed")


if __name__ == "__main__":
    main()
