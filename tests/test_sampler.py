"""What a model proposes and from which trials, and which trials are pruned."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.pruners import BasePruner, HyperbandPruner, SuccessiveHalvingPruner
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweeper.store.database import open_writer
from sweeper.study.plan import plan, start_point
from sweeper.study.sampler import (
    MAX_MODELED_TRIALS,
    REPORTS,
    make_pruner,
    propose,
    trials_for_model,
)
from sweeper.study.space import Point, distributions
from sweeper.study.spec import PrunerSection, StudySpec
from sweeper.study.trials import (
    PrunerReports,
    clear_trial_cache,
    create_optuna_study,
    create_optuna_trial,
    open_optuna_study,
    tell,
)

SPACE: dict[str, BaseDistribution] = {"epsilon": FloatDistribution(0.0, 0.4)}
MODELS = ("tpe", "gp")


def spec_of(sampler: str = "tpe", startup: int = 16, **tables: Any) -> StudySpec:
    chosen = {"name": sampler, "startup": startup}
    given = {"study": {"name": "s"}, "task": {"use": "digits"}, "sampler": chosen}
    return StudySpec.model_validate({**given, **tables})


SPEC = spec_of()


def add(study: optuna.Study, point: Point, state: TrialState = TrialState.COMPLETE) -> None:
    """Add a trial; its value is lowest at ε = 0.3 of the linear schedule."""
    value = abs(point["epsilon"] - 0.3) + 0.2 * (point["schedule"] != "linear")
    study.add_trial(
        create_trial(
            state=state,
            value=value if state == TrialState.COMPLETE else None,
            params=dict(point),
            distributions=distributions(SPEC.space),
        )
    )
    clear_trial_cache(study)


def begun(sampler: str, **more: Any) -> optuna.Study:
    """Return a study whose start has ended."""
    study = optuna.create_study(**more)
    spec = spec_of(sampler, startup=24, budget={"trials": 24})
    for point in plan(spec, {}):
        assert point is not None
        add(study, point)
    return study


def trials(count: int) -> list[FrozenTrial]:
    """Return finished trials, a third of them pruned; the best are in the middle."""
    made = []
    for number in range(count):
        trial = create_trial(
            state=TrialState.PRUNED if number % 3 == 2 else TrialState.COMPLETE,
            value=abs(count / 2 - number) / (1000.0 if number % 3 == 2 else 1.0),
            params={"epsilon": 0.1},
            distributions=SPACE,
        )
        trial.number = number
        made.append(trial)
    return made


def running(number: int) -> FrozenTrial:
    trial = create_trial(state=TrialState.RUNNING, params={"epsilon": 0.1}, distributions=SPACE)
    trial.number = number
    return trial


def test_slow_startup_is_not_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeper.study.sampler.MAX_MODELED_TRIALS", 20)
    monkeypatch.setattr("sweeper.study.sampler._BEST", 10)
    study = begun("tpe")
    for startup, started in ((25, True), (24, False)):
        proposed = propose(study, spec_of(startup=startup), 40)
        assert (proposed == start_point(spec_of(), 40)) is started


def test_small_study_is_modeled_completely() -> None:
    every = [*trials(MAX_MODELED_TRIALS), running(MAX_MODELED_TRIALS)]
    assert trials_for_model(every, seed=0) == every


def test_large_study_is_modeled_by_a_subset() -> None:
    every = [*trials(5000), running(5000)]
    found = trials_for_model(every, seed=0)
    numbers = [trial.number for trial in found]
    assert len(found) == MAX_MODELED_TRIALS + 1
    assert numbers == sorted(numbers)
    assert numbers[-1] == 5000
    best = [n for n in range(2482, 2519) if n % 3 != 2]  # none that was pruned
    assert set(best) <= set(numbers)
    assert numbers != [trial.number for trial in trials_for_model(every, seed=1)]
    assert found == trials_for_model(every, seed=0)
    assert min(numbers) < 100  # from all over the study
    assert {trial.state for trial in found} == set(TrialState) - {
        TrialState.FAIL,
        TrialState.WAITING,
    }


def test_tpe_good_trials_do_not_depend_on_the_subset() -> None:
    every = trials(5000)
    split = optuna.samplers._tpe.sampler._split_trials
    study = optuna.create_study()
    good = [
        {t.number for t in split(study, seen, 25)[0]}
        for seen in (every, trials_for_model(every, seed=0))
    ]
    assert good[0] == good[1]


@pytest.mark.parametrize("sampler", MODELS)
def test_models_propose_near_what_was_best(sampler: str) -> None:
    study, spec = begun(sampler), spec_of(sampler)
    for ticket in range(24, 40):
        add(study, propose(study, spec, ticket))
    proposed = [trial.params for trial in study.trials[32:]]
    assert sum(point["schedule"] == "linear" for point in proposed) >= 4
    assert np.median([abs(point["epsilon"] - 0.3) for point in proposed]) < 0.06


@pytest.mark.parametrize("sampler", MODELS)
def test_model_includes_running_trials(sampler: str) -> None:
    study, spec = begun(sampler), spec_of(sampler)
    alone = propose(study, spec, 24)
    assert propose(study, spec, 24) == alone
    for _ in range(5):
        add(study, alone, TrialState.RUNNING)
    assert propose(study, spec, 24) != alone


@pytest.mark.parametrize("sampler", MODELS)
def test_a_proposal_is_plain_and_lies_in_the_space(sampler: str) -> None:
    space = {"width": [32, 64], "layers": {"low": 1, "high": 3, "integer": True}, "lr": [0.1]}
    spec = spec_of(sampler, startup=3, space=space)
    study, known = optuna.create_study(), distributions(spec.space)
    for point in plan(spec_of("qmc", space=space, budget={"trials": 4}), {}):
        assert point is not None
        study.add_trial(create_trial(value=1.0, params=dict(point), distributions=known))
    clear_trial_cache(study)
    for ticket in range(4, 12):
        point = propose(study, spec, ticket)
        assert point.keys() == known.keys()
        types = [type(value) for _, value in sorted(point.items())]
        assert types == [float, int, float, float, str, int]
        assert all(of._contains(of.to_internal_repr(point[name])) for name, of in known.items())


@pytest.mark.parametrize("sampler", MODELS)
def test_startup_continues_until_enough_trials_ended(sampler: str) -> None:
    spec = spec_of(sampler, first=[{"epsilon": 0.1}])
    start = plan(spec_of("qmc", first=[{"epsilon": 0.1}], budget={"trials": 48}), {})
    study = optuna.create_study()
    assert [propose(study, spec, ticket) for ticket in range(2, 48)] == start[2:]


@pytest.mark.parametrize("sampler", MODELS)
def test_pruned_trials_count_for_the_start(sampler: str) -> None:
    study, spec = optuna.create_study(), spec_of(sampler)
    planned = [point for point in plan(spec, {}) if point is not None]
    for number, point in enumerate(planned):
        add(study, point, TrialState.PRUNED if number % 4 else TrialState.COMPLETE)
    start = plan(spec_of("qmc", budget={"trials": 17}), {})
    assert propose(study, spec, 16) != start[16]


def test_sampler_without_values_is_random() -> None:
    study, spec = optuna.create_study(), spec_of("gp", startup=1)
    add(study, propose(study, spec, 1), TrialState.PRUNED)
    assert propose(study, spec, 3) != propose(study, spec, 4)


@pytest.mark.parametrize("sampler", MODELS)
def test_foreign_trials_do_not_affect_the_model(sampler: str) -> None:
    study, spec = begun(sampler), spec_of(sampler)
    before = propose(study, spec, 24)
    study.add_trial(
        create_trial(value=0.0, params={"x": 0.1}, distributions={"x": SPACE["epsilon"]})
    )
    clear_trial_cache(study)
    assert propose(study, spec, 24) == before


@pytest.mark.parametrize("sampler", MODELS)
def test_a_proposal_writes_nothing(sampler: str) -> None:
    class Unwritable(optuna.storages.InMemoryStorage):
        def set_trial_system_attr(self, *args: object) -> None:
            raise AssertionError(args)

    propose(begun(sampler, storage=Unwritable()), spec_of(sampler), 24)


def test_a_proposal_reads_the_trials_once() -> None:
    reads = []

    class Counting(optuna.storages.InMemoryStorage):
        def get_all_trials(self, *args: object, **kwargs: object) -> list[FrozenTrial]:
            reads.append(1)
            return super().get_all_trials(*args, **kwargs)  # type: ignore[arg-type]

    study = optuna.create_study(storage=Counting())
    for ticket in range(1, 21):
        point = propose(study, SPEC, ticket)
        study.add_trial(
            create_trial(
                value=float(point["epsilon"]),
                params=point,
                distributions=distributions(SPEC.space),
            )
        )
    study._thread_local.cached_all_trials = None
    reads.clear()
    propose(study, SPEC, 21)
    assert len(reads) == 1


# ---- pruning -----------------------------------------------------------------------------


def curves(count: int) -> list[list[float]]:
    """Return losses at the reports: they fall, and change places."""
    rng = np.random.default_rng(3)
    steps = np.arange(1, REPORTS)
    found = rng.random((count, 1)) + rng.random((count, 1)) * 2.0 / steps
    kept: list[list[float]] = (found + 0.1 * rng.standard_normal(found.shape)).tolist()
    kept[7][2] = float("nan")
    return kept


def stopped(pruner: BasePruner, at_once: int) -> list[int]:
    """Return the step at which each of 61 trials is pruned, or 0; the first runs alone."""
    study = optuna.create_study(study_name="s", pruner=pruner)
    ends, losses = [0] * 61, curves(61)
    for numbers in (range(1), *(range(n, n + at_once) for n in range(1, 61, at_once))):
        running = {number: study.ask() for number in numbers}
        for step in range(1, REPORTS):
            for number, trial in list(running.items()):
                trial.report(losses[number][step - 1], step)
                if trial.should_prune():
                    ends[number] = step
                    study.tell(running.pop(number), state=TrialState.PRUNED)
        for number, trial in running.items():
            study.tell(trial, losses[number][-1])
    return ends


@pytest.mark.parametrize("at_once", [1, 4])
@pytest.mark.parametrize(("warmup", "reduction"), [(0.0, 2), (0.25, 2), (0.0, 3), (0.5, 4)])
def test_halving_prunes_what_optuna_prunes(warmup: float, reduction: int, at_once: int) -> None:
    ours = PrunerSection(name="halving", warmup=warmup, reduction=reduction, startup=1)
    first = max(1, round(warmup * REPORTS))
    theirs = SuccessiveHalvingPruner(min_resource=first, reduction_factor=reduction)
    expected = stopped(theirs, at_once)
    assert stopped(make_pruner(ours), at_once) == expected
    assert len(set(expected)) > 1


@pytest.mark.parametrize(("warmup", "reduction"), [(0.0, 2), (0.25, 2), (0.0, 3)])
def test_hyperband_prunes_what_optuna_prunes(warmup: float, reduction: int) -> None:
    ours = PrunerSection(name="hyperband", warmup=warmup, reduction=reduction, startup=1)
    first = max(1, round(warmup * REPORTS))
    theirs = HyperbandPruner(first, max_resource=REPORTS, reduction_factor=reduction)
    expected = stopped(theirs, at_once=1)
    assert stopped(make_pruner(ours), at_once=1) == expected
    assert len(set(expected)) > 2


@pytest.mark.parametrize("name", ["halving", "hyperband"])
def test_no_pruning_before_startup_trials(name: str) -> None:
    section = PrunerSection.model_validate({"name": name, "warmup": 0.0, "startup": 10})
    ends = stopped(make_pruner(section), at_once=1)
    assert ends[:10] == [0] * 10
    assert any(ends[10:])


def test_concurrent_trials_are_pruned_at_reports(storage: str) -> None:
    spec = spec_of(pruner={"name": "halving", "warmup": 0.0, "startup": 1})
    store = open_writer(storage)
    create_optuna_study(store, "s")
    study = open_optuna_study(store, spec)
    points = [point for point in plan(spec, {}) if point is not None]
    born = [create_optuna_trial(store, study, spec.space, n, points[n]) for n in range(9)]
    tell(store, born[0].id, "complete", 1.0, {})

    def pruned(values: Iterable[float]) -> list[bool]:
        trials = [trials_left.pop(0) for _ in values]
        reports = [PrunerReports(store, study, trial, spec, prunable=True) for trial in trials]
        return [each.report(0.25, value) for each, value in zip(reports, values, strict=True)]

    trials_left = born[1:]
    assert not any(pruned([1.0, 0.9, 0.8, 0.7]))  # each is the best so far
    assert pruned([0.95, 0.6, 0.95, 0.95]) == [True, False, True, True]
    store.close()
