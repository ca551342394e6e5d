"""Results on label smoothing from papers and earlier measurements, reproduced with this package.

Claim     On small data, calibration (Müller 2019), accuracy under label noise (Lukasik 2020) and
          annealed against fixed smoothing differ in the same direction as in the papers. Where
          they do not, the table says so.
Method    Each configuration is trained on several seeds of several splits. The ε, schedule and
          rate of a line are picked on the validation rows of each split, by the mean over seeds;
          test rows are only reported. A temperature is fitted on validation rows and applied to
          test rows. Differences are paired by seed and split. Their mean over seeds gives one
          value per split, and the interval is over splits.
Run       OMP_NUM_THREADS=1 python -m benchmarks.paper_tables [--seeds 3] [--splits 6]
          [--processes 2] [--write benchmarks/RESULTS.md] [--quick]
          About five minutes on two idle cores.
"""

import argparse
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any, Final, NamedTuple, Optional

import numpy as np
import torch
from sklearn.datasets import make_classification
from torch import Tensor, nn

from benchmarks.shared.arguments import parse, parser
from benchmarks.shared.tables import markdown_table, replace_section
from sweeper.confirmation.intervals import Floats, Interval, resplit_interval
from sweeper.scoring import examples, expected_calibration_error, fit_temperature, score
from sweeper.smoothing import Smoothing
from sweeper.tasks.digits import digits
from sweeper.training import Optimizer, Splits, Task, TrainingRun, train

BEGIN: Final = "<!-- Papers' tables: written by benchmarks/paper_tables.py -->"
END: Final = "<!-- end of papers' tables -->"
SAME: Final = "same"
OPPOSITE: Final = "opposite"
INCONCLUSIVE: Final = "inconclusive"
FEATURES, CLASSES = 40, 10
TRAIN, VALID, TEST = 2000, 2000, 8000


# Tasks


def synthetic() -> Task:
    """Return the task of table 1; each data seed draws a new problem."""
    return Task(
        name="synthetic",
        classes=CLASSES,
        model=mlp,
        data=problem,
        optimizer=Optimizer(lr=1e-3),
        epochs=60,
    )


def mlp(hparams: Mapping[str, Any]) -> nn.Module:
    """Return two hidden layers of 256 units."""
    return nn.Sequential(
        nn.Linear(FEATURES, 256),
        nn.ReLU(),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Linear(256, CLASSES),
    )


def problem(data_seed: int) -> Splits:
    """Return 2,000, 2,000 and 8,000 rows of one problem."""
    inputs, labels = make_classification(
        TRAIN + VALID + TEST,
        FEATURES,
        n_informative=20,
        n_classes=CLASSES,
        n_clusters_per_class=2,
        class_sep=1.5,
        random_state=data_seed,
    )
    sizes = [TRAIN, VALID, TEST]
    rows = torch.split(torch.as_tensor(inputs, dtype=torch.float32), sizes)
    train, valid, test = zip(rows, torch.split(torch.as_tensor(labels), sizes), strict=True)
    return Splits(train, valid, test, CLASSES)


TASKS: Final[Mapping[str, Callable[[], Task]]] = {
    "synthetic": synthetic,
    "noisy digits": lambda: digits(label_noise=0.2),
    "digits": digits,
}
# Test rows per training row where splits share rows; synthetic problems share none.
OVERLAP: Final = {"synthetic": 0.0, "noisy digits": 1 / 3, "digits": 1 / 3}


# One training run


class Job(NamedTuple):
    """One training run; `epochs` replaces the epochs of the task unless it is None."""

    task: str
    smoothing: Smoothing
    split: int
    seed: int
    epochs: int | None = None


class Measures(NamedTuple):
    """The scores of one split; `_scaled` are those after temperature scaling."""

    ece: float
    ece_scaled: float
    nll: float
    nll_scaled: float
    accuracy: float
    temperature: float


class Run(NamedTuple):
    """The scores of one training run on validation rows, to pick by, and on test rows."""

    valid: Measures
    test: Measures


Runs = Mapping[tuple[Smoothing, int, int], Run]  # by smoothing, split and seed


@cache  # the loop caches the data of a task object
def task_of(name: str, epochs: int | None) -> Task:
    task = TASKS[name]()
    return task if epochs is None else replace(task, epochs=epochs)


def trained(job: Job) -> tuple[Job, Run]:
    """Train once; return the scores at the end."""
    task = task_of(job.task, job.epochs)
    *_, last = train(task, TrainingRun(job.smoothing, job.seed, job.split))
    temperature = fit_temperature(last.logits, last.labels)
    logits, labels = last.splits["test"]()
    test = on_test(logits, labels, temperature)
    return job, Run(on_validation(last.logits, last.labels), test)


def on_validation(logits: Tensor, labels: Tensor) -> Measures:
    """Return the scores of validation rows; each half is scaled by the other's temperature."""
    scores = score(logits, labels).to_dict()
    names = ("ece", "ece_calibrated", "nll", "nll_calibrated", "accuracy", "temperature")
    return Measures(*(value for name in names if (value := scores[name]) is not None))


def on_test(logits: Tensor, labels: Tensor, temperature: float) -> Measures:
    """Return the scores of test rows with a temperature that was fitted on validation rows."""
    each = examples(logits, labels, temperature)
    return Measures(
        ece=expected_calibration_error(each.confidence, each.correct),
        ece_scaled=expected_calibration_error(each.confidence_calibrated, each.correct),
        nll=each.nll.mean().item(),
        nll_scaled=each.nll_calibrated.mean().item(),
        accuracy=each.correct.double().mean().item(),
        temperature=temperature,
    )


# What is compared


class Arm(NamedTuple):
    """Configurations of which the best of each split by a validation measure is reported."""

    candidates: tuple[Smoothing, ...]
    by: str = "nll"


class Line(NamedTuple):
    """A line of a table: a measure on test rows, and the results of others.

    `paper` and `earlier` are levels. Where an earlier level is not known, `gain` is the earlier
    difference to the line `against`, or `sign` is the sign of that difference.
    """

    name: str
    measure: str
    arm: Arm
    against: Optional["Line"] = None
    paper: float | None = None
    earlier: float | None = None
    gain: float | None = None
    sign: int = 0


class Table(NamedTuple):
    """A table of results on one task, with a text before it."""

    title: str
    task: str
    text: str
    lines: tuple[Line, ...]

    @property
    def smoothings(self) -> list[Smoothing]:
        """All configurations, each once."""
        return list(dict.fromkeys(one for line in self.lines for one in line.arm.candidates))


def fixed(*epsilons: float, by: str = "nll") -> Arm:
    """Return an arm of constant ε."""
    return Arm(tuple(map(Smoothing, epsilons)), by)


def annealed(schedule: str, by: str = "nll") -> Arm:
    """Return an arm of every start and rate of an annealed schedule."""
    pairs = ((epsilon, rate) for epsilon in STARTS for rate in RATES)
    return Arm(tuple(Smoothing(epsilon, schedule, rate) for epsilon, rate in pairs), by)


STARTS: Final = (0.05, 0.1, 0.2, 0.4)
RATES: Final = (1.0, 3.0)
SYNTHETIC_GRID: Final = (0.01, 0.02, 0.05, 0.1, 0.2)
NOISY_GRID: Final = (0.02, 0.05, 0.1, 0.2, 0.4)
# Lower values too, because clean digits pick the lowest of the grid above by NLL.
DIGITS_GRID: Final = (0.005, 0.01, *NOISY_GRID)
NONE: Final = Arm((Smoothing(0.0),))
AS_IN_PAPER: Final = Arm((Smoothing(0.1, convention="uniform"),))

HARD: Final = "hard labels"
SCALED: Final = "scaling"
SMOOTHED: Final = "smoothing"
ZERO: Final = "ε = 0"
ON_SYNTHETIC: Final = fixed(*SYNTHETIC_GRID)
HARD_ECE: Final = Line(HARD, "ece", NONE, paper=0.150, earlier=0.106)
SCALED_ECE: Final = Line(SCALED, "ece_scaled", NONE, HARD_ECE, paper=0.021, earlier=0.012)
SMOOTHED_ECE: Final = Line(SMOOTHED, "ece", ON_SYNTHETIC, HARD_ECE, paper=0.024, earlier=0.021)
HARD_NLL: Final = Line(HARD, "nll", NONE, earlier=0.789)
SCALED_NLL: Final = Line(SCALED, "nll_scaled", NONE, HARD_NLL, earlier=0.647)
SMOOTHED_NLL: Final = Line(SMOOTHED, "nll", ON_SYNTHETIC, HARD_NLL, earlier=0.612)
MUELLER: Final = (
    HARD_ECE,
    SCALED_ECE,
    SMOOTHED_ECE,
    SMOOTHED_ECE._replace(against=SCALED_ECE),
    HARD_NLL,
    SCALED_NLL,
    SMOOTHED_NLL,
    SMOOTHED_NLL._replace(against=SCALED_NLL),
    Line(f"{SMOOTHED} + {SCALED}", "nll_scaled", ON_SYNTHETIC, SMOOTHED_NLL, earlier=0.604),
    Line(HARD, "temperature", NONE, paper=1.9, earlier=1.83),
)

ON_NOISY: Final = fixed(*NOISY_GRID, by="accuracy")
NOISY_ZERO: Final = Line(ZERO, "accuracy", NONE, paper=0.8044)
LUKASIK: Final = (
    NOISY_ZERO,
    Line("ε = 0.1", "accuracy", AS_IN_PAPER, NOISY_ZERO, paper=0.8395, gain=0.0305),
    Line("picked ε", "accuracy", ON_NOISY, NOISY_ZERO, paper=0.8395, gain=0.0305),
)

RAW_ZERO: Final = Line(ZERO, "nll", NONE, earlier=0.126)
RAW_FIXED: Final = Line("fixed ε", "nll", fixed(*DIGITS_GRID), RAW_ZERO, earlier=0.101)
RAW: Final = (
    RAW_ZERO,
    RAW_FIXED,
    Line("exponential ε", "nll", annealed("exponential"), RAW_FIXED, earlier=0.091),
    Line("switched-off ε", "nll", annealed("step"), RAW_FIXED, earlier=0.087),
)

AFTER: Final = "nll_scaled"
AFTER_ZERO: Final = Line(ZERO, AFTER, NONE, earlier=0.115)
AFTER_FIXED: Final = Line(
    "fixed ε", AFTER, fixed(*DIGITS_GRID, by=AFTER), AFTER_ZERO, earlier=0.077
)
AFTERWARDS: Final = (
    AFTER_ZERO,
    AFTER_FIXED,
    Line("exponential ε", AFTER, annealed("exponential", by=AFTER), AFTER_FIXED, sign=1),
    Line("switched-off ε", AFTER, annealed("step", by=AFTER), AFTER_FIXED, sign=1),
)


# From runs to rows


class Row(NamedTuple):
    """A line with its results: test values (splits, seeds), and the difference of two lines."""

    line: Line
    values: Floats
    picks: tuple[Smoothing, ...]
    difference: Interval | None = None

    @property
    def direction(self) -> str:
        """Whether the difference has the sign of the paper's or else of the earlier one."""
        if self.difference is None:
            return ""
        return direction(self.difference, expected(self.line))


def splits_and_seeds(runs: Runs) -> tuple[list[int], list[int]]:
    """Return the splits and the seeds that were trained."""
    return sorted({split for _, split, _ in runs}), sorted({seed for _, _, seed in runs})


def picked(runs: Runs, arm: Arm) -> tuple[Smoothing, ...]:
    """Return the configuration of each split with the best mean over seeds on validation rows.

    Of equal ones, the first is picked.
    """
    splits, seeds = splits_and_seeds(runs)
    sign = -1 if arm.by == "accuracy" else 1

    def cost(smoothing: Smoothing, split: int) -> float:
        found = [getattr(runs[smoothing, split, seed].valid, arm.by) for seed in seeds]
        return sign * float(np.mean(found))

    return tuple(min(arm.candidates, key=lambda one: cost(one, split)) for split in splits)


def rows(table: Table, runs: Runs) -> list[Row]:
    return [row(line, runs, OVERLAP[table.task]) for line in table.lines]


def row(line: Line, runs: Runs, overlap: float) -> Row:
    """Return the row of a line, with the difference to the line that it is compared with."""
    here, picks = values(line, runs)
    if line.against is None:
        return Row(line, here, picks)
    there, _ = values(line.against, runs)
    return Row(line, here, picks, difference(here, there, overlap))


def values(line: Line, runs: Runs) -> tuple[Floats, tuple[Smoothing, ...]]:
    """Return a line's test values (splits, seeds), and the pick of each split."""
    splits, seeds = splits_and_seeds(runs)
    picks = picked(runs, line.arm)
    found = [
        [getattr(runs[pick, split, seed].test, line.measure) for seed in seeds]
        for pick, split in zip(picks, splits, strict=True)
    ]
    return np.array(found), picks


def difference(here: Floats, there: Floats, overlap: float) -> Interval:
    """Return the interval, over splits, of the paired difference of values (splits, seeds).

    The value of a split is its mean over seeds; `overlap` is as in `OVERLAP`.
    """
    return resplit_interval((here - there).mean(1), overlap)


def spread(values: Floats) -> tuple[float, float, float]:
    """Return the mean, the sd over seeds within a split, and the sd of the means of splits."""
    within = values.var(axis=1, ddof=1).mean()
    return float(values.mean()), float(np.sqrt(within)), float(values.mean(1).std(ddof=1))


def references(line: Line) -> tuple[float | None, float | None]:
    """Return the paper's and the earlier difference of a line to the one it is compared with."""
    if line.against is None:
        return None, None
    earlier = line.gain if line.gain is not None else _gap(line.earlier, line.against.earlier)
    return _gap(line.paper, line.against.paper), earlier


def _gap(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def expected(line: Line) -> float:
    """Return a number with the sign of the paper's, or else the earlier, difference."""
    paper, earlier = references(line)
    known = [gap for gap in (paper, earlier) if gap is not None]
    return known[0] if known else line.sign


def direction(found: Interval, reference: float) -> str:
    """Return whether a difference has the sign of a reference, if its interval excludes 0."""
    if found.low <= 0 <= found.high:
        return INCONCLUSIVE
    return SAME if found.estimate * reference > 0 else OPPOSITE


# The document


class Unit(NamedTuple):
    """The name and format of a measure: `scale` times its value, digits, and a unit sign."""

    title: str
    scale: float = 1.0
    digits: int = 3
    sign: str = ""


UNITS: Final = {
    "ece": Unit("ECE", 100.0, 2, "%"),
    "ece_scaled": Unit("ECE", 100.0, 2, "%"),
    "nll": Unit("NLL"),
    "nll_scaled": Unit("NLL"),
    "accuracy": Unit("accuracy", 100.0, 2, "%"),
    "temperature": Unit("temperature", digits=2),
}
HEAD: Final = ("", "paper", "earlier", "ours", "our difference, 95% CI", "direction")


def cells(row: Row) -> list[str]:
    line, unit = row.line, UNITS[row.line.measure]
    against = f" vs {line.against.name}" if line.against else ""
    paper, earlier = references(line)
    return [
        f"{unit.title}, {line.name}{against}",
        _stated(line.paper, paper, unit),
        _stated(line.earlier, earlier, unit) or WORDS[line.sign],
        " ± ".join(_number(value, unit) for value in spread(row.values)) + unit.sign,
        _interval(row.difference, unit),
        row.direction,
    ]


def _number(value: float, unit: Unit) -> str:
    return f"{unit.scale * value:.{unit.digits}f}"


def _stated(level: float | None, gap: float | None, unit: Unit) -> str:
    """Return a level as published, and its difference to that of the other line."""
    first = "" if level is None else f"{unit.scale * level:.4g}{unit.sign}"
    return f"{first} ({_gained(gap, unit)})".lstrip() if gap is not None else first


def _gained(value: float, unit: Unit) -> str:
    return f"{unit.scale * value:+.{unit.digits}f}"


def _interval(found: Interval | None, unit: Unit) -> str:
    if found is None:
        return ""
    low, high = (_gained(value, unit) for value in (found.low, found.high))
    return f"{_gained(found.estimate, unit)} [{low}, {high}]"


def finding(found: Sequence[Row]) -> str:
    """Return sentences about the differences of rows, grouped by direction."""
    sentences = list[str]()
    for word, opening in OPENINGS.items():
        clauses = [_clause(row) for row in found if row.direction == word]
        sentences += [f"{opening} {'; '.join(clauses)}."] if clauses else []
    return " ".join(sentences)


def _clause(row: Row) -> str:
    line, title = row.line, UNITS[row.line.measure].title
    if row.difference is None or line.against is None:
        return ""
    if row.direction == INCONCLUSIVE:
        return f"the {title} of {line.name} compared with that of {line.against.name}"
    word = "higher" if row.difference.estimate > 0 else "lower"
    return f"the {title} is {word} with {line.name} than with {line.against.name}"


def picks_text(found: Iterable[Row]) -> str:
    """Return which configurations were picked, and the number of splits for each."""
    by_arm = dict[Arm, Row]()
    for row in found:
        by_arm.setdefault(row.line.arm, row)
    chosen = [row for arm, row in by_arm.items() if len(arm.candidates) > 1]
    return "; ".join(f"{row.line.name}: {_counted(row.picks)}" for row in chosen)


def _counted(picks: Iterable[Smoothing]) -> str:
    counts = Counter(map(_described, picks)).most_common()
    return ", ".join(f"{what} ({count})" for what, count in counts)


def _described(smoothing: Smoothing) -> str:
    rate = "" if smoothing.rate is None else f" with annealing rate {smoothing.rate:g}"
    return f"{smoothing.epsilon:g}{rate}"


def table_section(table: Table, runs: Runs) -> str:
    """Return a table with its heading, its text, the picks and the findings."""
    found = rows(table, runs)
    parts = [
        f"### {table.title}",
        wrapped(table.text),
        markdown_table(HEAD, map(cells, found)),
        wrapped(f"Picks (and the number of splits): {picks_text(found)}."),
        wrapped(f"**Results.** {finding(found)}"),
    ]
    return "\n\n".join(parts)


def section(found: Mapping[str, Runs]) -> str:
    """Return the section of the document from the runs of each task."""
    splits, seeds = splits_and_seeds(next(iter(found.values())))
    texts = [table_section(table, found[table.task]) for table in TABLES]
    intro = INTRODUCTION.format(seeds=len(seeds), splits=len(splits))
    return "\n\n".join([BEGIN, HEADING, *map(wrapped, intro.split("\n\n")), *texts, END]) + "\n"


def wrapped(text: str) -> str:
    """Wrap a paragraph at 100 characters."""
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def put(section: str, text: str) -> str:
    """Return the text of a document with the section in place of the one before, or at its end."""
    if BEGIN not in text:
        return f"{text.rstrip()}\n\n{section}".lstrip()
    return replace_section(text, BEGIN, f"{END}\n", section)


def listed(numbers: Iterable[float]) -> str:
    """Return numbers separated by commas."""
    return ", ".join(f"{number:g}" for number in numbers)


WORDS: Final = {0: "", 1: "(higher)", -1: "(lower)"}
OPENINGS: Final = {
    SAME: "In the same direction:",
    OPPOSITE: "In the opposite direction:",
    INCONCLUSIVE: "Inconclusive:",
}
HEADING: Final = "## Results of papers, reproduced"
INTRODUCTION: Final = """This section reproduces results on label smoothing from papers, and from an
earlier measurement of our own with few seeds. `python -m benchmarks.paper_tables` makes the
tables. Data and models are smaller than in the papers, so only directions are compared: *same* as
in the paper (or, without a value there, in the earlier measurement), *opposite*, or
*inconclusive* if the interval of our difference contains 0.

Each configuration is trained on {seeds} seeds of each of {splits} splits. Hyperparameters (ε,
initial ε, annealing rate) were picked on the validation rows of each split, by the mean over its
seeds; test rows are only reported. *Ours* is the mean over test rows, ± the standard deviation
over the seeds of a split, ± the standard deviation of the means of the splits. In parentheses are
the differences of the papers and the earlier measurement. Our difference is paired by seed and
split; for percentages it is in percentage points. Its interval is over splits, so it includes
both kinds of variation. If splits are drawn from the same rows, it uses Nadeau and Bengio's
variance, which is larger. Each interval has 95% on its own, without a correction for multiple
comparisons. ε is the mass that the true class loses (`convention = "others"`), and NLL is in
nats."""
TABLES: Final = (
    Table(
        "Calibration: label smoothing and temperature scaling (Müller et al. 2019, table 3)",
        "synthetic",
        f"""ECE (15 bins) and NLL for hard labels, for the same models after temperature scaling,
for label smoothing, and for both. The paper used CIFAR-100 and ε = 0.05. We used scikit-learn's
`make_classification`: 10 classes, 40 features, 20 of them informative, 2 clusters per class,
class separation 1.5. Each split is a new problem with {TRAIN:,} training, {VALID:,} validation
and {TEST:,} test rows, all with the 1% of random labels that scikit-learn adds. The model is an
MLP with two layers of 256 units, trained for 60 epochs with Adam at 0.001 with cosine decay. ε
was picked from {listed(SYNTHETIC_GRID)} by validation NLL; each model's temperature is fitted on
the validation rows.""",
        MUELLER,
    ),
    Table(
        "Accuracy under label noise (Lukasik et al. 2020)",
        "noisy digits",
        f"""Accuracy on correct test labels when 20% of the training labels are replaced by
another class; validation labels are correct. The paper used CIFAR-10. We used scikit-learn's
digits (1,797 images, split randomly into 60, 20 and 20%) and an MLP with two layers of 128 units,
trained for 40 epochs. ε is either the paper's 0.1, which is spread over all classes (0.09 in this
package's convention), or picked from {listed(NOISY_GRID)} by validation accuracy.""",
        LUKASIK,
    ),
    Table(
        "Annealed against fixed, by NLL",
        "digits",
        f"""NLL on digits with clean labels, with the same model and splits. A fixed ε was picked
from {listed(DIGITS_GRID)}. An exponential ε, ε·exp(-r·u), and a switched-off ε, ε while
u < 1/(1+r), were picked from initial ε of {listed(STARTS)} and annealing rates r of
{listed(RATES)}, where u is the fraction of training done. All picks are by validation NLL. At
first, the grid of fixed ε started at 0.02, which every split picked, so two lower values were
added. Without them, both annealed schedules differed significantly from fixed ε: this comparison
depends on the lowest value of the grid.""",
        RAW,
    ),
    Table(
        "Annealed against fixed, by NLL after temperature scaling",
        "digits",
        """The same training runs, by NLL after temperature scaling. Picks are by the scaled NLL of
the validation rows, where each half uses the temperature of the other half. Test rows use the
temperature of the validation rows. The earlier measurement has no NLL for annealed ε, only the
result that a large fixed ε was best.""",
        AFTERWARDS,
    ),
)


def jobs(seeds: int, splits: int, epochs: int | None) -> list[Job]:
    """Return the training runs that the tables need, each once, grouped by split."""
    wanted = {
        Job(table.task, smoothing, split, seed, epochs): None
        for table in TABLES
        for split in range(splits)
        for smoothing in table.smoothings
        for seed in range(seeds)
    }
    return list(wanted)


def by_task(done: Iterable[tuple[Job, Run]]) -> dict[str, Runs]:
    found: dict[str, dict[tuple[Smoothing, int, int], Run]] = {name: {} for name in TASKS}
    for job, run in done:
        found[job.task][job.smoothing, job.split, job.seed] = run
    return dict(found)


def at_least_two(text: str) -> int:
    """Parse a number of seeds or splits."""
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text!r}; a spread needs a whole number from 2")
    return int(text)


def main() -> None:
    """Train; print the section, and write it if asked."""
    arguments = parser(__doc__)
    arguments.add_argument("--seeds", type=at_least_two, default=3, help="of each split")
    arguments.add_argument("--splits", type=at_least_two, default=6)
    arguments.add_argument("--processes", type=int, default=2)
    arguments.add_argument("--write", type=Path, help="a document to keep the section in")
    given = parse(arguments, seeds=2, splits=2)
    wanted = jobs(given.seeds, given.splits, epochs=1 if given.quick else None)
    with Pool(given.processes, torch.set_num_threads, (1,)) as pool:
        text = section(by_task(pool.imap_unordered(trained, wanted)))
    print(text)
    if given.write:
        path = given.write
        kept = path.read_text(encoding="utf-8") if path.exists() else "# Benchmark results\n"
        path.write_text(put(text, kept), encoding="utf-8")


if __name__ == "__main__":
    main()
