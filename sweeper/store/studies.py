"""The studies that a database holds, and what each was launched with."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

from sqlalchemy import Connection, delete, func, insert, select, update

from sweeper.errors import UnknownName, nearest
from sweeper.store.database import Store, transaction
from sweeper.store.schema import now, studies, tickets

# Paused: nothing is trained, and workers wait. Stopped: nothing is trained, and they leave.
StudyState = Literal["running", "paused", "stopped"]


@dataclass(frozen=True)
class StudyRecord:
    """One study as stored: its spec in canonical JSON, and the folder its task file lies in."""

    id: int
    name: str
    spec: str
    spec_hash: str
    folder: str
    version: str
    created: float
    state: StudyState


@transaction
def all_studies(connection: Connection) -> list[StudyRecord]:
    """Return every study, newest first."""
    rows = connection.execute(
        select(studies).order_by(studies.c.created.desc(), studies.c.id.desc())
    )
    return [StudyRecord(**row._mapping) for row in rows]


@transaction
def page_of_studies(
    connection: Connection, *, search: str = "", offset: int = 0, limit: int
) -> tuple[list[StudyRecord], int]:
    """Return the studies whose names contain a text, newest first, and how many there are.

    Of those, `limit` from `offset` on.
    """
    named = studies.c.name.icontains(search, autoescape=True)
    newest = (studies.c.created.desc(), studies.c.id.desc())
    query = select(studies).where(named).order_by(*newest).offset(offset).limit(limit)
    count = select(func.count()).select_from(studies).where(named)
    found = [StudyRecord(**row._mapping) for row in connection.execute(query)]
    return found, int(connection.execute(count).scalar_one())


@transaction
def studies_with_work(connection: Connection) -> list[StudyRecord]:
    """Return the running studies that have open tickets, oldest first."""
    open_ticket = select(tickets.c.number).where(
        tickets.c.study_id == studies.c.id, tickets.c.state == "open"
    )
    query = (
        select(studies)
        .where(studies.c.state == "running", open_ticket.exists())
        .order_by(studies.c.created, studies.c.id)
    )
    return [StudyRecord(**row._mapping) for row in connection.execute(query)]


@transaction
def find_study(connection: Connection, name: str) -> StudyRecord | None:
    """Return the study of that name, or None."""
    row = connection.execute(select(studies).where(studies.c.name == name)).one_or_none()
    return None if row is None else StudyRecord(**row._mapping)


def get_study(store: Store, name: str) -> StudyRecord:
    """Return the study of that name; raises `UnknownName` with the nearest one."""
    record = find_study(store, name)
    if record is None:
        names = [study.name for study in all_studies(store)]
        held = f"it holds {', '.join(names[:10])}" if names else "it holds none"
        raise UnknownName(f"no study {name!r} in {store}{nearest(name, names)}; {held}")
    return record


@transaction
def add_study(
    connection: Connection, name: str, *, spec: str, spec_hash: str, folder: str, version: str
) -> StudyRecord:
    """Record a new study."""
    row = {"name": name, "spec": spec, "spec_hash": spec_hash, "folder": folder, "version": version}
    connection.execute(insert(studies).values(**row, created=now()))
    added = connection.execute(select(studies).where(studies.c.name == name)).one()
    return StudyRecord(**added._mapping)


@transaction
def update_spec(
    connection: Connection, study: StudyRecord, *, spec: str, folder: str
) -> StudyRecord:
    """Store what may change when a study goes on, and let it run; its hash stays as it is."""
    changed = {"spec": spec, "folder": folder, "state": "running"}
    connection.execute(update(studies).where(studies.c.id == study.id).values(**changed))
    return replace(study, spec=spec, folder=folder, state="running")


@transaction
def set_state(connection: Connection, study: StudyRecord, state: StudyState) -> None:
    """Pause, stop or resume a study: its workers see it within seconds."""
    connection.execute(update(studies).where(studies.c.id == study.id).values(state=state))


@transaction
def states_of(connection: Connection, ids: Collection[int]) -> dict[int, StudyState]:
    """Return the states of studies by id, without those that have been deleted."""
    query = select(studies.c.id, studies.c.state).where(studies.c.id.in_(ids))
    return {row.id: row.state for row in connection.execute(query)}


@transaction
def delete_study(connection: Connection, study: StudyRecord) -> None:
    """Remove the study with its tickets, epochs and results."""
    connection.execute(delete(studies).where(studies.c.id == study.id))
