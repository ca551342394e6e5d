"""Confirmations: what is trained again, laid out once, with tickets of a phase of their own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select, update

from sweeper.store.database import transaction
from sweeper.store.schema import confirmations, now, studies, tickets
from sweeper.store.studies import StudyRecord
from sweeper.store.tickets import SEARCH, add_rows


@dataclass(frozen=True)
class Confirmation:
    """One confirmation as stored; `reason` says why there is nothing to confirm.

    `ended` is how many trials of the search had ended when it was laid out.
    """

    study_id: int
    number: int
    ended: int
    settings: Mapping[str, Any]
    candidates: Sequence[Mapping[str, Any]]
    reason: str
    created: float

    @property
    def phase(self) -> str:
        """The phase of its tickets."""
        return phase_of(self.number)

    @property
    def trainings(self) -> int:
        """How many tickets it has."""
        return len(self.candidates) * int(self.settings["replicates"])


def phase_of(number: int) -> str:
    """Return the phase of a confirmation's tickets."""
    return f"confirm-{number}"


@transaction
def last_confirmation(connection: Connection, study: StudyRecord) -> Confirmation | None:
    """Return the latest confirmation of a study, or None."""
    return _last(connection, study)


@transaction
def lay_confirmation(
    connection: Connection,
    study: StudyRecord,
    confirmation: Confirmation,
    points: Sequence[Mapping[str, Any]],
) -> bool:
    """Lay out a confirmation with a ticket for each point, once; return whether it was now.

    The open tickets of earlier ones are closed: what they compared is not the question now.
    """
    # Of workers that come at once one lays it out, and the others find it.
    lock = select(studies.c.id).where(studies.c.id == study.id).with_for_update()
    if connection.execute(lock).one_or_none() is None:
        return False  # deleted meanwhile
    last = _last(connection, study)
    if last is not None and last.number >= confirmation.number:
        return False
    earlier = (tickets.c.study_id == study.id) & (tickets.c.phase != SEARCH)
    connection.execute(
        update(tickets).where(earlier, tickets.c.state == "open").values(state="closed")
    )
    row = {key: value for key, value in vars(confirmation).items() if key != "created"}
    connection.execute(insert(confirmations).values(**row, created=now()))
    add_rows(connection, study, confirmation.phase, dict(enumerate(points)))
    return True


def _last(connection: Connection, study: StudyRecord) -> Confirmation | None:
    query = (
        select(confirmations)
        .where(confirmations.c.study_id == study.id)
        .order_by(confirmations.c.number.desc())
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else Confirmation(**row._mapping)
