"""Optuna's sampler and pruner, made afresh from the spec: Optuna itself stores neither."""

import warnings
from collections.abc import Container
from typing import Any, cast

import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner, PercentilePruner
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweeper.study.space import distributions, from_unit
from sweeper.study.spec import PrunerSection, StudySpec
from sweeper.training.seeding import derive_seed

# A trial is reported to Optuna at these many points of its training, however many epochs it has.
REPORTS = 8


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
    seen = cast(optuna.Study, _ReadOnce(study))
    joint = sampler._sample_relative(seen, unborn, space)
    # Where too few trials of the start have a value to model, one by one, at random.
    proposed = {
        name: joint[name] if joint else sampler.sample_independent(seen, unborn, name, of)
        for name, of in space.items()
    }
    single = from_unit(spec.space, dict.fromkeys(spec.space.dimensions, 0.0))
    return single | proposed


class _ReadOnce:
    """A study whose trials are read once: TPE reads all of them twice for each proposal."""

    def __init__(self, study: optuna.Study) -> None:
        self._study = study

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        return self._study._get_trials(deepcopy, states, use_cache=True)


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
