"""Store a study in the database."""

from sweeper.errors import Conflict
from sweeper.store.code import accept_code, note_sources, read_revisions
from sweeper.store.database import Store
from sweeper.store.studies import (
    NewStudy,
    StudyRecord,
    add_study,
    find_study,
    read_earlier_trials,
    update_spec,
)
from sweeper.store.tickets import add_tickets, count_planned
from sweeper.study.extension import find_extension
from sweeper.study.load import StudyFile, read_stored
from sweeper.study.sources import changed_code, changed_sources
from sweeper.study.space import Point
from sweeper.study.spec import differences, identity
from sweeper.study.trials import (
    check_created_by_sweeper,
    create_optuna_study,
    create_optuna_trial,
    find_trial,
    open_optuna_study,
)


def register(store: Store, study: StudyFile, *, accept_changed: bool = False) -> StudyRecord:
    """Create a study with its tickets and trial 0, or continue an existing one.

    Calls can be repeated and can run in several processes at once. With `accept_changed`, changed
    code becomes a new revision. Raises `Conflict`, and writes nothing, if a study with the same
    name has other settings, or other code without `accept_changed`.
    """
    with store.exclusive_lock():
        record = _record(store, study, accept_changed)
        create_optuna_study(store, study.name)
        planned, earlier = count_planned(store, record), len(read_earlier_trials(store, record))
        add_tickets(store, record, study.points(planned, earlier), first=planned)
        _create_baseline(store, study, next(study.points()))
    return record


def check_same(
    store: Store, record: StudyRecord, study: StudyFile, *, accept_changed: bool = False
) -> bool:
    """Return whether the code of a stored study differs from that of `study`.

    Raises `Conflict` if the settings differ, or if the code differs without `accept_changed`.
    """
    stored = read_stored(record).spec
    changed = differences(identity(study.spec), identity(stored))
    if changed:
        raise Conflict(
            f"study {study.name!r} was launched with other settings ({'; '.join(changed)}); "
            f"choose another name, or delete the stored study: sweeper delete {study.name}"
        )
    known = read_revisions(store, record)[-1].sources
    files = changed_sources(known, study.folder, study.code.sources)
    if files and not accept_changed:
        raise changed_code(study.name, study.folder, files[0])
    return bool(files)


def _record(store: Store, study: StudyFile, accept_changed: bool) -> StudyRecord:
    record = find_study(store, study.name)
    if record is None:
        check_created_by_sweeper(store, study.name)
        return _add(store, study)
    if check_same(store, record, study, accept_changed=accept_changed):
        record = accept_code(store, record, study.code.sources)
    else:
        note_sources(store, record, study.code.sources)
    return update_spec(store, record, spec=study.stored(), folder=str(study.folder))


def _add(store: Store, study: StudyFile) -> StudyRecord:
    extension = find_extension(store, study)
    new = NewStudy(
        name=study.name,
        spec=study.stored(),
        spec_hash=study.hash(),
        folder=str(study.folder),
        sources=study.code.sources,
        earlier=() if extension is None else extension.trials,
    )
    return add_study(store, new)


def _create_baseline(store: Store, study: StudyFile, point: Point | None) -> None:
    # Created here, so that ε = 0 is always trial 0.
    optuna_study = open_optuna_study(store, study.spec)
    if point is not None and find_trial(optuna_study, 0) is None:
        create_optuna_trial(store, optuna_study, study.spec.space, 0, point)
