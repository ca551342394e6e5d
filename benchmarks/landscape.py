"""Train the landscape: the table of digits that simulated searches look results up in.

Content   For clean digits and for digits with a fifth of the training labels replaced: every
          schedule, 14 values of ε above 0 and ε = 0, six rates, eight training seeds, one split.
          These are 519 configurations and 8,304 training runs of 40 epochs. For each training run
          the table has the validation NLL, raw and after temperature scaling, at the eight points
          at which a search reports; and at the end the test NLL, raw and scaled, and the
          validation accuracy.
Method    The training loop and the scores of the package. Values are stored in half precision:
          an error of 0.05% of a value, a tenth of the effect of a seed.
Read      Between the points of the grid, values are interpolated linearly in ε and in the
          logarithm of the rate, within a schedule and a seed; all schedules share ε = 0. A point
          between those of the grid therefore has less noise of its own than a point on the grid.
Run       OMP_NUM_THREADS=1 python -m benchmarks.landscape [--seeds 8] [--pack 32]
          [--write benchmarks/landscape.npz] [--quick]
          About 25 minutes on one core; it continues where it was stopped. The file in the
          repository was trained one by one (--pack 1) in 50 minutes. In packs the values differ by
          0.0001 at the median and by 0.006 at most, because sums run in another order.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

import numpy as np
import torch

from benchmarks.shared.arguments import parse, parser
from benchmarks.shared.landscape_table import FILE, TASKS, Columns, Floats, rows
from benchmarks.shared.pack_training import pack_evaluations
from sweeper.scoring import score
from sweeper.smoothing import Smoothing
from sweeper.study.sampler import REPORTS
from sweeper.tasks.digits import digits
from sweeper.training import Evaluation, Task, TrainingRun, train

DATA_SEED: Final = 0


class Place(NamedTuple):
    """One training run of the table: its place in it, and what is trained."""

    task: str
    seed: int
    row: int
    smoothing: Smoothing


def places(seeds: int) -> Iterator[Place]:
    """Yield every training run, seed by seed, so that an unfinished table has complete seeds."""
    for seed in range(seeds):
        for task in TASKS:
            for row, smoothing in enumerate(rows()):
                yield Place(task, seed, row, smoothing)


# Training


def kept(evaluations: Sequence[Evaluation]) -> Floats:
    """Return the columns of one training run from its evaluations at the reports."""
    scored = [score(one.logits, one.labels) for one in evaluations]
    test = score(*evaluations[-1].splits["test"]())
    raw = [one.nll for one in scored]
    scaled = [one.nll_calibrated for one in scored]
    end = [test.nll, test.nll_calibrated, scored[-1].accuracy]
    return np.array([*raw, *scaled, *end], dtype=float)


def trained(task: Task, runs: Sequence[TrainingRun]) -> list[Floats]:
    """Train runs together; return the columns of each."""
    due = {-(-task.epochs * step // REPORTS) for step in range(1, REPORTS + 1)}
    reports = [list[Evaluation]() for _ in runs]
    columns = dict[int, Floats]()
    for place, epoch, evaluation in _evaluations(task, runs):
        if epoch in due:
            reports[place].append(evaluation)
        if epoch == task.epochs:  # now, because the next training step changes the weights
            columns[place] = kept(reports[place])
    return [columns[place] for place in range(len(runs))]


def _evaluations(task: Task, runs: Sequence[TrainingRun]) -> Iterator[tuple[int, int, Evaluation]]:
    """Yield each run's index, epoch and evaluation."""
    if len(runs) == 1:
        yield from ((0, epoch, each) for epoch, each in enumerate(train(task, runs[0]), start=1))
        return
    yield from pack_evaluations(task, runs, task.epochs)


def run_of(place: Place) -> TrainingRun:
    return TrainingRun(place.smoothing, seed=place.seed, data_seed=DATA_SEED)


def tabulate(path: Path, seeds: int, at_once: int, most: int | None) -> None:
    """Train what is missing in the file, at most so many runs; write the file after each pack."""
    tasks = {name: digits(**options) for name, options in TASKS.items()}
    table = _begun(path, seeds)
    missing = [p for p in places(seeds) if np.isnan(table[p.task][p.seed, p.row, 0])]
    for pack in _packs(missing[:most], at_once):
        runs = [run_of(place) for place in pack]
        for place, columns in zip(pack, trained(tasks[pack[0].task], runs), strict=True):
            table[place.task][place.seed, place.row] = columns
        _save(path, table)
        print(f"{pack[-1].task}, seed {pack[-1].seed}, row {pack[-1].row}", flush=True)


def _packs(missing: Sequence[Place], at_once: int) -> Iterator[list[Place]]:
    """Yield groups of places with the same task and seed, of at most `at_once` each."""
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


def main() -> None:
    """Train and write the table."""
    arguments = parser(__doc__)
    arguments.add_argument("--seeds", type=int, default=8)
    arguments.add_argument("--pack", type=int, default=32)
    arguments.add_argument("--most", type=int, help="stop after this many training runs")
    arguments.add_argument("--write", type=Path, help="default: benchmarks/landscape.npz")
    given = parse(arguments, seeds=1, most=32)
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        path = Path(folder) / FILE.name if given.quick else given.write or FILE
        tabulate(path, given.seeds, given.pack, given.most)


if __name__ == "__main__":
    main()
