"""Trials of an earlier study for a study that extends it with `study.extends`.

A trial of the earlier study is used if the new space contains a configuration that trains in the
same way: with the same smoothing, and with the same value of each hyperparameter.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from sweeper.errors import Conflict
from sweeper.formatting import count_noun
from sweeper.store.code import read_revisions
from sweeper.store.damage import check_intact
from sweeper.store.database import Store
from sweeper.store.records import read_results
from sweeper.store.studies import EarlierTrial, StudyRecord, get_study, read_earlier_trials
from sweeper.store.tickets import SEARCH
from sweeper.study.dimensions import Range, Space, contains
from sweeper.study.load import StudyFile, other_package, read_stored
from sweeper.study.sampler import as_frozen, trials_for_model
from sweeper.study.schema_errors import prefix_errors
from sweeper.study.sources import changed_sources
from sweeper.study.space import Point, effective_smoothing, from_unit, inactive, run_hparams
from sweeper.study.spec import StudySpec, differences
from sweeper.study.trials import TICKET, quiet

# Settings of the task that change results no more than another processor does.
_IRRELEVANT = ("threads", "device")


@dataclass(frozen=True)
class Extension:
    """The trials of an earlier study that are used, and how many are not, by reason."""

    study: str
    trials: tuple[EarlierTrial, ...]
    left_out: Mapping[str, int]

    def __str__(self) -> str:
        total = len(self.trials) + sum(self.left_out.values())
        reasons = ", ".join(f"{count:,} ({reason})" for reason, count in self.left_out.items())
        return (
            f"{len(self.trials):,} of {count_noun(total, 'trial')} of study {self.study!r} inform "
            f"the sampler" + (f" (not used: {reasons})" if reasons else "")
        )


def find_extension(store: Store, study: StudyFile) -> Extension | None:
    """Return the trials that a new study takes from the study that it extends, None without one.

    Raises `SweeperError` if there is no such study, if its results are not comparable, or if none
    of its trials can be used.
    """
    name = study.spec.study.extends
    if name is None:
        return None
    with prefix_errors("study.extends"):
        record = get_study(store, name)
        check_intact(store, record)
        older = read_stored(record)
        _check_comparable(study.spec, older.spec, older.packages)
        extension = _extension(store, record, older.spec, study)
        if not extension.trials:
            raise Conflict(f"no trial can be used: {extension}")
    return extension


def stored_extension(store: Store, record: StudyRecord, spec: StudySpec) -> Extension | None:
    """Return the trials that a stored study took from an earlier one, None if it extends none."""
    if spec.study.extends is None:
        return None
    return Extension(spec.study.extends, tuple(read_earlier_trials(store, record)), {})


def _check_comparable(spec: StudySpec, older: StudySpec, packages: Mapping[str, str]) -> None:
    changed = differences(_comparable(spec), _comparable(older))
    if changed:
        raise Conflict(
            f"study {older.study.name!r} has other settings, so its trials are not comparable "
            f"({'; '.join(changed)}); use the same settings, or remove extends"
        )
    other = other_package(packages)
    if other is not None:
        package, theirs, ours = other
        raise Conflict(
            f"study {older.study.name!r} was launched with {package} {theirs}, and this is "
            f"{package} {ours}, so its trials are not comparable; install {package} {theirs}, or "
            "remove extends"
        )


def _comparable(spec: StudySpec) -> dict[str, Any]:
    dumped = spec.model_dump(mode="json")
    task = {key: value for key, value in dumped["task"].items() if key not in _IRRELEVANT}
    return {
        "task": task,
        "objective": dumped["objective"],
        "study": {"seed": spec.study.seed},
    }


def _extension(store: Store, record: StudyRecord, older: StudySpec, study: StudyFile) -> Extension:
    same_code = {
        revision.revision
        for revision in read_revisions(store, record)
        if not changed_sources(revision.sources, study.folder, study.code.sources)
    }
    results = read_results(store, record, SEARCH)
    fitted = list[EarlierTrial]()
    left_out = Counter[str]()

    def add(trial: EarlierTrial) -> None:
        point = fit_point(trial.point, older.space, study.spec.space, study.code.defaults)
        if isinstance(point, str):
            left_out[point] += 1
        else:
            fitted.append(replace(trial, point=point))

    for trial in _trials(store, record.name):
        result = results.get(trial.user_attrs[TICKET])
        reported = trial.intermediate_values
        value, step = math.nan, None
        if trial.state == TrialState.COMPLETE and trial.value is not None:
            value = trial.value
        elif trial.state == TrialState.PRUNED and reported:
            value, step = reported[max(reported)], max(reported)
        if not math.isfinite(value):
            left_out["failed, has not ended or has no finite value"] += 1
        elif result is None or result.code not in same_code:
            left_out["was trained with other code"] += 1
        elif result.copied_from is not None:
            left_out["is a duplicate"] += 1
        else:
            add(EarlierTrial(record.name, trial.number, value, step, trial.params))
    for earlier in read_earlier_trials(store, record):
        add(earlier)
    frozen = as_frozen(fitted, study.spec.space)
    modeled = {t.number for t in trials_for_model(list(frozen), study.spec.study.seed)}
    kept = tuple(trial for trial, f in zip(fitted, frozen, strict=True) if f.number in modeled)
    if len(kept) < len(fitted):
        left_out[f"exceeds the {len(kept):,} trials that a sampler models"] = len(fitted) - len(
            kept
        )
    return Extension(record.name, kept, dict(left_out.most_common()))


def _trials(store: Store, name: str) -> list[FrozenTrial]:
    """Return the trials of a study that sweeper created."""
    with quiet():
        study = optuna.load_study(study_name=name, storage=store.optuna_reader)
        return [t for t in study.get_trials(deepcopy=False) if TICKET in t.user_attrs]


def fit_point(
    point: Point, older: Space, space: Space, defaults: Mapping[str, Any]
) -> dict[str, Any] | str:
    """Return the point of `space` that trains in the same way as a point of an older space.

    `defaults` are the values that the task uses for hyperparameters that a run does not get.
    Values without effect are kept if they are in the space, else drawn at random, because a sampler
    needs a value of each dimension. If there is no such point, return the reason.
    """
    used = {**defaults, **run_hparams(point, older)}
    fitted = _smoothing(point, space)
    if isinstance(fitted, str):
        return fitted
    drawn = _drawn(point, space)
    for name in (*(space.extras.keys() - space.conditions.keys()), *space.conditions):
        has_effect = name not in inactive(fitted, space)
        value = used.get(name) if has_effect else point.get(name, used.get(name))
        if value is not None and contains(space.extras[name], value):
            fitted[name] = _typed(space.extras[name], value)
        elif not has_effect:
            fitted[name] = drawn[name]
        else:
            return f"{name} " + ("has no value" if value is None else f"is outside space.{name}")
    trained = {**defaults, **run_hparams(fitted, space)}
    other = next((name for name in used if trained.get(name) != used[name]), None)
    other = other or next((name for name in trained if name not in used), None)
    if other is not None:
        return f"{other} has another value" if other in trained else f"{other} is not in [space]"
    return {name: fitted[name] for name in space.dimensions}


def _smoothing(point: Point, space: Space) -> dict[str, Any] | str:
    epsilon, schedule, rate = effective_smoothing(point)
    if not space.epsilon.contains(epsilon):
        return "epsilon is outside space.epsilon"
    if epsilon and schedule not in space.schedule:
        return "schedule is not in space.schedule"
    if rate is not None and not space.rate.contains(rate):
        return "rate is outside space.rate"
    # Without smoothing, all schedules are equal.
    names = (point["schedule"], "fixed", *space.schedule)
    schedule = next(name for name in names if name in space.schedule)
    known = space.rate.contains(point["rate"])
    return {
        "epsilon": epsilon,
        "schedule": schedule,
        "rate": point["rate"] if known else _drawn(point, space)["rate"],
    }


def _drawn(point: Point, space: Space) -> dict[str, Any]:
    """Return a random point, which depends only on epsilon and rate of the point."""
    seed = [int(1e9 * point["epsilon"]), int(1e9 * point["rate"]) % 2**63]
    draws = np.random.default_rng(seed).random(len(space.dimensions))
    return from_unit(space, dict(zip(space.dimensions, draws.tolist(), strict=True)))


def _typed(dimension: Any, value: Any) -> Any:
    """Return a value of a dimension with the type that the dimension's own values have."""
    if isinstance(dimension, Range):
        return int(value) if dimension.integer else float(value)
    return dimension[dimension.index(value)]
