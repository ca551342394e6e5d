"""The studies that a database holds, and what each was launched with."""

from dataclasses import dataclass, replace

from sqlalchemy import delete, insert, select, update

from sweeper.errors import SweeperError, nearest
from sweeper.store.database import Store
from sweeper.store.schema import now, studies


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


def all_studies(store: Store) -> list[StudyRecord]:
    """Return every study, newest first."""
    with store.begin() as connection:
        rows = connection.execute(
            select(studies).order_by(studies.c.created.desc(), studies.c.id.desc())
        )
        return [StudyRecord(**row._mapping) for row in rows]


def find_study(store: Store, name: str) -> StudyRecord | None:
    """Return the study of that name, or None."""
    with store.begin() as connection:
        row = connection.execute(select(studies).where(studies.c.name == name)).one_or_none()
        return None if row is None else StudyRecord(**row._mapping)


def get_study(store: Store, name: str) -> StudyRecord:
    """Return the study of that name; raises `SweeperError` with the nearest one."""
    record = find_study(store, name)
    if record is None:
        names = [study.name for study in all_studies(store)]
        held = f"it holds {', '.join(names[:10])}" if names else "it holds none"
        raise SweeperError(f"no study {name!r} in {store}{nearest(name, names)}; {held}")
    return record


def add_study(
    store: Store, name: str, *, spec: str, spec_hash: str, folder: str, version: str
) -> StudyRecord:
    """Record a new study."""
    row = {"name": name, "spec": spec, "spec_hash": spec_hash, "folder": folder, "version": version}
    with store.begin() as connection:
        connection.execute(insert(studies).values(**row, created=now()))
    return get_study(store, name)


def update_spec(store: Store, study: StudyRecord, *, spec: str, folder: str) -> StudyRecord:
    """Store what may change when a study goes on; its hash stays as it is."""
    with store.begin() as connection:
        connection.execute(
            update(studies).where(studies.c.id == study.id).values(spec=spec, folder=folder)
        )
    return replace(study, spec=spec, folder=folder)


def delete_study(store: Store, study: StudyRecord) -> None:
    """Remove the study with its tickets, epochs and results."""
    with store.begin() as connection:
        connection.execute(delete(studies).where(studies.c.id == study.id))
