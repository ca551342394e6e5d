"""What smoothing gives on digits, tabulated: a search over it trains nothing.

Content   For clean digits and for digits with a fifth of the training labels replaced: every
          schedule, 14 values of ε above 0 and ε = 0, six rates, eight training seeds, one split;
          519 configurations, 8,304 trainings of 40 epochs. Of each training the validation NLL,
          raw and after temperature scaling, at the eight points at which the search reports, and
          at the end the test NLL, raw and scaled, and the validation accuracy.
Method    The loop and the scores of the product. Half precision: 0.05 % of a value, a tenth of
          what a seed does to it.
Read      Between the grid's points linearly in ε and in the logarithm of the rate, within a
          schedule and a seed; all schedules meet at ε = 0. So of the noise that a training has
          of its own a point between the grid's has less than one on it.
Run       OMP_NUM_THREADS=1 python benchmarks/landscape.py [--seeds 8] [--pack 32]
          [--write benchmarks/landscape.npz]
          About 25 minutes on one core; it goes on where it was stopped. The file here was trained
          one by one (--pack 1) in 50; in packs the values differ, since sums run in another
          order, by 0.0001 at the median and by 0.006 at most.
"""

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sweeper.scoring import score
from sweeper.smoothing import SCHEDULES, Smoothing
from sweeper.study.sampler import REPORTS
from sweeper.tasks.digits import digits
from sweeper.training import Evaluation, Task, TrainingRun, train
from sweeper.training.packed.pack import Pack

Floats = NDArray[np.float64]

FILE: Final = Path(__file__).with_name("landscape.npz")
TASKS: Final[dict[str, dict[str, Any]]] = {"clean": {}, "noisy": {"label_noise": 0.2}}
# Denser where less is asked of ε: there the landscape bends.
EPSILONS: Final = (
    *(0.0, 0.01, 0.02, 0.035, 0.05, 0.07, 0.09, 0.12),
    *(0.15, 0.185, 0.22, 0.26, 0.3, 0.35, 0.4),
)
RATES: Final = tuple(float(rate) for rate in np.geomspace(0.3, 12.0, 6))
SEEDS: Final = 8
DATA_SEED: Final = 0


class Columns:
    """What is kept of one training, by place."""

    RAW: Final = slice(0, REPORTS)  # validation NLL at each report; the last is the end's
    SCALED: Final = slice(REPORTS, 2 * REPORTS)
    TEST: Final = 2 * REPORTS
    TEST_SCALED: Final = 2 * REPORTS + 1
    ACCURACY: Final = 2 * REPORTS + 2
    COUNT: Final = 2 * REPORTS + 3


class Place(NamedTuple):
    """One training of the table: where it stands in it, and what is trained."""

    task: str
    seed: int
    row: int
    smoothing: Smoothing


def rows() -> list[Smoothing]:
    """Return the configurations of the table, ε = 0 first; a rate where it acts."""
    found = [Smoothing(0.0, "fixed", None)]
    for name, schedule in SCHEDULES.items():
        rates = RATES if schedule.uses_rate else (None,)
        found += [Smoothing(e, name, rate) for e in EPSILONS[1:] for rate in rates]
    return found


def places(seeds: int) -> Iterator[Place]:
    """Yield every training, seed by seed, so that a table half done has whole seeds."""
    for seed in range(seeds):
        for task in TASKS:
            for row, smoothing in enumerate(rows()):
                yield Place(task, seed, row, smoothing)


# Training


def kept(evaluations: Sequence[Evaluation]) -> Floats:
    """Return the columns of one training from its evaluations at the reports."""
    scored = [score(one.logits, one.labels) for one in evaluations]
    test = score(*evaluations[-1].splits["test"]())
    raw = [one.nll for one in scored]
    scaled = [one.nll_calibrated for one in scored]
    end = [test.nll, test.nll_calibrated, scored[-1].accuracy]
    return np.array([*raw, *scaled, *end], dtype=float)


def trained(task: Task, runs: Sequence[TrainingRun]) -> list[Floats]:
    """Train runs together, and return the columns of each."""
    due = {-(-task.epochs * step // REPORTS) for step in range(1, REPORTS + 1)}
    reports = [list[Evaluation]() for _ in runs]
    columns = dict[int, Floats]()
    for place, epoch, evaluation in _evaluations(task, runs):
        if epoch in due:
            reports[place].append(evaluation)
        if epoch == task.epochs:  # now: what comes next takes the weights along
            columns[place] = kept(reports[place])
    return [columns[place] for place in range(len(runs))]


def _evaluations(task: Task, runs: Sequence[TrainingRun]) -> Iterator[tuple[int, int, Evaluation]]:
    """Yield the place of a run, the epoch and its evaluation."""
    if len(runs) == 1:
        yield from ((0, epoch, each) for epoch, each in enumerate(train(task, runs[0]), start=1))
        return
    pack = Pack(task, len(runs))
    members = [pack.join(run) for run in runs]
    for epoch in range(1, task.epochs + 1):
        for member, given in pack.epoch():
            if isinstance(given, Exception):
                raise given
            yield members.index(member), epoch, given


def run_of(place: Place) -> TrainingRun:
    """Return a training of the table as the loop is given it."""
    return TrainingRun(place.smoothing, seed=place.seed, data_seed=DATA_SEED)


def tabulate(path: Path, seeds: int, at_once: int) -> None:
    """Train what the file does not have yet, and write it now and then."""
    tasks = {name: digits(**options) for name, options in TASKS.items()}
    table = _begun(path, seeds)
    missing = [p for p in places(seeds) if np.isnan(table[p.task][p.seed, p.row, 0])]
    for pack in _packs(missing, at_once):
        runs = [run_of(place) for place in pack]
        for place, columns in zip(pack, trained(tasks[pack[0].task], runs), strict=True):
            table[place.task][place.seed, place.row] = columns
        _save(path, table)
        print(f"{pack[-1].task}, seed {pack[-1].seed}, row {pack[-1].row}", flush=True)


def _packs(missing: Sequence[Place], at_once: int) -> Iterator[list[Place]]:
    """Yield places of one task and seed, at most so many together."""
    for _, group in groupby(missing, key=lambda place: (place.task, place.seed)):
        alike = list(group)
        for start in range(0, len(alike), at_once):
            yield alike[start : start + at_once]


def _begun(path: Path, seeds: int) -> dict[str, Floats]:
    shape = (seeds, len(rows()), Columns.COUNT)
    table = {name: np.full(shape, np.nan) for name in TASKS}
    if path.exists():
        with np.load(path) as there:
            for name in TASKS:
                table[name][: len(there[name])] = there[name][:seeds]
    return table


def _save(path: Path, table: Mapping[str, Floats]) -> None:
    partial = path.with_suffix(".part.npz")
    half = {name: values.astype(np.float16) for name, values in table.items()}
    np.savez_compressed(partial, **half)  # type: ignore[arg-type]
    os.replace(partial, path)


# Reading


@dataclass(frozen=True, eq=False)
class Landscape:
    """The table of one task, (seeds, rows, columns)."""

    table: Floats

    @classmethod
    def read(cls, task: str, path: Path = FILE) -> "Landscape":
        """Read the table of a task, of the seeds that are whole."""
        with np.load(path) as there:
            table = there[task].astype(float)
        whole = ~np.isnan(table).any((1, 2))
        return cls(table[whole])

    @property
    def seeds(self) -> int:
        """How many seeds there are."""
        return len(self.table)

    def at(self, smoothing: Smoothing) -> Floats:
        """Return the columns of a configuration for each seed, (seeds, columns)."""
        if smoothing.epsilon == 0:
            return self.table[:, 0]
        grid = self._grids[smoothing.schedule]
        low, share = _between(np.array(EPSILONS), smoothing.epsilon)
        by_rate = (1 - share) * grid[:, low] + share * grid[:, low + 1]
        if smoothing.rate is None:
            return np.asarray(by_rate[:, 0])
        low, share = _between(np.log(RATES), float(np.log(smoothing.rate)))
        return np.asarray((1 - share) * by_rate[:, low] + share * by_rate[:, low + 1])

    @cached_property
    def _grids(self) -> dict[str, Floats]:
        """Return by schedule (seeds, epsilons, rates, columns), ε = 0 for all rates alike."""
        grids, start = dict[str, Floats](), 1
        for name, schedule in SCHEDULES.items():
            rates = len(RATES) if schedule.uses_rate else 1
            count = (len(EPSILONS) - 1) * rates
            own = self.table[:, start : start + count].reshape(self.seeds, -1, rates, Columns.COUNT)
            zero = np.repeat(self.table[:, None, :1], rates, axis=2)
            grids[name] = np.concatenate([zero, own], axis=1)
            start += count
        return grids


def _between(grid: Floats, value: float) -> tuple[int, float]:
    """Return the place in a rising grid before a value, and the share of the way to the next."""
    low = int(np.clip(np.searchsorted(grid, value, side="right") - 1, 0, len(grid) - 2))
    share = (value - grid[low]) / (grid[low + 1] - grid[low])
    return low, float(np.clip(share, 0.0, 1.0))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--pack", type=int, default=32)
    parser.add_argument("--write", type=Path, default=FILE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tabulate(arguments.write, arguments.seeds, arguments.pack)
