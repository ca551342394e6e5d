"""Putting a study into the database: once, under whatever name and spec it was first launched."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from sweeper.errors import Conflict
from sweeper.store.database import Store
from sweeper.store.studies import StudyRecord, add_study, find_study, update_spec
from sweeper.store.tickets import add_tickets
from sweeper.study.load import StudyFile, read_stored
from sweeper.study.plan import plan
from sweeper.study.space import Point
from sweeper.study.spec import differences, identity
from sweeper.study.trials import (
    bear_trial,
    check_not_foreign,
    create_optuna_study,
    find_trial,
    open_optuna_study,
)


def register(store: Store, study: StudyFile) -> StudyRecord:
    """Create a study with its tickets and trial 0, or go on with the one that is there.

    Safe to repeat and to run from several processes at once. Raises `Conflict` where the
    name stands for another study; nothing is written then.
    """
    points = plan(study.spec, defaults_of(study))
    with store.exclusive():
        record = _record(store, study)
        create_optuna_study(store, study.name)
        add_tickets(store, record, points)
        _bear_baseline(store, study, points[0])
    return record


def check_same(record: StudyRecord, study: StudyFile) -> None:
    """Raise `Conflict` where the stored study is another than the given one."""
    if record.spec_hash == study.hash():
        return
    kept = read_stored(record.spec)
    stored = identity(kept.spec, kept.sources)
    changed = "; ".join(differences(study.identity(), stored))
    raise Conflict(
        f"study {study.name!r} was launched with another spec ({changed}); give this one another "
        f"name, or delete the stored one: sweeper delete {study.name}"
    )


def _record(store: Store, study: StudyFile) -> StudyRecord:
    record = find_study(store, study.name)
    if record is None:
        check_not_foreign(store, study.name)
        return _add(store, study)
    check_same(record, study)
    return update_spec(store, record, spec=study.stored(), folder=str(study.folder))


def _add(store: Store, study: StudyFile) -> StudyRecord:
    return add_study(
        store,
        study.name,
        spec=study.stored(),
        spec_hash=study.hash(),
        folder=str(study.folder),
        version=version("sweeper"),
    )


def _bear_baseline(store: Store, study: StudyFile, point: Point | None) -> None:
    # So that ε = 0 is trial 0 whichever worker is the first to ask.
    optuna_study = open_optuna_study(store, study.spec)
    if point is not None and find_trial(optuna_study, 0) is None:
        bear_trial(store, optuna_study, study.spec.space, 0, point)


def defaults_of(study: StudyFile) -> Mapping[str, Any]:
    """Return the defaults of what a task lets a study search: its own and the optimiser's."""
    task = study.task.task
    if task is None:
        return {}
    of_optimiser = {name: getattr(task.optimiser, name) for name in task.optimiser.accepts()}
    return {**of_optimiser, **task.hparams}
