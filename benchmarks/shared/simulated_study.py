"""Studies without training: simulated scores with the noise of seeds and examples, and known truth.

A search and a confirmation use the study's own code: its plan, shortlist, pick, seeds and verdict.
Only the scores of training runs are simulated. The loss of a configuration c on example i, trained
on seed s, is that of ε = 0 on the same seed and example plus a difference:

    effect(c)                  the true effect of c, over all seeds and examples
    + seed_sd    · z(c, s)     the effect of the seed on c, on any examples
    + example_sd · v(c, i)     the effect of c on this example, on any seed; mean 0 over examples
    + rest_sd    · w(c, s, i)
    + train_sd   · t(c, split) the effect of c on this training set, a mean over its rows

Half of z is the noise of the baseline, common to all c, and half that of c. As in real training
runs, half of the latter is shared by similar configurations, so smoothing over neighbors does not
remove it. v is mostly common to all c.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import pandas as pd

from sweeper.confirmation.design import Assignment, plan_assignments
from sweeper.confirmation.evidence import Evidence, Replicate
from sweeper.confirmation.intervals import Floats, resplit_interval
from sweeper.confirmation.shortlist import eligible_trials, select_candidates
from sweeper.confirmation.verdict import verdict
from sweeper.smoothing import Smoothing
from sweeper.study.dimensions import Space
from sweeper.study.plan import plan
from sweeper.study.results import TRIAL_COLUMNS
from sweeper.study.space import canonical, effective_smoothing, from_unit
from sweeper.study.spec import StudySpec

Point = Mapping[str, Any]
Tail = Literal["none", "left", "right"]

CLASSES: Final = 10
# The losses of ε = 0: mean and standard deviation over examples, in nats.
LEVEL: Final = 0.11
LEVEL_SD: Final = 0.6
# With ten classes, a classifier is rarely right where its loss is above this.
WRONG_ABOVE: Final = 0.7
# Shares of variance; the distances are of `Nature.place`.
COMMON: Final = 0.85
NEAR_LUCK: Final = 0.5
NEAR: Final = 0.06
ALIKE: Final = 0.5
FEATURES: Final = 12
# The logarithm's sd that gives the per-example differences the tails of those of digits.
TAIL: Final = 1.0
GATES: Final = {"confidence": 0.97, "error": 0.05}


@dataclass(frozen=True)
class World:
    """The distribution of scores, in nats; the module describes its parts.

    The standard deviations are those of the difference from ε = 0. `effect` is that of the best
    configuration, negative where smoothing helps. `tail` is the side of the few examples with the
    largest effect of smoothing; `rows` are the numbers of train, valid and test rows.
    """

    effect: float = 0.0
    seed_sd: float = 0.0045
    example_sd: float = 0.25
    rest_sd: float = 0.11
    train_sd: float = 0.0
    tail: Tail = "none"
    rows: tuple[int, int, int] = (1080, 360, 360)

    @property
    def run_sd(self) -> float:
        """The sd of the difference of one run, over seeds and samples of test examples."""
        return math.sqrt(self._of_seed + self.example_sd**2 / self.rows[2])

    @property
    def example_share(self) -> float:
        """The share of the examples in that variance, which more seeds do not reduce."""
        return self.example_sd**2 / self.rows[2] / self.run_sd**2

    @property
    def _of_seed(self) -> float:
        return self.seed_sd**2 + self.rest_sd**2 / self.rows[2]


def world(run_sd: float, example_share: float, effects: float = 0.0, **more: Any) -> World:
    """Return a world with an sd of one run's difference and an effect of so many sds."""
    made = World(**more)
    of_seed, count = (1 - example_share) * run_sd**2, made.rows[2]
    return World(
        **vars(made)
        | {
            "effect": -effects * run_sd,
            "seed_sd": math.sqrt(of_seed / 2),
            "rest_sd": math.sqrt(of_seed / 2 * count),
            "example_sd": math.sqrt(example_share * run_sd**2 * count),
        }
    )


class Nature:
    """One random draw of a world: its examples, and the losses of each run on them.

    Values are drawn when they are first needed, so they depend on that order, and are kept.
    """

    def __init__(self, world: World, spec: StudySpec, rng: np.random.Generator) -> None:
        self.world, self.spec, self.rng = world, spec, rng
        self.pool = sum(world.rows)
        sigma = math.sqrt(math.log1p((LEVEL_SD / LEVEL) ** 2))
        self.base = LEVEL * np.exp(sigma * rng.standard_normal(self.pool) - sigma**2 / 2)
        self.weight = _heavy(rng, self.pool) if world.tail != "none" else np.ones(self.pool)
        self.common = _standard(rng, self.pool, world.tail)
        self.trained = rng.standard_normal(self.pool)
        dimensions = 2 + len(spec.space.schedule)
        self.alike, self.near = (
            rng.standard_normal((FEATURES, dimensions)) / length for length in (ALIKE, NEAR)
        )
        self._field = rng.standard_normal((2 * FEATURES, self.pool))
        self._trained_field = rng.standard_normal((2 * FEATURES, self.pool))
        self._kept: dict[Any, Any] = {}

    def truth(self, point: Point, data_seed: int | None = None) -> float:
        """Return the true difference from ε = 0, on one training set or over all of them."""
        if point["epsilon"] == 0:
            return 0.0
        true = self.world.effect * shape(point)
        return true if data_seed is None else true + self._suits(point, data_seed)

    def expected(self, point: Point, seed: int, data_seed: int) -> float:
        """Return the mean of a validation score over all seeds that are as good as this at ε = 0.

        The common effect of a seed on all configurations does not bias the choice among them.
        """
        rows = self.rows(data_seed)["valid"]
        level = self.base[rows].mean() + self.world.seed_sd * self._once("seed", seed, self._normal)
        if point["epsilon"] == 0:
            return float(level)
        own = self.world.example_sd * self._suited(point)[rows].mean()
        return float(level + self.truth(point, data_seed) + own)

    def run(self, point: Point, seed: int, data_seed: int, split: str) -> Floats:
        """Return the loss of each validation or test example after one training run."""
        return self._losses(point, seed, data_seed, self.rows(data_seed)[split])

    def rows(self, data_seed: int) -> dict[str, Any]:
        """Return the rows of the pool in each split."""
        rows: dict[str, Any] = self._once("rows", data_seed, self._drawn)
        return rows

    def _drawn(self) -> dict[str, Any]:
        parts = np.split(self.rng.permutation(self.pool), np.cumsum(self.world.rows)[:-1])
        return dict(zip(("train", "valid", "test"), parts, strict=True))

    def place(self, point: Point) -> Floats:
        """Return the coordinates of a configuration; schedule and rate are scaled by ε."""
        space = self.spec.space
        smoothing = Smoothing(*effective_smoothing(point))
        epsilon = smoothing.epsilon / space.epsilon.high
        low, high = math.log(space.rate.low), math.log(space.rate.high)
        rate = 0.0 if smoothing.rate is None else (math.log(smoothing.rate) - low) / (high - low)
        names = [float(smoothing.schedule == name) for name in space.schedule]
        return epsilon * np.array([1.0, rate, *(math.sqrt(0.5) * np.array(names))])

    def _losses(self, point: Point, seed: int, data_seed: int, rows: Any) -> Floats:
        world, shared = self.world, self._once("seed", seed, self._normal)
        losses = self.base[rows] + world.seed_sd * shared
        if point["epsilon"] == 0:
            return np.asarray(losses)
        rest = self.weight[rows] * self.rng.standard_normal(len(rows))
        return np.asarray(
            losses
            + self.truth(point, data_seed)
            + world.seed_sd * self._luck(point, seed)
            + world.example_sd * self._suited(point)[rows]
            + world.rest_sd * rest
        )

    def _luck(self, point: Point, seed: int) -> float:
        """Return z: the half of the baseline, the part shared nearby, and the part of this run."""
        baseline: float = self._once("baseline", seed, self._normal)
        weights = self._once("near", seed, lambda: self.rng.standard_normal(2 * FEATURES))
        near = float(_features(self.near @ self.place(point)) @ weights)
        alone: float = self._once("alone", (canonical(point, Space()), seed), self._normal)
        own = math.sqrt(NEAR_LUCK) * near + math.sqrt(1 - NEAR_LUCK) * alone
        return math.sqrt(0.5) * (baseline + own)

    def _suited(self, point: Point) -> Floats:
        """Return v on the whole pool."""
        drawn: Floats = self._once("suited", canonical(point, Space()), lambda: self._mixed(point))
        return drawn

    def _mixed(self, point: Point) -> Floats:
        own = self.weight * (_features(self.alike @ self.place(point)) @ self._field)
        return np.asarray(math.sqrt(COMMON) * self.common + math.sqrt(1 - COMMON) * own)

    def _suits(self, point: Point, data_seed: int) -> float:
        """Return t in nats."""
        if self.world.train_sd == 0:
            return 0.0
        rows = self.rows(data_seed)["train"]
        own = (_features(self.alike @ self.place(point)) @ self._trained_field)[rows].mean()
        mean = math.sqrt(COMMON) * self.trained[rows].mean() + math.sqrt(1 - COMMON) * own
        return float(self.world.train_sd * math.sqrt(len(rows)) * mean)

    def _once(self, what: str, key: Any, draw: Any) -> Any:
        if (what, key) not in self._kept:
            self._kept[what, key] = draw()
        return self._kept[what, key]

    def _normal(self) -> float:
        return float(self.rng.standard_normal())


def shape(point: Point) -> float:
    """Return the effect of a configuration relative to the best one.

    As on digits, much ε helps if it is annealed by the end of training; ε that is left then hurts.
    """
    epsilon, smoothing = point["epsilon"] / 0.3, Smoothing(*effective_smoothing(point))
    gate = GATES.get(smoothing.schedule)
    left = smoothing.at(1.0) if gate is None else smoothing.epsilon * gate ** (smoothing.rate or 1)
    return float(epsilon * math.exp(1 - epsilon) - (left / 0.1) ** 2)


def _features(angles: Floats) -> Floats:
    """Return random Fourier features, whose products form a kernel of unit variance."""
    return np.concatenate([np.cos(angles), np.sin(angles)]) / math.sqrt(FEATURES)


def _heavy(rng: np.random.Generator, count: int) -> Floats:
    """Return weights whose squares have mean 1, so that most examples hardly change."""
    return np.asarray(np.exp(TAIL * rng.standard_normal(count) - TAIL**2))


def _standard(rng: np.random.Generator, count: int, tail: Tail) -> Floats:
    """Return draws with mean 0, variance 1 and a tail on one side."""
    if tail == "none":
        return rng.standard_normal(count)
    mean, square = math.exp(TAIL**2 / 2), math.exp(2 * TAIL**2)
    drawn = (np.exp(TAIL * rng.standard_normal(count)) - mean) / math.sqrt(square - mean**2)
    return np.asarray(drawn if tail == "right" else -drawn)


# The search


def search(nature: Nature) -> pd.DataFrame:
    """Return the trials of a search, in the columns of real ones.

    The first trials follow the study's plan, later ones are proposed near the best so far. A trial
    whose loss half-way is above the median is pruned.
    """
    spec, rows = nature.spec, list[dict[str, Any]]()
    for number, given in enumerate(plan(spec, {})):
        point = _proposed(spec, rows, nature.rng) if given is None else given
        rows.append(_trial(nature, number, point, rows))
    types = {"copied_from": "Int64"}
    return pd.DataFrame(rows).reindex(columns=list(TRIAL_COLUMNS)).astype(types)


def _trial(
    nature: Nature, number: int, point: Point, before: list[dict[str, Any]]
) -> dict[str, Any]:
    seed = nature.spec.study.seed
    losses = nature.run(point, seed, seed, "valid")
    halfway = float(losses.mean() + 2 * nature.world.run_sd * nature.rng.standard_normal())
    enough = number >= nature.spec.pruner.startup
    pruned = enough and halfway > np.median([row["halfway"] for row in before])
    smoothing = Smoothing(*effective_smoothing(point))
    return {
        "number": number,
        "ticket": number,
        "state": "pruned" if pruned else "complete",
        "epsilon": smoothing.epsilon,
        "schedule": smoothing.schedule,
        "rate": math.nan if smoothing.rate is None else smoothing.rate,
        "value": math.nan if pruned else float(losses.mean()),
        "nll": float(losses.mean()),
        "accuracy": float((losses < WRONG_ABOVE).mean()),
        "halfway": halfway,
        "point": point,
    }


def _proposed(spec: StudySpec, rows: list[dict[str, Any]], rng: np.random.Generator) -> Point:
    """Return a point near one of the best quarter, or sometimes anywhere, similar to TPE."""
    done = sorted((row for row in rows if row["state"] == "complete"), key=lambda r: r["value"])
    good = done[: max(1, len(done) // 4)]
    drawn = dict(zip(spec.space.dimensions, rng.random(3).tolist(), strict=True))
    anywhere = from_unit(spec.space, drawn)
    if rng.random() < 1 / (len(good) + 1):
        return anywhere
    of = good[rng.integers(len(good))]["point"]
    high, rate = spec.space.epsilon.high, spec.space.rate
    moved = abs(of["epsilon"] + 0.12 * high * rng.standard_normal())
    paced = of["rate"] * (rate.high / rate.low) ** (0.12 * rng.standard_normal())
    return {
        "epsilon": min(moved, 2 * high - moved),
        "schedule": of["schedule"] if rng.random() < 0.8 else anywhere["schedule"],
        "rate": min(max(paced, rate.low), rate.high),
    }


# The confirmation


def confirmed(nature: Nature, trials: pd.DataFrame) -> Evidence:
    """Return the evidence of a confirmation, with the seeds that it would train on."""
    spec = nature.spec
    chosen = select_candidates(spec, trials, CLASSES)
    replicates = [_replicate(nature, one) for one in plan_assignments(spec, "confirm", 1, chosen)]
    return Evidence(1, spec.objective.metric, spec.confirm, chosen, replicates)


def _replicate(nature: Nature, one: Assignment) -> Replicate:
    losses = {
        split: nature.run(one.point, one.seed, one.data_seed, split) for split in ("valid", "test")
    }
    scores = {
        split: {"nll": float(of.mean()), "accuracy": float((of < WRONG_ABOVE).mean())}
        for split, of in losses.items()
    }
    rows = dict(zip(("train", "valid", "test"), nature.world.rows, strict=True))
    test = losses["test"]
    examples = {"nll": test, "correct": (test < WRONG_ABOVE).astype(float)}
    return Replicate(one.candidate, one.replicate, one.seed, scores, rows, examples)


class Found(NamedTuple):
    """The verdict of one simulated study, and the truth.

    Differences from ε = 0 in nats: `truth` is that of the pick, `selected` of the trial with the
    lowest value, `best` of the best trial. A curse is the optimism of a value of the search on the
    same validation split: of the pick's trial, of its smoothed value, of the luckiest trial.
    `alone` is the verdict of an interval from seeds alone.
    """

    word: str
    exported: bool
    estimate: float
    low: float
    high: float
    truth: float
    selected: float
    best: float
    curse: float
    smoothed_curse: float
    selected_curse: float
    alone: str
    finished: int


@dataclass(frozen=True)
class Simulated:
    """One study from its search to its verdict."""

    world: World
    seed: int
    settings: Mapping[str, Any]

    @cached_property
    def nature(self) -> Nature:
        """The draw of the world for this seed."""
        spec = {"study": {"name": "s", "seed": self.seed}, "task": {"use": "digits"}}
        read = StudySpec.model_validate(spec | {"confirm": dict(self.settings)})
        return Nature(self.world, read, np.random.default_rng([self.seed, 1]))

    @cached_property
    def trials(self) -> pd.DataFrame:
        return search(self.nature)

    @cached_property
    def evidence(self) -> Evidence:
        return confirmed(self.nature, self.trials)

    def found(self, replicates: int | None = None) -> Found:
        """Return the verdict from all replicates or from the first few."""
        evidence = self.evidence if replicates is None else first(self.evidence, replicates)
        said, pick = verdict(evidence), evidence.candidates[evidence.pick]
        if said is None:
            raise ValueError(f"{replicates} replicates; a verdict needs two")
        difference = said.comparison.difference
        tried = eligible_trials(self.nature.spec, self.trials)
        points = [_tried(*row) for row in tried[["epsilon", "schedule", "rate"]].itertuples(False)]
        truths = [self._truth(point) for point in points]
        return Found(
            word=said.word,
            exported=said.recommended is said.pick,
            estimate=difference.estimate,
            low=difference.low,
            high=difference.high,
            truth=self._truth(pick.point),
            selected=truths[0],
            best=min(truths),
            curse=self._curse(pick.point, pick.searched),
            smoothed_curse=self._curse(pick.point, pick.smoothed),
            selected_curse=self._curse(points[0], float(tried["value"].iloc[0])),
            alone=alone(evidence),
            finished=len(tried),
        )

    def _truth(self, point: Point) -> float:
        resplit = self.nature.spec.confirm.resplit
        return self.nature.truth(point, None if resplit else self.seed)

    def _curse(self, point: Point, value: float | None) -> float:
        if value is None:
            return math.nan
        return self.nature.expected(point, self.seed, self.seed) - value


def first(evidence: Evidence, replicates: int) -> Evidence:
    """Return the evidence of a confirmation with fewer replicates."""
    kept = [one for one in evidence.replicates if one.number < replicates]
    return Evidence(1, evidence.metric, evidence.settings, evidence.candidates, kept)


def alone(evidence: Evidence) -> str:
    """Return the verdict on the pick from an interval of seeds alone."""
    pairs = evidence.pairs(evidence.pick)
    found = resplit_interval(
        np.array([(a.examples["nll"] - b.examples["nll"]).mean() for a, b in pairs]), 0
    )
    if found.low <= 0 <= found.high:
        return "no benefit shown"
    return "helps" if found.estimate < 0 else "hurts"


def _tried(epsilon: float, schedule: str, rate: float) -> Point:
    return {"epsilon": epsilon, "schedule": schedule, "rate": 1.0 if math.isnan(rate) else rate}
