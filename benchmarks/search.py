"""Which sampler and which pruner waste least of a budget, and how many trials may run at once.

Claim     tpe finds more than random, grid and qmc in 64 trials; gp may find a little more still, at
          thirty times the time a proposal. As many trials at once as an eighth of the budget cost
          no regret that shows, and in packs a third less time. No pruner saves training at equal
          regret beyond doubt, and one that stops by raw NLL before half of the training costs much.
Method    Searches through the study's own plan, samplers, pruners and pick on the tabulated
          landscape of digits, clean and noisy (benchmarks/landscape.py, benchmarks/searching.py).
          A replicate searches on one training seed; the regret is what its answer loses, as a
          mean over the other seven, against the best configuration of the table on those seven.
Run       OMP_NUM_THREADS=1 python benchmarks/search.py [--kept results/search.jsonl]
          [--replicates 32] [--processes 1] [--write docs/search.md]
          About 35 minutes on one core; it goes on where it was stopped. With --write the tables
          are put into the document and its plots are drawn beside it.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any, Final

import numpy as np
import optuna
import torch

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
    """Yield what is simulated, each with the share of the replicates that it gets."""
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
        # A process takes thirty times as long to propose as trees do.
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
    """Return every search, replicate by replicate, so that what is half done is balanced."""
    return [
        (setting, replicate)
        for replicate in range(replicates)
        for share, setting in settings()
        if replicate < replicates * share
    ]


def key_of(job: Job) -> str:
    """Return what a job is known by in the file of results."""
    setting, replicate = job
    return json.dumps([vars(setting), replicate], sort_keys=True)


def simulated(job: Job) -> dict[str, Any]:
    """Return what came of one search, as plain data."""
    setting, replicate = job
    found = search(setting, replicate)
    counts = {str(count): count for count in COUNTS if count <= setting.trials}
    if setting.pruner:
        counts["equal"] = _equal(found)
    if setting.sampler == ALL:
        counts = {ALL: len(found.tried)}
    return {
        "key": key_of(job),
        **vars(setting),
        "replicate": replicate,
        "asked": found.asked,
        "stopped": _stopped(found.tried),
        "answers": {
            name: _answers(setting, replicate, found, count) for name, count in counts.items()
        },
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
    except SweeperError:  # nothing but ε = 0 has ended
        return found.tried[0].point


def _equal(found: Search) -> int:
    """Return after how many trials as much is spent as on `EQUAL` whole ones, at most all."""
    spent = np.cumsum([one.spent for one in found.tried])
    return min(int(np.searchsorted(spent, EQUAL)) + 1, len(found.tried))


def _stopped(tried: Sequence[Tried]) -> dict[str, float]:
    """Return the share stopped of small ε, of large ε and of what would have ended in the best."""
    epsilon = np.array([one.point["epsilon"] for one in tried])
    whole = np.array([one.whole for one in tried])
    groups = {
        "small": (epsilon > 0) & (epsilon <= 0.2),
        "large": epsilon > 0.2,
        "best": whole <= np.quantile(whole, 0.1),
    }
    stopped = np.array([one.state == "pruned" for one in tried])
    return {name: float(stopped[group].mean()) for name, group in groups.items() if group.any()}


def prepared() -> None:
    """Make a process of the pool ready."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for task in TASKS:
        landscape(task)


def simulate(kept: Path, replicates: int, processes: int) -> list[dict[str, Any]]:
    """Simulate what the file does not have yet; return all that is asked for."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.touch()
    wanted = {key_of(job): job for job in jobs(replicates)}
    there = {line["key"]: line for line in map(json.loads, kept.read_text().splitlines())}
    missing = [job for key, job in wanted.items() if key not in there]
    with Pool(processes, prepared) as pool, kept.open("a") as file:
        for line in pool.imap_unordered(simulated, missing):
            file.write(json.dumps(line) + "\n")
            file.flush()
            there[line["key"]] = line
    return [there[key] for key in wanted]


def write(path: Path, made: Mapping[str, str]) -> None:
    """Put each table in the place of the one before, between the comments that name it."""
    text = path.read_text(encoding="utf-8")
    for name, rows in made.items():
        begin, end = f"<!-- search: {name} -->\n", "\n<!-- end -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}{rows}{rest[rest.index(end) :]}"
    path.write_text(text, encoding="utf-8")


def main() -> None:
    """Simulate, print the tables and write them, with the plots, where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kept", type=Path, default=Path("results/search.jsonl"))
    parser.add_argument("--replicates", type=int, default=32)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    lines = simulate(arguments.kept, arguments.replicates, arguments.processes)
    made = tables(lines)
    for name, rows in made.items():
        print(f"{name}\n{rows}\n")
    if arguments.write:
        write(arguments.write, made)
        for name, draw in PLOTS.items():
            draw(lines, arguments.write.with_name(name))


if __name__ == "__main__":
    main()
