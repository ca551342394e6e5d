"""Revisions of a study's code: the digest of each file, by path relative to the study's folder."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sqlalchemy import Connection, insert, select, update

from sweeper.errors import StudyDamaged
from sweeper.store.database import transaction
from sweeper.store.schema import code, now, studies
from sweeper.store.studies import StudyRecord


@dataclass(frozen=True)
class CodeRevision:
    """One revision of a study's code; `sources` maps file paths to SHA-256 digests.

    Revision 1 is the code at launch; `sweeper launch --accept-code` adds a revision. `created` is
    in seconds since 1970.
    """

    revision: int
    sources: Mapping[str, str]
    created: float


@transaction
def read_revisions(connection: Connection, study: StudyRecord) -> list[CodeRevision]:
    """Return the revisions of a study's code, oldest first; the last one is current.

    Raises `StudyDamaged` if one is missing.
    """
    columns = code.c.revision, code.c.sources, code.c.created
    query = select(*columns).where(code.c.study_id == study.id).order_by(code.c.revision)
    revisions = [CodeRevision(**row._mapping) for row in connection.execute(query)]
    numbers = [revision.revision for revision in revisions]
    # There may be newer ones than in a record that was read earlier.
    if numbers != list(range(1, len(numbers) + 1)) or len(numbers) < study.code:
        raise StudyDamaged(study.name, "sweeper_code does not hold each revision of its code")
    return revisions


@transaction
def accept_code(
    connection: Connection, study: StudyRecord, sources: Mapping[str, str]
) -> StudyRecord:
    """Add a code revision for all further trials; return the updated study record."""
    revision = study.code + 1
    row = {"study_id": study.id, "revision": revision, "sources": dict(sources)}
    connection.execute(insert(code).values(**row, created=now()))
    connection.execute(update(studies).where(studies.c.id == study.id).values(code=revision))
    return replace(study, code=revision)


@transaction
def note_sources(
    connection: Connection, study: StudyRecord, imported: Mapping[str, str]
) -> Mapping[str, str]:
    """Add imported files to the current revision; return all files of the revision.

    A file that is already recorded keeps its digest.
    """
    current = (code.c.study_id == study.id) & (code.c.revision == study.code)
    row = connection.execute(select(code.c.sources).where(current).with_for_update()).one_or_none()
    if row is None:
        return imported  # the study has been deleted
    known = {**imported, **row.sources}
    if known != row.sources:
        connection.execute(update(code).where(current).values(sources=known))
    return known
