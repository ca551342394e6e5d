"""Confirmations: the retraining of candidates on fresh seeds, with one ticket per replicate.

Each confirmation has its own ticket phase, `confirm-1`, `confirm-2` and so on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, null, select, update

from sweeper.store.database import transaction
from sweeper.store.schema import confirmations, now, studies, tickets
from sweeper.store.studies import StudyRecord
from sweeper.store.tickets import SEARCH, add_rows
from sweeper.store.usage import settling


@dataclass(frozen=True)
class Confirmation:
    """One confirmation as stored; `reason` is why there is nothing to confirm, or "".

    `ended` is the number of search trials that had ended when it was created. `summary` holds the
    results of its replicates, None until it is complete. `code` is the revision of the study's
    code that its replicates are trained with.
    """

    study_id: int
    number: int
    ended: int
    settings: Mapping[str, Any]
    candidates: Sequence[Mapping[str, Any]]
    reason: str
    created: float
    summary: Mapping[str, Any] | None = None
    code: int = 1

    @property
    def phase(self) -> str:
        return phase_of(self.number)

    @property
    def training_runs(self) -> int:
        """Number of training runs, one per ticket."""
        return len(self.candidates) * int(self.settings["replicates"])


def phase_of(number: int) -> str:
    """Return the phase of a confirmation's tickets."""
    return f"confirm-{number}"


@transaction
def last_confirmation(connection: Connection, study: StudyRecord) -> Confirmation | None:
    """Return the latest confirmation of a study, or None."""
    return _last(connection, study)


@transaction
def add_confirmation(
    connection: Connection,
    study: StudyRecord,
    confirmation: Confirmation,
    points: Sequence[Mapping[str, Any]],
) -> bool:
    """Create a confirmation with one ticket per point; return False if it already exists.

    The open tickets of earlier confirmations are closed, because this one replaces them.
    """
    # The lock makes sure that only one of several workers creates it.
    lock = select(studies.c.id).where(studies.c.id == study.id).with_for_update()
    if connection.execute(lock).one_or_none() is None:
        return False  # the study has been deleted
    last = _last(connection, study)
    if last is not None and last.number >= confirmation.number:
        return False
    earlier = (tickets.c.study_id == study.id) & (tickets.c.phase != SEARCH)
    still_open = update(tickets).where(earlier, tickets.c.state == "open")
    connection.execute(settling(still_open, {"state": "closed"}))
    row = {**vars(confirmation), "created": now(), "summary": null()}
    connection.execute(insert(confirmations).values(row))
    add_rows(connection, study, confirmation.phase, dict(enumerate(points)))
    return True


@transaction
def store_summary(
    connection: Connection, study: StudyRecord, number: int, summary: Mapping[str, Any]
) -> None:
    """Store the summary of a complete confirmation."""
    condition = confirmations.c.study_id == study.id, confirmations.c.number == number
    connection.execute(update(confirmations).where(*condition).values(summary=summary))


def _last(connection: Connection, study: StudyRecord) -> Confirmation | None:
    query = (
        select(confirmations)
        .where(confirmations.c.study_id == study.id)
        .order_by(confirmations.c.number.desc())
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else Confirmation(**row._mapping)
