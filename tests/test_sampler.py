"""How many trials TPE models, and which."""

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweeper.study.sampler import MODELLED, modelled, propose
from sweeper.study.space import distributions
from sweeper.study.spec import StudySpec

SPACE: dict[str, BaseDistribution] = {"epsilon": FloatDistribution(0.0, 0.4)}
SPEC = StudySpec.model_validate({"study": {"name": "s"}, "task": {"use": "digits"}})


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


def test_a_short_study_is_modelled_whole() -> None:
    every = [*trials(MODELLED), running(MODELLED)]
    assert modelled(every, seed=0) == every


def test_of_a_long_study_the_best_the_running_and_a_sample_are_modelled() -> None:
    every = [*trials(5000), running(5000)]
    found = modelled(every, seed=0)
    numbers = [trial.number for trial in found]
    assert len(found) == MODELLED + 1
    assert numbers == sorted(numbers)
    assert numbers[-1] == 5000
    best = [n for n in range(2482, 2519) if n % 3 != 2]  # none that was pruned
    assert set(best) <= set(numbers)
    assert numbers != [trial.number for trial in modelled(every, seed=1)]
    assert found == modelled(every, seed=0)
    assert min(numbers) < 100  # from all over the study
    assert {trial.state for trial in found} == set(TrialState) - {
        TrialState.FAIL,
        TrialState.WAITING,
    }


def test_tpe_takes_the_same_trials_for_good_whatever_is_left_out() -> None:
    every = trials(5000)
    split = optuna.samplers._tpe.sampler._split_trials
    study = optuna.create_study()
    good = [
        {t.number for t in split(study, seen, 25)[0]} for seen in (every, modelled(every, seed=0))
    ]
    assert good[0] == good[1]


def test_a_proposal_reads_the_trials_once() -> None:
    reads = []

    class Counting(optuna.storages.InMemoryStorage):
        def get_all_trials(self, *args: object, **kwargs: object) -> list[FrozenTrial]:
            reads.append(1)
            return super().get_all_trials(*args, **kwargs)  # type: ignore[arg-type]

    study = optuna.create_study(storage=Counting())
    for _ in range(20):
        point = propose(study, SPEC, len(study.trials))
        study.add_trial(
            create_trial(
                value=float(point["epsilon"]),
                params=point,
                distributions=distributions(SPEC.space),
            )
        )
    study._thread_local.cached_all_trials = None
    reads.clear()
    propose(study, SPEC, 20)
    assert len(reads) == 1
