"""The studies in a database, and their specs and states."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Final, Literal

from pydantic import Field, TypeAdapter, ValidationError
from sqlalchemy import Connection, Row, delete, func, insert, select, update

from sweeper.errors import StudyDamaged, UnknownName, suggestion
from sweeper.store.database import Store, transaction
from sweeper.store.schema import code, earlier_trials, metadata, now, studies, tickets
from sweeper.version import __version__

# The last second of the year 9999.
_LATEST: Final = 253402300799.0
# paused: no training, and workers wait. stopped: no training, and workers exit. failed: stopped
# automatically because its trials failed with the same problem.
StudyState = Literal["running", "paused", "stopped", "failed"]


@dataclass(frozen=True)
class StudyRecord:
    """One study as stored; `spec` is canonical JSON, and `folder` contains its task file.

    `code` is the current code revision. `problem` describes damage of the stored row, or is "". In
    a damaged record the other fields are empty and the state is "stopped".
    """

    id: int
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,255}$")]
    spec: str
    spec_hash: str
    folder: str
    version: str
    created: Annotated[float, Field(ge=0, le=_LATEST)]
    state: StudyState
    code: int = 1
    problem: str = ""


@dataclass(frozen=True)
class EarlierTrial:
    """A trial of an earlier study, with its point in the space of the study that extends it.

    `source` is the study that trained it. `value` is its validation value of the metric. If it was
    pruned, `step` is the step at which it reported this value, else None.
    """

    source: str
    trial: int
    value: float
    step: int | None
    point: Mapping[str, Any]


_RECORD: Final = TypeAdapter(StudyRecord)


def _record(row: Row[Any]) -> StudyRecord:
    """Return the record of a row; if the row is invalid, the record has a `problem`."""
    try:
        return _RECORD.validate_python(dict(row._mapping))
    except ValidationError as error:
        first = error.errors()[0]
        column = f"{studies.name}.{first['loc'][0]}"
        problem = f"{column} is {str(first['input'])[:60]!r}: {first['msg']}"
        return StudyRecord(row.id, str(row.name), "", "", "", "", 0.0, "stopped", problem=problem)


@transaction
def all_studies(connection: Connection) -> list[StudyRecord]:
    """Return every study, newest first."""
    rows = connection.execute(
        select(studies).order_by(studies.c.created.desc(), studies.c.id.desc())
    )
    return [_record(row) for row in rows]


@transaction
def page_of_studies(
    connection: Connection, *, search: str = "", offset: int = 0, limit: int
) -> tuple[list[StudyRecord], int]:
    """Return one page of the studies whose names contain `search`, and the number of matches.

    The page has up to `limit` studies from `offset` on, newest first.
    """
    named = studies.c.name.icontains(search, autoescape=True)
    newest = (studies.c.created.desc(), studies.c.id.desc())
    query = select(studies).where(named).order_by(*newest).offset(offset).limit(limit)
    count = select(func.count()).select_from(studies).where(named)
    records = [_record(row) for row in connection.execute(query)]
    return records, int(connection.execute(count).scalar_one())


@transaction
def studies_with_work(connection: Connection) -> list[StudyRecord]:
    """Return the running studies that have open tickets, oldest first, including damaged ones."""
    open_ticket = select(tickets.c.number).where(
        tickets.c.study_id == studies.c.id, tickets.c.state == "open"
    )
    query = (
        select(studies)
        .where(studies.c.state.not_in(("paused", "stopped", "failed")), open_ticket.exists())
        .order_by(studies.c.created, studies.c.id)
    )
    return [_record(row) for row in connection.execute(query)]


@transaction
def find_study(connection: Connection, name: str) -> StudyRecord | None:
    """Return the study with this name, or None."""
    row = connection.execute(select(studies).where(studies.c.name == name)).one_or_none()
    return None if row is None else _record(row)


def get_study(store: Store, name: str, *, damaged: bool = False) -> StudyRecord:
    """Return the study with this name.

    Raises `UnknownName` with the closest name if there is none, and `StudyDamaged` if its row is
    invalid, unless `damaged` is True.
    """
    record = find_study(store, name)
    if record is None:
        stored = all_studies(store)
        # A name that is not valid UTF-8 is displayed differently from how it is stored.
        record = next((study for study in stored if study.name == name), None)
    if record is None:
        names = [study.name for study in stored]
        existing = ", ".join(names[:10]) or "none"
        raise UnknownName(
            f"no study {name!r} in {store}{suggestion(name, names)}; existing studies: {existing}"
        )
    if record.problem and not damaged:
        raise StudyDamaged(name, record.problem)
    return record


@dataclass(frozen=True)
class NewStudy:
    """A study to add, with the trials of an `earlier` study that it uses.

    `sources` maps the files of its code to SHA-256 digests.
    """

    name: str
    spec: str
    spec_hash: str
    folder: str
    sources: Mapping[str, str]
    earlier: Sequence[EarlierTrial] = ()


@transaction
def add_study(connection: Connection, study: NewStudy) -> StudyRecord:
    """Add a study."""
    row = {"name": study.name, "spec": study.spec, "spec_hash": study.spec_hash}
    row |= {"folder": study.folder, "version": __version__}
    connection.execute(insert(studies).values(**row, created=now()))
    added = connection.execute(select(studies).where(studies.c.name == study.name)).one()
    first = {"study_id": added.id, "revision": added.code, "sources": dict(study.sources)}
    connection.execute(insert(code).values(**first, created=now()))
    rows = [
        {"study_id": added.id, "number": number, **vars(trial), "point": dict(trial.point)}
        for number, trial in enumerate(study.earlier)
    ]
    if rows:
        connection.execute(insert(earlier_trials), rows)
    return _record(added)


@transaction
def read_earlier_trials(connection: Connection, study: StudyRecord) -> list[EarlierTrial]:
    """Return the trials of an earlier study that a study uses; empty if it extends none."""
    columns = [earlier_trials.c[field.name] for field in fields(EarlierTrial)]
    query = select(*columns).where(earlier_trials.c.study_id == study.id)
    rows = connection.execute(query.order_by(earlier_trials.c.number))
    return [EarlierTrial(**row._mapping) for row in rows]


@transaction
def update_spec(
    connection: Connection, study: StudyRecord, *, spec: str, folder: str
) -> StudyRecord:
    """Store a new spec and folder, and set the state to "running"; the spec hash is kept."""
    changed = {"spec": spec, "folder": folder, "state": "running"}
    connection.execute(update(studies).where(studies.c.id == study.id).values(**changed))
    return replace(study, spec=spec, folder=folder, state="running")


@transaction
def set_state(connection: Connection, study: StudyRecord, state: StudyState) -> None:
    """Pause, stop or resume a study; its workers react within seconds."""
    connection.execute(update(studies).where(studies.c.id == study.id).values(state=state))


@transaction
def states_of(connection: Connection, ids: Collection[int]) -> dict[int, StudyState]:
    """Return the states of studies by id; deleted studies are left out."""
    query = select(studies.c.id, studies.c.state).where(studies.c.id.in_(ids))
    return {row.id: row.state for row in connection.execute(query)}


@transaction
def delete_study(connection: Connection, study: StudyRecord) -> None:
    """Delete a study with its tickets, epochs and results."""
    for table in reversed(metadata.sorted_tables):  # also deletes rows without a ticket
        if "study_id" in table.c:
            connection.execute(delete(table).where(table.c.study_id == study.id))
    connection.execute(delete(studies).where(studies.c.id == study.id))
