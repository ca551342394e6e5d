"""What the verdict's statistics hold, on simulated studies and on resampled digits.

Claim     Where ε does nothing, at most 5 % of the verdicts say "helps"; the 95 % interval holds
          the true difference in 93 to 97 %; a difference of two standard deviations of one run's
          is found in 80 % with ten seeds while the examples are at most two fifths of that
          variance. Not so where splits are redrawn and training sets differ much: 8 and 89 %.
Method    Thousands of studies, each from its search to its verdict through the study's own code,
          on scores of known truth (benchmarks/simulation.py), whose noise has the sizes of that
          of digits. Those are measured here too, and the interval is tried on resamples of the
          measured differences: seeds and examples are drawn with replacement from what was
          trained, whose mean is then the truth.
Run       OMP_NUM_THREADS=1 python benchmarks/evidence.py [--repeats 1000] [--processes 2]
          [--write docs/evidence.md]
          About ten minutes on two cores.
"""

import argparse
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

from benchmarks.shared.simulated_study import Simulated, World, world
from sweeper.confirmation.intervals import Floats, interval, two_way
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
# A good configuration of digits, the splits it is measured on, and how often.
ANNEALED: Final = Smoothing(0.3, "cosine", 2.2)
SPLITS: Final = (0, 1, 2, 3)
SEEDS: Final = 10
RESAMPLES: Final = 4000
RESAMPLED_ROWS: Final = (360, 1440)


class Case(NamedTuple):
    """Studies of one kind: where their scores come from, and how they are confirmed.

    `part` is how many are simulated, of those that are asked for.
    """

    name: str
    world: World
    settings: dict[str, Any] = {}  # noqa: RUF012
    counts: tuple[int, ...] = (DEFAULT,)
    part: float = 1.0


def nothing(name: str, world: World, part: float = 1.0, **settings: Any) -> Case:
    """Return studies in which ε does nothing."""
    return Case(name, world, settings, (settings.get("replicates", DEFAULT),), part)


def something(name: str, world: World, **settings: Any) -> Case:
    """Return studies in which ε helps, asked after each of the numbers of replicates."""
    return Case(name, world, {**settings, "replicates": max(COUNTS)}, COUNTS, 0.25)


NOTHING: Final = (
    nothing("noise as on digits", World()),
    nothing("the same, examples with a tail to the left", World(tail="left")),
    nothing("the same, a tail to the right", World(tail="right")),
    nothing("splits redrawn", World(), resplit=True),
    nothing("splits redrawn, training sets differ", World(train_sd=RUN_SD), resplit=True),
    nothing("examples without noise", world(RUN_SD, 0.0), 0.4),
    nothing("three replicates", World(), 0.4, replicates=3),
    nothing("choice = one_standard_error", World(), 0.4, choice="one_standard_error"),
    nothing("choice = knee", World(), 0.4, choice="knee"),
    nothing("a constraint on accuracy", World(), 0.4, constraint="accuracy >= baseline - 0.02"),
)
SOMETHING: Final = (
    *(something(f"{100 * share:.0f} %", world(RUN_SD, share, 2.0)) for share in SHARES),
    # On digits the sd of one score is 1.4 to 4 times that of one paired difference.
    something("75 %, two sd of one score", world(RUN_SD, 0.75, 2 * 1.4)),
    something("75 %, splits redrawn", world(RUN_SD, 0.75, 2.0), resplit=True),
    something(
        "75 %, splits redrawn, training sets differ",
        world(RUN_SD, 0.75, 2.0, train_sd=RUN_SD),
        resplit=True,
    ),
)


HEAD_NOTHING: Final = (
    "ε does nothing",
    "helps",
    "hurts",
    "95 % holds the truth",
    "seeds alone: helps",
)
HEAD_POWER: Final = (
    "share of the examples",
    *(f"n = {n}" for n in COUNTS),
    f"95 % holds, n = {DEFAULT}",
)
HEAD_PICK: Final = (
    "share of the examples",
    "regret: luckiest",
    "pick",
    "promised too much: luckiest trial",
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
    "share of the examples",
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
        for what in ("wrongly better", "wrongly worse", "Student's misses")
    ),
)


# Simulated studies


def simulate(case: Case, repeats: int, pool: Pool) -> pd.DataFrame:
    """Return one row a study and number of replicates: what was said, and what is true."""
    seeds = range(round(case.part * repeats))
    rows = pool.imap_unordered(partial(_studied, case), seeds, chunksize=10)
    return pd.DataFrame([row for of in rows for row in of])


def _studied(case: Case, seed: int) -> list[dict[str, Any]]:
    study = Simulated(case.world, seed, case.settings)
    try:
        return [{"count": count, **study.found(count)._asdict()} for count in case.counts]
    except SweeperError:  # no trial keeps to the constraint: no verdict
        return []


def share(said: Iterable[bool]) -> str:
    """Return a share in percent with its own standard error."""
    values = np.array(list(said), dtype=float)
    error = math.sqrt(values.mean() * (1 - values.mean()) / len(values))
    return f"{values.mean():.1%} ± {error:.1%}".replace("%", " %")


def covered(found: pd.DataFrame) -> pd.Series:
    """Return for each study whether its interval holds the truth."""
    return (found["low"] <= found["truth"]) & (found["truth"] <= found["high"])


def nothing_line(case: Case, found: pd.DataFrame) -> list[str]:
    """Return a line of the table of studies where ε does nothing."""
    said = [share(found["word"] == word) for word in ("helps", "hurts")]
    return [case.name, *said, share(covered(found)), share(found["alone"] == "helps")]


def power_line(case: Case, found: pd.DataFrame) -> list[str]:
    """Return a line of the table of power, one cell for each number of replicates."""
    by_count = [found[found["count"] == count] for count in COUNTS]
    default = found[found["count"] == DEFAULT]
    power = [share(of["word"] == "helps") for of in by_count]
    return [case.name, *power, share(covered(default))]


def pick_line(case: Case, found: pd.DataFrame) -> list[str]:
    """Return a line of the table of picks, in parts of one run's standard deviation."""
    once = found[found["count"] == found["count"].min()]
    unit = case.world.run_sd
    columns = [
        once["lucky"] - once["best"],
        once["truth"] - once["best"],
        once["lucky_curse"],
        once["curse"],
        once["smoothed_curse"],
    ]
    return [case.name, *(f"{column.mean() / unit:.2f}" for column in columns)]


# Digits


class Measured(NamedTuple):
    """Losses of the examples of validation and test, (seeds, 2, N): ε = 0, then annealed."""

    valid: Floats
    test: Floats

    @property
    def differences(self) -> Floats:
        """Those of all examples (seeds, N)."""
        both = np.concatenate([self.valid, self.test], axis=2)
        return np.asarray(both[:, 1] - both[:, 0])


def measured(data_seed: int) -> Measured:
    """Train ε = 0 and an annealed ε on fresh seeds of one split of digits."""
    task, found = digits(), list[tuple[Floats, Floats]]()
    for seed in range(SEEDS):
        for smoothing in (Smoothing(0.0), ANNEALED):
            *_, last = train(task, TrainingRun(smoothing, seed, data_seed))
            temperature = score(last.logits, last.labels).temperature or 1.0
            test = examples(*last.splits["test"](), temperature)
            valid = examples(last.logits, last.labels, temperature)
            found.append((np.asarray(valid.nll), np.asarray(test.nll)))
    sides = (np.stack(side) for side in zip(*found, strict=True))
    return Measured(*(side.reshape(SEEDS, 2, -1) for side in sides))


def components(differences: Floats) -> tuple[float, float, float]:
    """Return the sd of the seeds' means, of the examples on any seed, and of what is left."""
    seeds, count = differences.shape
    rows, columns = differences.mean(1), differences.mean(0)
    left = differences - rows[:, None] - columns + differences.mean()
    rest = np.square(left).sum() / ((seeds - 1) * (count - 1))
    of_examples = max(columns.var(ddof=1) - rest / seeds, 0.0)
    return float(rows.std(ddof=1)), math.sqrt(of_examples), math.sqrt(rest)


def digits_line(data_seed: int, of: Measured) -> list[str]:
    """Return a line of the table of digits' noise."""
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
        f"{(example / math.sqrt(count) / run_sd) ** 2:.0%}".replace("%", " %"),
        *(f"{matrix[0, 1]:+.2f}" for matrix in (by_seed, by_example, luck)),
        f"{single / run_sd:.1f}",
    ]


def _example_error(losses: Floats) -> float:
    return float(losses.mean(0).std(ddof=1) / math.sqrt(losses.shape[1]))


def resampled_line(data_seed: int, differences: Floats) -> list[str]:
    """Return how often the interval misses the truth, on either side, on resamples."""
    centred = differences.mean(0) - differences.mean()
    skewness = float((centred**3).mean() / centred.std() ** 3)
    rng = np.random.default_rng(data_seed)
    missed = [
        cell
        for count in RESAMPLED_ROWS
        for cell in _missed(differences - differences.mean(), count, rng)
    ]
    return [str(data_seed), f"{skewness:+.1f}", *missed]


def _missed(differences: Floats, count: int, rng: np.random.Generator) -> list[str]:
    """Return shares of wrong findings of better and of worse, and that of Student's interval."""
    low, high, plain = list[bool](), list[bool](), list[bool]()
    for _ in range(RESAMPLES):
        seeds = rng.integers(0, len(differences), DEFAULT)
        table = differences[seeds][:, rng.integers(0, differences.shape[1], count)]
        found = two_way(table)
        symmetric = interval(found.estimate, found.error, found.freedom)
        low.append(found.low > 0)
        high.append(found.high < 0)
        plain.append(not symmetric.low <= 0 <= symmetric.high)
    return [f"{100 * np.mean(of):.1f} %" for of in (high, low, plain)]


# The document


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


Frames = Sequence[tuple[Case, pd.DataFrame]]


def tables(nothing: Frames, something: Frames, of_digits: Mapping[int, Measured]) -> dict[str, str]:
    """Return the tables of the document by name."""
    pick = (nothing[0], *something[: len(SHARES)])
    differences = {seed: of.differences for seed, of in of_digits.items()}
    return {
        "nothing": table(HEAD_NOTHING, starmap(nothing_line, nothing)),
        "power": table(HEAD_POWER, starmap(power_line, something)),
        "pick": table(HEAD_PICK, starmap(pick_line, pick)),
        "digits": table(HEAD_DIGITS, starmap(digits_line, of_digits.items())),
        "resampled": table(HEAD_RESAMPLED, starmap(resampled_line, differences.items())),
    }


def write(path: Path, tables: Mapping[str, str]) -> None:
    """Put each table in the place of the one before, between the comments that name it."""
    text = path.read_text(encoding="utf-8")
    for name, rows in tables.items():
        begin, end = f"<!-- statistics: {name} -->\n", "\n<!-- end -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}{rows}{rest[rest.index(end) :]}"
    path.write_text(text, encoding="utf-8")


def main() -> None:
    """Simulate, measure, print the tables and write them where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    with Pool(arguments.processes, torch.set_num_threads, (1,)) as pool:
        of_digits = dict(zip(SPLITS, pool.map(measured, SPLITS), strict=True))
        nothing, something = (
            [(case, simulate(case, arguments.repeats, pool)) for case in cases]
            for cases in (NOTHING, SOMETHING)
        )
    made = tables(nothing, something, of_digits)
    print("\n\n".join(made.values()))
    if arguments.write:
        write(arguments.write, made)


if __name__ == "__main__":
    main()
