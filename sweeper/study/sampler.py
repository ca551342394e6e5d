"""Optuna's sampler and pruner, made afresh from the spec: Optuna itself stores neither."""

import warnings

import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner, PercentilePruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from sweeper.study.spec import PrunerSection, StudySpec
from sweeper.training.seeding import derive_seed

# A trial is reported to Optuna at these many points of its training, however many epochs it has.
REPORTS = 8


def make_sampler(spec: StudySpec, ticket: int) -> BaseSampler:
    """Return the sampler for one ticket, seeded by its number.

    One seed for a whole worker would make two workers, or a worker started again, propose
    the same points.
    """
    seed = derive_seed(spec.study.seed, "sampler", ticket) % 2**32
    if spec.sampler.name != "tpe":
        return RandomSampler(seed)  # never asked: the plan gives every point
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True, n_startup_trials=spec.sampler.startup)


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
