"""Optuna samplers and pruners, created from the spec because Optuna does not store them."""

import math
import warnings
from collections.abc import Container, Mapping, Sequence
from typing import Any, cast

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
)
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweeper.store.studies import EarlierTrial
from sweeper.study.baseline_search import (
    at_zero,
    baseline_startup,
    has_baseline_search,
    is_baseline_ticket,
)
from sweeper.study.dimensions import SMOOTHING_KEYS, Space
from sweeper.study.plan import start_point
from sweeper.study.space import distributions, from_unit, without_smoothing
from sweeper.study.spec import PrunerSection, StudySpec
from sweeper.training.seeds import derive_seed

# Number of steps per trial at which values can be reported to Optuna, for any number of epochs.
REPORTS = 8
# Maximum number of ended trials that are modeled, which bounds the time per proposal.
MAX_MODELED_TRIALS = 1_000
# The best trials are always modeled. TPE's group of good trials is smaller than this.
_BEST = 100


def propose(
    study: optuna.Study, spec: StudySpec, ticket: int, earlier: Sequence[FrozenTrial] = ()
) -> dict[str, Any]:
    """Let the model propose the point of a ticket, before its trial is created.

    The trial can then be created with its whole point in one commit, so that other workers never
    see a partial point. The sampler is seeded per ticket: with one seed per worker, two workers,
    or a restarted worker, would propose the same points. If fewer than `sampler.startup` trials
    have ended, as in a large first pack, the next Sobol point is returned. `earlier` are trials of
    an earlier study; see `as_frozen`.
    """
    seed = derive_seed(spec.study.seed, "sampler", ticket) % 2**32
    for_baseline = is_baseline_ticket(spec, ticket)
    space = {
        name: distribution
        for name, distribution in distributions(spec.space).items()
        if not (distribution.single() or (for_baseline and name in SMOOTHING_KEYS))
    }
    trials = [*earlier, *study._get_trials(deepcopy=False, use_cache=True)]
    if has_baseline_search(spec):
        trials = [trial for trial in trials if at_zero(trial.params) is for_baseline]
    limited_study = _LimitedStudy(study, trials, space, seed)
    startup = baseline_startup(spec) if for_baseline else spec.sampler.startup
    if limited_study.ended < startup:
        return dict(start_point(spec, ticket))
    sampler, new_trial = _sampler(spec, seed), create_trial(state=TrialState.RUNNING)
    optuna_study = cast(optuna.Study, limited_study)
    joint = sampler.sample_relative(optuna_study, new_trial, space)
    # `joint` is empty if no trial has a value to model.
    proposed = {
        name: joint[name]
        if joint
        else sampler.sample_independent(optuna_study, new_trial, name, distribution)
        for name, distribution in space.items()
    }
    single = from_unit(spec.space, dict.fromkeys(spec.space.dimensions, 0.0))
    point = single | proposed
    return without_smoothing(point, spec.space) if for_baseline else point


def _sampler(spec: StudySpec, seed: int) -> BaseSampler:
    if spec.sampler.name == "gp":
        # GPSampler models only complete trials and needs at least one.
        return GPSampler(seed=seed, n_startup_trials=1, warn_independent_sampling=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True, n_startup_trials=0)


class _LimitedStudy:
    """A view of a study with some of its trials: at most `MAX_MODELED_TRIALS` ended ones.

    TPE reads all trials twice per proposal. It compares at most the best 25 trials with the rest
    (Watanabe 2023, section 3.1). So for a long study, this view contains the best trials and a
    random sample of the rest, seeded by the ticket. Trials that lack a dimension are left out,
    because a Gaussian process cannot use them. `ended` is the number of complete and pruned trials.
    """

    def __init__(
        self,
        study: optuna.Study,
        trials: Sequence[FrozenTrial],
        space: Mapping[str, BaseDistribution],
        seed: int,
    ) -> None:
        self._study = study
        # Samplers store attributes of the trial, which does not exist yet.
        self._storage = _NullStorage()
        usable = [trial for trial in trials if space.keys() <= trial.params.keys()]
        self.ended = sum(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in usable)
        self._trials = trials_for_model(usable, seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        return [trial for trial in self._trials if states is None or trial.state in states]


class _NullStorage:
    """A storage that discards writes."""

    def set_trial_system_attr(self, *_: Any) -> None:
        """Do nothing."""


def trials_for_model(trials: list[FrozenTrial], seed: int) -> list[FrozenTrial]:
    """Return all running trials and at most `MAX_MODELED_TRIALS` ended ones, with the best."""
    ended = [trial for trial in trials if trial.state.is_finished()]
    if len(ended) <= MAX_MODELED_TRIALS:
        return trials
    ended.sort(key=_rank)
    best, rest = ended[:_BEST], ended[_BEST:]
    sampled = np.random.default_rng(seed).choice(
        len(rest), MAX_MODELED_TRIALS - _BEST, replace=False
    )
    selected = {trial.number for trial in (*best, *(rest[index] for index in sampled))}
    return [t for t in trials if t.number in selected or not t.state.is_finished()]


def _rank(trial: FrozenTrial) -> tuple[bool, float]:
    """Return a sort key that ranks trials as TPE does: complete trials before pruned ones."""
    return trial.state != TrialState.COMPLETE, math.inf if trial.value is None else trial.value


def as_frozen(trials: Sequence[EarlierTrial], space: Space) -> tuple[FrozenTrial, ...]:
    """Return trials of an earlier study as Optuna's trials, with the dimensions of `space`.

    Their numbers are negative: they are older than all trials of the study, and TPE gives older
    trials less weight.
    """
    frozen = list[FrozenTrial]()
    dimensions = distributions(space)
    for index, trial in enumerate(trials):
        is_complete = trial.step is None
        created = create_trial(
            state=TrialState.COMPLETE if is_complete else TrialState.PRUNED,
            value=trial.value if is_complete else None,
            params=dict(trial.point),
            distributions=dimensions,
            intermediate_values={} if trial.step is None else {trial.step: trial.value},
        )
        created.number = index - len(trials)
        frozen.append(created)
    return tuple(frozen)


def make_pruner(section: PrunerSection) -> BasePruner:
    """Return the pruner; its steps are 1 to `REPORTS`."""
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
            halving = SuccessiveHalvingPruner(warmup, section.reduction)
            return AfterStartup(halving, section.startup)
        case "hyperband":
            return AfterStartup(
                HyperbandPruner(warmup, max_resource=REPORTS, reduction_factor=section.reduction),
                section.startup,
            )


def warmup_steps(section: PrunerSection) -> int:
    """Return the first step at which a trial may be pruned."""
    return max(1, round(section.warmup * REPORTS))


class AfterStartup(BasePruner):
    """An Optuna pruner that prunes only after `startup` complete trials.

    The wrapped pruner is called before that too, because it stores the values at each rung as
    attributes of the trial.
    """

    def __init__(self, pruner: BasePruner, startup: int) -> None:
        self._pruner, self._startup = pruner, startup

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Return whether a trial should be pruned at its last report."""
        if not self._pruner.prune(study, trial):
            return False
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return len(complete) >= self._startup
