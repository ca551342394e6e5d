"""One real study on a few images, and the truth from many images and seeds that it never used."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, Final, NamedTuple

import numpy as np
from torch import Tensor
from torch.nn import functional

import sweeper
from benchmarks.shared.pack_training import pack_evaluations
from benchmarks.shared.tasks.fashion import fashion
from sweeper.confirmation.diagnostics import EDGE
from sweeper.confirmation.evidence import Evidence
from sweeper.confirmation.intervals import Floats, Interval, two_way_interval
from sweeper.errors import SweeperError
from sweeper.smoothing import Smoothing
from sweeper.study.space import Point, effective_smoothing
from sweeper.training import Task, TrainingRun
from sweeper.training.seeds import derive_seed

TEST_ROWS: Final = 1000
ZERO: Final = Smoothing(0.0)
FIXED: Final = tuple(map(Smoothing, (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)))
RATES: Final = (1.0, 3.0, 9.0)
ANNEALED: Final = tuple(
    Smoothing(epsilon, schedule, rate)
    for schedule, epsilon, rate in product(
        ("linear", "cosine", "step", "exponential", "confidence", "error"),
        (0.1, 0.2, 0.4, 0.6, 0.8),
        RATES,
    )
)
DENSE: Final = (ZERO, *FIXED, *ANNEALED)
# What one would try by hand: 36 configurations, which cost as much as a study on three seeds.
BY_HAND: Final = (
    ZERO,
    *FIXED,
    *(s for s in ANNEALED if s.schedule in ("linear", "cosine", "step") and s.epsilon <= 0.4),
)
FIXED_BY_HAND: Final = (ZERO, *FIXED)
PACK: Final = 32
# Mean difference of the losses of a model that is trained again: only the order of sums may differ.
# Models of two seeds differ by 0.07 or more.
SAME_LOSS: Final = 0.01


@dataclass(frozen=True)
class Plan:
    """What a draw trains and measures.

    `high` is the upper end of the range of ε. `held_out` is the number of images that give the
    truth. Without a `grid`, the export is not compared. `settings` are other keys of the study.
    """

    folder: str
    high: float
    held_out: int = 20_000
    fresh_seeds: int = 20
    grid_seeds: int = 3
    grid: Sequence[Smoothing] = DENSE
    redraws: int = 200
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> dict[str, Any]:
        """What two draws must have in common to be in the same table."""
        own = {name: value for name, value in vars(self).items() if name not in ("folder", "grid")}
        return {**own, "grid": len(self.grid)}


class Kind(NamedTuple):
    """The task of a draw."""

    train_rows: int
    epochs: int
    weight_decay: float
    label_noise: float

    @classmethod
    def of(cls, number: int, *, noisy: bool) -> "Kind":
        """Return the kind of a draw: networks that fit the training rows more and less well."""
        kinds = ((500, 30, 0.0), (500, 15, 0.0), (500, 30, 1.0), (2000, 10, 0.0))
        noise = (0.2, 0.4)[number // len(kinds) % 2] if noisy else 0.0
        return cls(*kinds[number % len(kinds)], noise)


def measure_draw(plan: Plan, number: int, *, noisy: bool) -> dict[str, Any]:
    """Run one study; return what it said and what is true."""
    began, kind = perf_counter(), Kind.of(number, noisy=noisy)
    options = {"folder": plan.folder, **kind._asdict()}
    study = run_study(plan, number, options)
    seconds = perf_counter() - began
    task = fashion(**options, test_rows=TEST_ROWS + plan.held_out)
    truth = Truth(task, number, plan.fresh_seeds)
    return {
        "noisy": noisy,
        "number": number,
        "plan": plan.identity,
        "kind": kind._asdict(),
        **said(study),
        **checked_against(truth, study.evidence, plan),
        **(compared_with_grids(truth, study, plan) if plan.grid else {}),
        "study_seconds": round(seconds, 1),
        "seconds": round(perf_counter() - began, 1),
    }


def run_study(plan: Plan, seed: int, options: Mapping[str, Any]) -> sweeper.StudySnapshot:
    """Run a study with the default settings through the public API; return its snapshot."""
    tables: dict[str, Any] = {"space": {"epsilon": {"low": 0.0, "high": plan.high}}}
    with TemporaryDirectory() as folder:
        study = sweeper.launch(
            fashion,
            name="draw",
            seed=seed,
            options={**options, "test_rows": TEST_ROWS},
            workers=0,
            storage=f"{folder}/draw.db",
            results=f"{folder}/results",
            on_progress=lambda _: None,
            **tables,
            **plan.settings,
        )
        snapshot = study.snapshot()
        evidence = snapshot.evidence
        if evidence is None or snapshot.verdict is None:
            raise SweeperError(f"draw {seed} has no verdict: {snapshot.unconfirmed}")
        for replicate in evidence.replicates:
            replicate.examples["nll"]  # read now, because the database is removed
        study.close()
        return snapshot


# Truth


class Truth:
    """Losses on all test rows, of models that are trained here on the draw's training set."""

    def __init__(self, task: Task, number: int, fresh_seeds: int) -> None:
        self._task, self._number = task, number
        self._seeds = self._derived("truth", fresh_seeds)
        self._fresh: dict[Smoothing, Floats] = {}

    def losses(self, smoothing: Smoothing, seeds: Sequence[int]) -> Floats:
        """Return the losses (n, N) of a configuration on seeds."""
        return np.stack([test for _, test in self._trained([(smoothing, seed) for seed in seeds])])

    def fresh(self, smoothing: Smoothing) -> Floats:
        """Return the losses (n, N) on the held-out rows and on seeds that nothing else uses."""
        if smoothing not in self._fresh:
            self._fresh[smoothing] = self.losses(smoothing, self._seeds)[:, TEST_ROWS:]
        return self._fresh[smoothing]

    def grid(self, grid: Sequence[Smoothing], seeds: int) -> tuple[Floats, Floats]:
        """Return validation and held-out means (G,) of configurations over seeds of their own."""
        runs = [(smoothing, seed) for smoothing in grid for seed in self._derived("grid", seeds)]
        means = [(valid, test[TEST_ROWS:].mean()) for valid, test in self._trained(runs)]
        valid, held_out = np.array(means).reshape(len(grid), seeds, 2).mean(1).T
        return valid, held_out

    def _derived(self, use: str, count: int) -> list[int]:
        return [derive_seed(self._number, use, place) % 2**32 for place in range(count)]

    def _trained(self, runs: Sequence[tuple[Smoothing, int]]) -> Iterator[tuple[float, Floats]]:
        """Yield the validation loss and the losses (N,) of the test rows of each run at its end."""
        for start in range(0, len(runs), PACK):
            pack = [TrainingRun(*run, self._number) for run in runs[start : start + PACK]]
            ends = dict[int, tuple[float, Floats]]()
            for place, epoch, last in pack_evaluations(self._task, pack, self._task.epochs):
                if epoch == self._task.epochs:  # now, because the next training changes the weights
                    valid = float(_nll(last.logits, last.labels).mean())
                    ends[place] = valid, _nll(*last.splits["test"]())
            yield from (ends[place] for place in range(len(pack)))


def _nll(logits: Tensor, labels: Tensor) -> Floats:
    return np.asarray(functional.cross_entropy(logits, labels, reduction="none"), dtype=float)


def smoothing_of(point: Point) -> Smoothing:
    epsilon, schedule, rate = effective_smoothing(point)
    return Smoothing(epsilon, schedule, rate)


# What a draw measures


def said(study: sweeper.StudySnapshot) -> dict[str, Any]:
    """Return the verdict, the pick and the ends of the ranges that it is at."""
    verdict = study.verdict
    assert verdict is not None
    difference = verdict.comparison.difference
    epsilon, schedule, rate = effective_smoothing(verdict.pick.point)
    rates, high = study.spec.space.rate, study.spec.space.epsilon.high
    share = None if rate is None else np.log(rate / rates.low) / np.log(rates.high / rates.low)
    return {
        "word": verdict.word,
        "estimate": difference.estimate,
        "lower": difference.low,
        "upper": difference.high,
        "pick": [epsilon, schedule, rate],
        "epsilon_at_end": bool(epsilon / high >= 1 - EDGE),
        "rate_at_end": share is not None and not bool(EDGE < share < 1 - EDGE),
    }


def checked_against(truth: Truth, evidence: Evidence | None, plan: Plan) -> dict[str, Any]:
    """Return the true difference, and how often intervals of redrawn samples contain it."""
    assert evidence is not None
    pairs = evidence.pairs(evidence.pick)
    seeds = [one.seed for one, _ in pairs]
    compared = [
        smoothing_of(evidence.candidates[place].point)
        for place in (evidence.pick, evidence.reference)
    ]
    pick, zero = (truth.losses(smoothing, seeds) for smoothing in compared)
    for pair, *again in zip(pairs, pick, zero, strict=True):
        for stored, losses in zip(pair, again, strict=True):
            if np.abs(stored.examples["nll"] - losses[:TEST_ROWS]).mean() > SAME_LOSS:
                raise SweeperError("a model of the confirmation cannot be trained again")
    fresh = truth.fresh(compared[0]) - truth.fresh(compared[1])
    differences = np.concatenate([(pick - zero)[:, TEST_ROWS:], fresh])
    intervals = redrawn(differences, len(seeds), plan.redraws)
    mean = differences.mean()
    return {
        "truth": float(fresh.mean()),
        "truth_error": float(fresh.mean(1).std(ddof=1) / np.sqrt(len(fresh))),
        "example_share": example_share(differences),
        "redraws": plan.redraws,
        "contain": sum(bool(one.low <= mean <= one.high) for one in intervals),
        "below": sum(bool(one.high < mean) for one in intervals),
        "above": sum(bool(one.low > mean) for one in intervals),
        "say_helps": sum(bool(one.high < 0) for one in intervals),
        "say_hurts": sum(bool(one.low > 0) for one in intervals),
        "mean": float(mean),
    }


def redrawn(differences: Floats, seeds: int, redraws: int) -> list[Interval]:
    """Return intervals of samples of the seeds and of the held-out rows, as large as a study's.

    Both are drawn with replacement, so the mean of all differences (n, N) is exactly the truth.
    """
    rng = np.random.default_rng(0)
    found = []
    for _ in range(redraws):
        of_seeds = rng.integers(0, len(differences), seeds)
        rows = rng.integers(0, differences.shape[1], TEST_ROWS)
        found.append(two_way_interval(differences[np.ix_(of_seeds, rows)]))
    return found


def example_share(differences: Floats) -> float:
    """Return the share of the test rows in the variance of one run's difference."""
    of_rows = differences.mean(0).var(ddof=1) / TEST_ROWS
    return float(of_rows / (of_rows + differences.mean(1).var(ddof=1)))


def compared_with_grids(truth: Truth, study: sweeper.StudySnapshot, plan: Plan) -> dict[str, Any]:
    """Return true losses on the same fresh seeds: of the export, ε = 0 and the best of grids."""
    assert study.recommended is not None
    valid, held_out = truth.grid(plan.grid, plan.grid_seeds)
    inside = [one for one in plan.grid if one.epsilon <= plan.high]
    chosen = {
        "export": smoothing_of(study.recommended.point),
        "zero": ZERO,
        "by_hand": _lowest(BY_HAND, plan.grid, valid),
        "fixed_by_hand": _lowest(FIXED_BY_HAND, plan.grid, valid),
        "dense": _lowest(inside, plan.grid, held_out),
        "wider": _lowest(plan.grid, plan.grid, held_out),
    }
    return {name: float(truth.fresh(smoothing).mean()) for name, smoothing in chosen.items()} | {
        "chosen": {name: [s.epsilon, s.schedule, s.rate] for name, s in chosen.items()},
        "runs_study": len(study.frame) + len(study.evidence.replicates if study.evidence else ()),
        "runs_by_hand": plan.grid_seeds * sum(one in BY_HAND for one in plan.grid),
    }


def _lowest(among: Sequence[Smoothing], grid: Sequence[Smoothing], losses: Floats) -> Smoothing:
    """Return the configuration with the lowest loss among some of a grid."""
    places = [place for place, one in enumerate(grid) if one in among]
    return grid[min(places, key=lambda place: losses[place])]
