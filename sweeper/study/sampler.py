"""Optuna's sampler and pruner, made afresh from the spec: Optuna itself stores neither."""

import math
import warnings
from collections.abc import Container
from typing import Any, cast

import numpy as np
import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner, PercentilePruner
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

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
    """Ask TPE for the point of one ticket, before there is a trial for it.

    So the trial is born whole, in one commit, and other workers see all of its point or
    nothing. The sampler is seeded by the ticket: one seed for a whole worker would make two
    workers, or a worker started again, propose the same points.
    """
    seed = derive_seed(spec.study.seed, "sampler", ticket) % 2**32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = TPESampler(seed=seed, multivariate=True, n_startup_trials=spec.sampler.startup)
    space = {name: of for name, of in distributions(spec.space).items() if not of.single()}
    unborn = create_trial(state=TrialState.RUNNING)
    # Not the public `sample_relative`: it also writes the point down on a trial that exists,
    # for workers that would otherwise see its parameters one by one.
    seen = cast(optuna.Study, _Modelled(study, seed))
    joint = sampler._sample_relative(seen, unborn, space)
    # Where too few trials of the start have a value to model, one by one, at random.
    proposed = {
        name: joint[name] if joint else sampler.sample_independent(seen, unborn, name, of)
        for name, of in space.items()
    }
    single = from_unit(spec.space, dict.fromkeys(spec.space.dimensions, 0.0))
    return single | proposed


class _Modelled:
    """A study's trials as TPE models them: read once, and no more than `MODELLED` of them.

    TPE reads all trials twice for each proposal, and its cost grows with them. It models the
    best 25, however many there are, against the rest (Watanabe 2023, section 3.1), so of a long
    study the best are kept and the rest are a sample that the ticket draws.
    """

    def __init__(self, study: optuna.Study, seed: int) -> None:
        self._study = study
        self._seed = seed
        self._seen: list[FrozenTrial] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        if self._seen is None:
            trials = self._study._get_trials(deepcopy=False, use_cache=True)
            self._seen = modelled(trials, self._seed)
        return [trial for trial in self._seen if states is None or trial.state in states]


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
    common = {"n_startup_trials": section.startup, "n_warmup_steps": warmup_steps(section)}
    match section.name:
        case "none":
            return NopPruner()
        case "median":
            return MedianPruner(**common)
        case "percentile":
            return PercentilePruner(section.percentile, **common)


def warmup_steps(section: PrunerSection) -> int:
    """Return the first step at which a trial may be pruned."""
    return max(1, round(section.warmup * REPORTS))
