"""Output of training runs: the last part of what each attempt at a ticket has printed."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, or_, select

from sweeper.store.database import storable_text, transaction
from sweeper.store.schema import outputs, tickets
from sweeper.store.studies import StudyRecord
from sweeper.store.tickets import SEARCH, Ticket


@dataclass(frozen=True)
class Output:
    """The last part of one attempt's output; `size` is the length of the whole output in bytes."""

    claim: int
    size: int
    text: str


def store_outputs(connection: Connection, printed: Sequence[tuple[Ticket, Output]]) -> None:
    """Insert or replace the outputs of attempts, as part of a transaction.

    An attempt may store its output after it has lost its ticket. Outputs of deleted tickets are
    ignored.
    """
    any_ticket = or_(*(ticket.row() for ticket, _ in printed))
    key = tickets.c.study_id, tickets.c.phase, tickets.c.number
    existing = {tuple(row) for row in connection.execute(select(*key).where(any_ticket))}
    rows = [
        {
            "study_id": ticket.study_id,
            "phase": ticket.phase,
            "number": ticket.number,
            "claim": output.claim,
            "size": output.size,
            "text": storable_text(output.text),
        }
        for ticket, output in printed
        if (ticket.study_id, ticket.phase, ticket.number) in existing
    ]
    if rows:
        replaced = or_(
            *(
                ticket.row_of(outputs) & (outputs.c.claim == output.claim)
                for ticket, output in printed
            )
        )
        connection.execute(delete(outputs).where(replaced))
        connection.execute(insert(outputs), rows)


@transaction
def write_outputs(connection: Connection, printed: Sequence[tuple[Ticket, Output]]) -> None:
    """Insert or replace the outputs of attempts, in one transaction."""
    store_outputs(connection, printed)


@transaction
def read_outputs(
    connection: Connection, study: StudyRecord, number: int, phase: str = SEARCH
) -> list[Output]:
    """Return the outputs of a ticket, ordered by attempt."""
    query = (
        select(outputs.c.claim, outputs.c.size, outputs.c.text)
        .where(outputs.c.study_id == study.id, outputs.c.phase == phase, outputs.c.number == number)
        .order_by(outputs.c.claim)
    )
    return [Output(**row._mapping) for row in connection.execute(query)]
