"""Reopening the tickets of failed and lost trials."""

from collections.abc import Collection

from sqlalchemy import Connection, delete, null, select, update

from sweeper.store.confirmations import phase_of
from sweeper.store.database import transaction
from sweeper.store.schema import confirmations, epochs, replicates, results, tickets
from sweeper.store.studies import StudyRecord
from sweeper.store.tickets import SEARCH
from sweeper.store.trials import set_failed_running


@transaction
def reopen_failed(
    connection: Connection, study: StudyRecord, *, below: int, confirmation: int | None
) -> int:
    """Reopen the tickets of failed and lost trials; return their number.

    This includes search tickets with a number less than `below`, and the tickets of the given
    confirmation. Each ticket keeps its number, configuration, seeds and output. Its results and
    epochs are deleted.
    """
    search_numbers = _reopen(connection, study, SEARCH, below)
    set_failed_running(connection, study.name, search_numbers)
    replicate_numbers: Collection[int] = ()
    if confirmation is not None:
        replicate_numbers = _reopen(connection, study, phase_of(confirmation), None)
        this_confirmation = (
            confirmations.c.study_id == study.id,
            confirmations.c.number == confirmation,
        )
        if search_numbers:
            # Its candidates were chosen from fewer trials. With `ended` = -1, the end of the
            # search creates another confirmation.
            connection.execute(update(confirmations).where(*this_confirmation).values(ended=-1))
        if replicate_numbers:
            connection.execute(
                update(confirmations).where(*this_confirmation).values(summary=null())
            )
    return len(search_numbers) + len(replicate_numbers)


def _reopen(
    connection: Connection, study: StudyRecord, phase: str, below: int | None
) -> Collection[int]:
    failed = select(results.c.number).where(
        results.c.study_id == study.id, results.c.phase == phase, results.c.cause != ""
    )
    if below is not None:
        failed = failed.where(results.c.number < below)
    closed = (
        select(tickets.c.number)
        .where(
            tickets.c.study_id == study.id,
            tickets.c.phase == phase,
            tickets.c.number.in_(failed),
            tickets.c.state == "closed",
        )
        .with_for_update()
    )
    numbers = list(connection.execute(closed).scalars())
    for table in (results, epochs, replicates):
        connection.execute(
            delete(table).where(
                table.c.study_id == study.id,
                table.c.phase == phase,
                table.c.number.in_(numbers),
            )
        )
    connection.execute(
        update(tickets)
        .where(
            tickets.c.study_id == study.id,
            tickets.c.phase == phase,
            tickets.c.number.in_(numbers),
        )
        # Restart the count of attempts, which is claims - returned.
        .values(state="open", worker=None, lease_until=None, returned=tickets.c.claims)
    )
    return numbers
