"""Optuna's sampler and pruner, made afresh from the spec: Optuna itself stores neither."""

import binascii
import math
import warnings
from collections.abc import Container, Mapping
from itertools import accumulate
from typing import Any, cast

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, MedianPruner, NopPruner, PercentilePruner
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweeper.study.plan import start_point
from sweeper.study.space import distributions, from_unit
from sweeper.study.spec import PrunerSection, StudySpec
from sweeper.training.seeding import derive_seed

# A trial is reported to Optuna at these many points of its training, however many epochs it has.
REPORTS = 8
# A proposal takes as long after ten thousand trials as after so many.
MODELLED = 1_000
# More than TPE takes for good; what it takes for good has to be there.
_BEST = 100


def propose(study: optuna.Study, spec: StudySpec, ticket: int) -> dict[str, Any]:
    """Ask the model for the point of one ticket, before there is a trial for it.

    So the trial is born whole, in one commit, and other workers see all of its point or
    nothing. The sampler is seeded by the ticket: one seed for a whole worker would make two
    workers, or a worker started again, propose the same points. Where fewer trials have ended
    than the start has, as in a first large pack, the start goes on.
    """
    seed = derive_seed(spec.study.seed, "sampler", ticket) % 2**32
    space = {name: of for name, of in distributions(spec.space).items() if not of.single()}
    modelled_study = _Modelled(study, space, seed)
    if modelled_study.ended < spec.sampler.startup:
        return dict(start_point(spec, ticket))
    sampler, unborn = _sampler(spec, seed), create_trial(state=TrialState.RUNNING)
    seen = cast(optuna.Study, modelled_study)
    joint = sampler.sample_relative(seen, unborn, space)
    # Where no trial has a value to model, one by one.
    proposed = {
        name: joint[name] if joint else sampler.sample_independent(seen, unborn, name, of)
        for name, of in space.items()
    }
    single = from_unit(spec.space, dict.fromkeys(spec.space.dimensions, 0.0))
    return single | proposed


def _sampler(spec: StudySpec, seed: int) -> BaseSampler:
    if spec.sampler.name == "gp":
        # It models what ran to the end alone, and cannot do without.
        return GPSampler(seed=seed, n_startup_trials=1, warn_independent_sampling=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True, n_startup_trials=0)


class _Modelled:
    """A study's trials as they are modelled: read once, and no more than `MODELLED` of them.

    TPE reads all trials twice for each proposal, and its cost grows with them. It models the
    best 25, however many there are, against the rest (Watanabe 2023, section 3.1), so of a long
    study the best are kept and the rest are a sample that the ticket draws. Trials of others that
    lack a dimension are left out: a Gaussian process cannot take them.
    """

    def __init__(
        self, study: optuna.Study, space: Mapping[str, BaseDistribution], seed: int
    ) -> None:
        self._study = study
        # Samplers write the point down on a trial that exists, for workers that would
        # otherwise see its parameters one by one.
        self._storage = _Unwritten()
        trials = study._get_trials(deepcopy=False, use_cache=True)
        self._seen = modelled([t for t in trials if space.keys() <= t.params.keys()], seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    @property
    def ended(self) -> int:
        """How many trials have something to model."""
        return len(self._get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED)))

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        return [trial for trial in self._seen if states is None or trial.state in states]


class _Unwritten:
    """A storage that keeps nothing."""

    def set_trial_system_attr(self, *_: Any) -> None:
        """Do nothing."""


def modelled(trials: list[FrozenTrial], seed: int) -> list[FrozenTrial]:
    """Return at most `MODELLED` ended trials, the best among them, and all that are running."""
    ended = [trial for trial in trials if trial.state.is_finished()]
    if len(ended) <= MODELLED:
        return trials
    ended.sort(key=_rank)
    best, rest = ended[:_BEST], ended[_BEST:]
    drawn = np.random.default_rng(seed).choice(len(rest), MODELLED - _BEST, replace=False)
    kept = {trial.number for trial in (*best, *(rest[index] for index in drawn))}
    return [t for t in trials if t.number in kept or not t.state.is_finished()]


def _rank(trial: FrozenTrial) -> tuple[bool, float]:
    """Return what sorts trials as TPE does: none that was stopped before one that was not."""
    return trial.state != TrialState.COMPLETE, math.inf if trial.value is None else trial.value


def make_pruner(section: PrunerSection) -> BasePruner:
    """Return the pruner, which decides at the steps 1 … `REPORTS`."""
    warmup = warmup_steps(section)
    common = {"n_startup_trials": section.startup, "n_warmup_steps": warmup}
    match section.name:
        case "none":
            return NopPruner()
        case "median":
            return MedianPruner(**common)
        case "percentile":
            return PercentilePruner(section.percentile, **common)
        case "halving":
            return Halving(warmup, section.reduction, section.startup, brackets=1)
        case "hyperband":
            brackets = len(rungs(warmup, section.reduction, last=REPORTS))
            return Halving(warmup, section.reduction, section.startup, brackets)


def warmup_steps(section: PrunerSection) -> int:
    """Return the first step at which a trial may be pruned."""
    return max(1, round(section.warmup * REPORTS))


def rungs(first: int, reduction: int, last: int) -> list[int]:
    """Return the steps first · reduction^k up to the last."""
    steps = list[int]()
    while (step := first * reduction ** len(steps)) <= last:
        steps.append(step)
    return steps


class Halving(BasePruner):
    """Asynchronous successive halving (Li et al. 2020), in as many brackets as Hyperband has.

    It decides as Optuna's `SuccessiveHalvingPruner` and `HyperbandPruner` do: of those that come
    to a rung, the best 1/`reduction` go on; bracket k has no rung before `first` · reduction^k.
    Optuna writes what a trial had at a rung down as an attribute of it, a commit more; that is
    its first report from there on, so it is read from the reports.
    """

    def __init__(self, first: int, reduction: int, startup: int, brackets: int) -> None:
        self._reduction, self._startup = reduction, startup
        self._rungs = [
            rungs(first * reduction**bracket, reduction, REPORTS - 1) for bracket in range(brackets)
        ]
        # Hyperband's shares: each bracket has about as much training as another.
        self._shares = [
            math.ceil(brackets * reduction**left / (left + 1)) for left in reversed(range(brackets))
        ]

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Return whether a trial is to be pruned at its last report."""
        trials = study.get_trials(deepcopy=False)
        step = trial.last_step
        complete = sum(other.state == TrialState.COMPLETE for other in trials)
        if step is None or complete < self._startup:
            return False
        bracket = self._bracket(study, _number(trial, trials))
        others = [
            other
            for other in trials
            if other._trial_id != trial._trial_id and self._bracket(study, other.number) == bracket
        ]
        before = max((s for s in trial.intermediate_values if s < step), default=0)
        new = [rung for rung in self._rungs[bracket] if before < rung <= step]
        return any(self._falls(trial.intermediate_values[step], others, rung) for rung in new)

    def _falls(self, value: float, others: list[FrozenTrial], rung: int) -> bool:
        values = [_at_rung(other, rung) for other in others]
        competing = sorted([value, *(v for v in values if v is not None)])
        # The first few, too few for a share of them: the best alone goes on.
        last = max(len(competing) // self._reduction, 1) - 1
        return not value <= competing[last]

    def _bracket(self, study: optuna.Study, number: int) -> int:
        if len(self._rungs) == 1:
            return 0
        drawn = binascii.crc32(f"{study.study_name}_{number}".encode()) % sum(self._shares)
        return next(k for k, upper in enumerate(accumulate(self._shares)) if drawn < upper)


def _number(trial: FrozenTrial, trials: list[FrozenTrial]) -> int:
    return next((t.number for t in trials if t._trial_id == trial._trial_id), trial.number)


def _at_rung(trial: FrozenTrial, rung: int) -> float | None:
    """Return the first report at a rung or past it."""
    steps = [step for step in trial.intermediate_values if step >= rung]
    return trial.intermediate_values[min(steps)] if steps else None
