"""Error rates, power and coverage of the verdict, on simulated studies and on resampled digits.

Claim     Where ε has no effect, at most 5% of the verdicts say "helps", and the 95% interval
          contains the true difference in 93 to 97%. A difference of two standard deviations of one
          run's is found in 80% with ten seeds, if the examples are at most two fifths of that
          variance. This does not hold where splits are redrawn and training sets differ much:
          there it is 8 and 89%.
Method    Thousands of studies, each from its search to its verdict through the study's own code.
          Their scores are simulated with a known truth (benchmarks/shared/simulated_study.py) and
          with noise as large as that of digits, which is measured here too. The interval is also
          tested on resamples of the measured differences: seeds and examples are drawn with
          replacement from what was trained, so the mean of that is the truth.
Run       OMP_NUM_THREADS=1 python -m benchmarks.evidence [--repeats 1000] [--processes 2]
          [--write benchmarks/RESULTS.md] [--quick]
          About ten minutes on two cores.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import starmap
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import torch

from benchmarks.shared.arguments import parse, parser
from benchmarks.shared.simulated_study import Simulated, World, world
from benchmarks.shared.tables import markdown_table, write_tables
from sweeper.confirmation.intervals import Floats, interval, two_way_interval
from sweeper.errors import SweeperError
from sweeper.scoring import examples, score
from sweeper.smoothing import Smoothing
from sweeper.tasks.digits import digits
from sweeper.training.loop import train
from sweeper.training.run import TrainingRun

DEFAULT: Final = 10
COUNTS: Final = (3, 5, 10, 20, 40)
SHARES: Final = (0.0, 0.25, 0.45, 0.75, 0.9)
RUN_SD: Final = 0.015
# A good configuration of digits.
ANNEALED: Final = Smoothing(0.3, "cosine", 2.2)
RESAMPLED_ROWS: Final = (360, 1440)


class Case(NamedTuple):
    """Studies of one kind: where their scores come from, and how they are confirmed.

    `part` is the share of the repeats that is simulated.
    """

    name: str
    world: World
    settings: dict[str, Any] = {}  # noqa: RUF012
    counts: tuple[int, ...] = (DEFAULT,)
    part: float = 1.0


def nothing(name: str, world: World, part: float = 1.0, **settings: Any) -> Case:
    """Return studies in which ε has no effect."""
    return Case(name, world, settings, (settings.get("replicates", DEFAULT),), part)


def something(name: str, world: World, **settings: Any) -> Case:
    """Return studies in which ε helps, with a verdict after each of the numbers of replicates."""
    return Case(name, world, {**settings, "replicates": max(COUNTS)}, COUNTS, 0.25)


NOTHING: Final = (
    nothing("noise as on digits", World()),
    nothing("the same, examples skewed to the left", World(tail="left")),
    nothing("the same, examples skewed to the right", World(tail="right")),
    nothing("splits redrawn", World(), resplit=True),
    nothing("splits redrawn, training sets differ", World(train_sd=RUN_SD), resplit=True),
    nothing("examples without noise", world(RUN_SD, 0.0), 0.4),
    nothing("three replicates", World(), 0.4, replicates=3),
    nothing("choice = one_standard_error", World(), 0.4, choice="one_standard_error"),
    nothing("choice = knee", World(), 0.4, choice="knee"),
    nothing("a constraint on accuracy", World(), 0.4, constraint="accuracy >= baseline - 0.02"),
)
SOMETHING: Final = (
    *(something(f"{share:.0%}", world(RUN_SD, share, 2.0)) for share in SHARES),
    # On digits the sd of one score is 1.4 to 4 times that of one paired difference.
    something("75%, two SD of one score", world(RUN_SD, 0.75, 2 * 1.4)),
    something("75%, splits redrawn", world(RUN_SD, 0.75, 2.0), resplit=True),
    something(
        "75%, splits redrawn, training sets differ",
        world(RUN_SD, 0.75, 2.0, train_sd=RUN_SD),
        resplit=True,
    ),
)


HEAD_NOTHING: Final = (
    "ε has no effect",
    "helps",
    "hurts",
    "coverage of the 95% CI",
    "helps, seeds only",
)
HEAD_POWER: Final = (
    "variance from examples",
    *(f"n = {n}" for n in COUNTS),
    f"coverage, n = {DEFAULT}",
)
HEAD_PICK: Final = (
    "variance from examples",
    "regret: lowest trial",
    "regret: pick",
    "optimistic bias: lowest trial",
    "the pick's trial",
    "the pick, smoothed",
)
HEAD_DIGITS: Final = (
    "split",
    "difference",
    "seeds",
    "examples / √N",
    "rest / √N",
    "one run",
    "variance from examples",
    "r seeds",
    "r examples",
    "r valid, test",
    "one score / one difference",
)
HEAD_RESAMPLED: Final = (
    "split",
    "skewness",
    *(
        f"{what}, N = {count:,}"
        for count in RESAMPLED_ROWS
        for what in ("falsely better", "falsely worse", "Student's misses")
    ),
)


# Simulated studies


def simulate(case: Case, repeats: int, pool: Pool) -> pd.DataFrame:
    """Return one row per study and number of replicates: the verdict, and the truth."""
    seeds = range(round(case.part * repeats))
    rows = pool.imap_unordered(partial(_studied, case), seeds, chunksize=10)
    return pd.DataFrame([row for of in rows for row in of])


def _studied(case: Case, seed: int) -> list[dict[str, Any]]:
    study = Simulated(case.world, seed, case.settings)
    try:
        return [{"count": count, **study.found(count)._asdict()} for count in case.counts]
    except SweeperError:  # no trial satisfies the constraint, so there is no verdict
        return []


def share(said: Iterable[bool]) -> str:
    """Return a share in percent with its standard error."""
    values = np.array(list(said), dtype=float)
    error = math.sqrt(values.mean() * (1 - values.mean()) / len(values))
    return f"{values.mean():.1%} ± {error:.1%}"


def covered(found: pd.DataFrame) -> pd.Series:
    """Return whether each study's interval contains the truth."""
    return (found["low"] <= found["truth"]) & (found["truth"] <= found["high"])


def nothing_line(case: Case, found: pd.DataFrame) -> list[str]:
    """Return a row of the table of studies where ε has no effect."""
    said = [share(found["word"] == word) for word in ("helps", "hurts")]
    return [case.name, *said, share(covered(found)), share(found["alone"] == "helps")]


def power_line(case: Case, found: pd.DataFrame) -> list[str]:
    """Return a row of the table of power, one cell for each number of replicates."""
    by_count = [found[found["count"] == count] for count in COUNTS]
    default = found[found["count"] == DEFAULT]
    power = [share(of["word"] == "helps") for of in by_count]
    return [case.name, *power, share(covered(default))]


def pick_line(case: Case, found: pd.DataFrame) -> list[str]:
    """Return a row of the table of picks, in units of one run's standard deviation."""
    once = found[found["count"] == found["count"].min()]
    unit = case.world.run_sd
    columns = [
        once["selected"] - once["best"],
        once["truth"] - once["best"],
        once["selected_curse"],
        once["curse"],
        once["smoothed_curse"],
    ]
    return [case.name, *(f"{column.mean() / unit:.2f}" for column in columns)]


# Digits


class Measured(NamedTuple):
    """Losses of the validation and test examples, (seeds, 2, N): ε = 0, then annealed."""

    valid: Floats
    test: Floats

    @property
    def differences(self) -> Floats:
        """The differences of all examples, (seeds, N)."""
        both = np.concatenate([self.valid, self.test], axis=2)
        return np.asarray(both[:, 1] - both[:, 0])


def measured(data_seed: int, seeds: int) -> Measured:
    """Train ε = 0 and an annealed ε on fresh seeds of one split of digits."""
    task, found = digits(), list[tuple[Floats, Floats]]()
    for seed in range(seeds):
        for smoothing in (Smoothing(0.0), ANNEALED):
            *_, last = train(task, TrainingRun(smoothing, seed, data_seed))
            temperature = score(last.logits, last.labels).temperature or 1.0
            logits, labels = last.splits["test"]()
            test = examples(logits, labels, temperature)
            valid = examples(last.logits, last.labels, temperature)
            found.append((np.asarray(valid.nll), np.asarray(test.nll)))
    sides = (np.stack(side) for side in zip(*found, strict=True))
    return Measured(*(side.reshape(seeds, 2, -1) for side in sides))


def components(differences: Floats) -> tuple[float, float, float]:
    """Return the sd of the means of the seeds, of the examples on any seed, and of the rest."""
    seeds, count = differences.shape
    rows, columns = differences.mean(1), differences.mean(0)
    left = differences - rows[:, None] - columns + differences.mean()
    rest = np.square(left).sum() / ((seeds - 1) * (count - 1))
    of_examples = max(columns.var(ddof=1) - rest / seeds, 0.0)
    return float(rows.std(ddof=1)), math.sqrt(of_examples), math.sqrt(rest)


def digits_line(data_seed: int, of: Measured) -> list[str]:
    """Return a row of the table of the noise of digits."""
    difference = of.test[:, 1] - of.test[:, 0]
    seed, example, rest = components(difference)
    count = difference.shape[1]
    run_sd = math.hypot(seed, example / math.sqrt(count))
    by_seed, by_example = np.corrcoef(of.test.mean(2).T), np.corrcoef(of.test.mean(0))
    luck = np.corrcoef(difference.mean(1), (of.valid[:, 1] - of.valid[:, 0]).mean(1))
    single = math.hypot(of.test[:, 0].mean(1).std(ddof=1), _example_error(of.test[:, 0]))
    return [
        str(data_seed),
        f"{difference.mean():+.3f}",
        *(f"{sd:.4f}" for sd in (seed, example / math.sqrt(count), rest / math.sqrt(count))),
        f"{run_sd:.4f}",
        f"{(example / math.sqrt(count) / run_sd) ** 2:.0%}",
        *(f"{matrix[0, 1]:+.2f}" for matrix in (by_seed, by_example, luck)),
        f"{single / run_sd:.1f}",
    ]


def _example_error(losses: Floats) -> float:
    return float(losses.mean(0).std(ddof=1) / math.sqrt(losses.shape[1]))


def resampled_line(data_seed: int, differences: Floats, resamples: int) -> list[str]:
    """Return how often the interval of a resample misses the truth on either side."""
    centered = differences.mean(0) - differences.mean()
    skewness = float((centered**3).mean() / centered.std() ** 3)
    rng = np.random.default_rng(data_seed)
    missed = [
        cell
        for count in RESAMPLED_ROWS
        for cell in _missed(differences - differences.mean(), count, resamples, rng)
    ]
    return [str(data_seed), f"{skewness:+.1f}", *missed]


def _missed(differences: Floats, count: int, resamples: int, rng: np.random.Generator) -> list[str]:
    """Return the shares of wrong findings of better and worse, and that of Student's interval."""
    low, high, plain = list[bool](), list[bool](), list[bool]()
    for _ in range(resamples):
        seeds = rng.integers(0, len(differences), DEFAULT)
        table = differences[seeds][:, rng.integers(0, differences.shape[1], count)]
        found = two_way_interval(table)
        symmetric = interval(found.estimate, found.error, found.freedom)
        low.append(found.low > 0)
        high.append(found.high < 0)
        plain.append(not symmetric.low <= 0 <= symmetric.high)
    return [f"{np.mean(of):.1%}" for of in (high, low, plain)]


# The document


Frames = Sequence[tuple[Case, pd.DataFrame]]


def tables(
    nothing: Frames, something: Frames, of_digits: Mapping[int, Measured], resamples: int
) -> dict[str, str]:
    """Return the tables of the document by name."""
    pick = (nothing[0], *something[: len(SHARES)])
    resampled = [
        resampled_line(split, of.differences, resamples) for split, of in of_digits.items()
    ]
    return {
        "nothing": markdown_table(HEAD_NOTHING, starmap(nothing_line, nothing)),
        "power": markdown_table(HEAD_POWER, starmap(power_line, something)),
        "pick": markdown_table(HEAD_PICK, starmap(pick_line, pick)),
        "digits": markdown_table(HEAD_DIGITS, starmap(digits_line, of_digits.items())),
        "resampled": markdown_table(HEAD_RESAMPLED, resampled),
    }


def main() -> None:
    """Simulate and measure; print the tables, and write them if asked."""
    arguments = parser(__doc__)
    arguments.add_argument("--repeats", type=int, default=1000)
    arguments.add_argument("--splits", type=int, default=4, help="of digits")
    arguments.add_argument("--seeds", type=int, default=10, help="of digits, for each split")
    arguments.add_argument("--resamples", type=int, default=4000)
    arguments.add_argument("--processes", type=int, default=2)
    arguments.add_argument("--write", type=Path)
    given = parse(arguments, repeats=8, splits=2, seeds=2, resamples=100)
    splits = range(given.splits)
    with Pool(given.processes, torch.set_num_threads, (1,)) as pool:
        of_digits = pool.map(partial(measured, seeds=given.seeds), splits)
        nothing, something = (
            [(case, simulate(case, given.repeats, pool)) for case in cases]
            for cases in (NOTHING, SOMETHING)
        )
    made = tables(nothing, something, dict(zip(splits, of_digits, strict=True)), given.resamples)
    print("\n\n".join(made.values()))
    if given.write:
        write_tables(given.write, "statistics", made)


if __name__ == "__main__":
    main()
