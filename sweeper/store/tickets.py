"""Tickets: the right to run one trial, claimed by one worker at a time, for as long as it lives.

A study's budget is the rows 0 … N-1, so it is exact however many workers come and go.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import (
    ColumnElement,
    Connection,
    String,
    and_,
    case,
    cast,
    func,
    insert,
    not_,
    or_,
    select,
    true,
    update,
)

from sweeper.store.database import transaction
from sweeper.store.schema import now, studies, tickets
from sweeper.store.studies import StudyRecord

SEARCH: Final = "search"
LEASE_SECONDS: Final = 30.0
RENEW_SECONDS: Final = 10.0

Point = Mapping[str, Any]
# Tickets with a point that was laid into them, those whose point is asked for, or both.
Points = Literal["laid", "asked", "any"]


class LeaseLost(Exception):
    """The ticket has passed to another worker: stop this trial, and go on with the next."""


@dataclass(frozen=True)
class Ticket:
    """A claimed ticket; `point` is what to try, or None to ask the sampler.

    `claims` counts every claim of the ticket and `attempts` those that were not handed back:
    the ones in which a worker may have died.
    """

    study_id: int
    phase: str
    number: int
    point: Point | None
    worker: str
    claims: int
    attempts: int

    def held(self) -> ColumnElement[bool]:
        """Return the condition that this claim, and no later one, holds the ticket."""
        return and_(
            self.row(),
            tickets.c.state == "open",
            tickets.c.worker == self.worker,
            tickets.c.claims == self.claims,
        )

    def row(self) -> ColumnElement[bool]:
        """Return the condition that finds the ticket's row."""
        return and_(
            tickets.c.study_id == self.study_id,
            tickets.c.phase == self.phase,
            tickets.c.number == self.number,
        )


@dataclass(frozen=True)
class TicketState:
    """A ticket as a reader sees it; `leased` while a worker's lease runs.

    `unseen` is how many seconds ago the worker last renewed its lease, by the database's
    clock, and None where no worker is at the ticket.
    """

    phase: str
    number: int
    closed: bool
    leased: bool
    worker: str | None
    attempts: int
    unseen: float | None


@dataclass(frozen=True)
class TicketCounts:
    """How many tickets there are, closed and leased, and how often one was claimed again."""

    laid: int
    closed: int
    leased: int
    retried: int


@transaction
def add_tickets(
    connection: Connection, study: StudyRecord, points: Sequence[Point | None], phase: str = SEARCH
) -> int:
    """Lay out the tickets that are not there yet; return how many were added."""
    count = func.count().label("count")
    here = and_(tickets.c.study_id == study.id, tickets.c.phase == phase)
    have = connection.execute(select(count).where(here)).scalar_one()
    new = {number: point for number, point in enumerate(points) if number >= have}
    add_rows(connection, study, phase, new)
    return len(new)


def add_rows(
    connection: Connection, study: StudyRecord, phase: str, points: Mapping[int, Point | None]
) -> None:
    """Insert open tickets with these numbers, as part of a transaction."""
    rows = [
        {
            "study_id": study.id,
            "phase": phase,
            "number": number,
            "state": "open",
            "params": None if point is None else dict(point),
            "claims": 0,
            "returned": 0,
        }
        for number, point in points.items()
    ]
    if rows:
        connection.execute(insert(tickets), rows)


@transaction
def laid_points(
    connection: Connection, study: StudyRecord, phase: str = SEARCH
) -> dict[int, Point]:
    """Return the points that the launch laid into tickets, by number."""
    query = (
        select(tickets.c.number, tickets.c.params)
        .where(tickets.c.study_id == study.id, tickets.c.phase == phase)
        .order_by(tickets.c.number)
    )
    rows = connection.execute(query)
    return {row.number: row.params for row in rows if row.params is not None}


@transaction
def claim(
    connection: Connection,
    study_id: int,
    worker: str,
    *,
    below: int,
    phase: str = SEARCH,
    points: Points = "any",
    fresh: bool = False,
) -> Ticket | None:
    """Take the first ticket under `below` that nobody holds; None when there is none now.

    `fresh` leaves those that a worker may have died of. Of a study that is paused or stopped
    there is none.
    """
    running = select(studies.c.id).where(studies.c.id == study_id, studies.c.state == "running")
    free = and_(
        running.exists(),
        tickets.c.study_id == study_id,
        tickets.c.phase == phase,
        tickets.c.number < below,
        tickets.c.state == "open",
        or_(tickets.c.lease_until.is_(None), tickets.c.lease_until < now()),
        _has(points),
        *([tickets.c.claims == tickets.c.returned] if fresh else []),
    )
    first = select(tickets).where(free).order_by(tickets.c.number).limit(1)
    row = connection.execute(first.with_for_update(skip_locked=True)).one_or_none()
    if row is None:
        return None
    claims = row.claims + 1
    attempts = claims - row.returned
    ticket = Ticket(study_id, phase, row.number, row.params, worker, claims, attempts)
    connection.execute(
        update(tickets)
        .where(ticket.row())
        .values(worker=worker, claims=claims, lease_until=now() + LEASE_SECONDS)
    )
    return ticket


@transaction
def count_open(
    connection: Connection,
    study_id: int,
    *,
    below: int,
    phase: str = SEARCH,
    points: Points = "any",
    most: int,
) -> int:
    """Count the tickets under `below` that have not come to their end, up to `most`."""
    still_open = select(tickets.c.number).where(
        tickets.c.study_id == study_id,
        tickets.c.phase == phase,
        tickets.c.number < below,
        tickets.c.state == "open",
        _has(points),
    )
    some = still_open.limit(most).subquery()
    return int(connection.execute(select(func.count()).select_from(some)).scalar_one())


def _has(points: Points) -> ColumnElement[bool]:
    if points == "any":
        return true()
    asked = cast(tickets.c.params, String) == "null"  # JSON's null is what no point is stored as
    return asked if points == "asked" else not_(asked)


@transaction
def renew(connection: Connection, held: Sequence[Ticket]) -> None:
    """Extend the leases of tickets that are still their claimer's."""
    mine = or_(*(ticket.held() for ticket in held))
    connection.execute(update(tickets).where(mine).values(lease_until=now() + LEASE_SECONDS))


@transaction
def hand_back(connection: Connection, ticket: Ticket) -> None:
    """Return a ticket unfinished, for any worker to go on with; the attempt does not count."""
    connection.execute(
        update(tickets)
        .where(ticket.held())
        .values(worker=None, lease_until=None, returned=tickets.c.returned + 1)
    )


@transaction
def give_up(connection: Connection, ticket: Ticket) -> None:
    """End the lease of a ticket that makes no progress; the attempt counts."""
    connection.execute(update(tickets).where(ticket.held()).values(worker=None, lease_until=None))


@transaction
def free_leases(connection: Connection, workers: Iterable[str]) -> int:
    """End the leases of workers that are known to be dead; return how many there were."""
    theirs = and_(tickets.c.worker.in_(list(workers)), tickets.c.state == "open")
    return connection.execute(
        update(tickets).where(theirs).values(worker=None, lease_until=None)
    ).rowcount


def _held(study: StudyRecord) -> ColumnElement[bool]:
    """Return the condition that a worker is at a ticket of the study, of whichever phase."""
    return and_(
        tickets.c.study_id == study.id, tickets.c.state == "open", tickets.c.worker.is_not(None)
    )


@transaction
def leaseholders(connection: Connection, study: StudyRecord) -> set[str]:
    """Return the workers that hold a ticket of a study."""
    return set(connection.execute(select(tickets.c.worker).where(_held(study))).scalars())


@transaction
def all_closed(connection: Connection, study: StudyRecord, below: int, phase: str = SEARCH) -> bool:
    """Return whether every ticket under `below` has come to its end."""
    still_open = and_(
        tickets.c.study_id == study.id,
        tickets.c.phase == phase,
        tickets.c.number < below,
        tickets.c.state == "open",
    )
    query = select(tickets.c.number).where(still_open).limit(1)
    return connection.execute(query).one_or_none() is None


@transaction
def count_tickets(
    connection: Connection, study: StudyRecord, below: int, phase: str = SEARCH
) -> TicketCounts:
    """Count the tickets under `below`."""
    attempts = tickets.c.claims - tickets.c.returned
    leased = and_(tickets.c.state == "open", tickets.c.lease_until >= now())
    query = select(
        func.count().label("laid"),
        func.sum(case((tickets.c.state == "closed", 1), else_=0)).label("closed"),
        func.sum(case((leased, 1), else_=0)).label("leased"),
        func.sum(case((attempts > 1, attempts - 1), else_=0)).label("retried"),
    ).where(tickets.c.study_id == study.id, tickets.c.phase == phase, tickets.c.number < below)
    row = connection.execute(query).one()
    return TicketCounts(row.laid, *(int(count or 0) for count in row[1:]))


@transaction
def claims_of(connection: Connection, study: StudyRecord, number: int, phase: str = SEARCH) -> int:
    """Return how often a ticket was claimed: more than once, and workers shared its trial."""
    query = select(tickets.c.claims).where(
        tickets.c.study_id == study.id, tickets.c.phase == phase, tickets.c.number == number
    )
    return int(connection.execute(query).scalar_one())


@transaction
def ticket_states(
    connection: Connection, study: StudyRecord, phase: str = SEARCH
) -> list[TicketState]:
    """Return the tickets of a phase in order."""
    here = and_(tickets.c.study_id == study.id, tickets.c.phase == phase)
    return _states(connection, here)


@transaction
def held_tickets(connection: Connection, study: StudyRecord) -> list[TicketState]:
    """Return the tickets that a worker is at, of every phase."""
    return _states(connection, _held(study))


def _states(connection: Connection, which: ColumnElement[bool]) -> list[TicketState]:
    query = (
        select(
            tickets.c.phase,
            tickets.c.number,
            (tickets.c.state == "closed").label("closed"),
            and_(tickets.c.state == "open", tickets.c.lease_until >= now()).label("leased"),
            tickets.c.worker,
            (tickets.c.claims - tickets.c.returned).label("attempts"),
            (now() + LEASE_SECONDS - tickets.c.lease_until).label("unseen"),
        )
        .where(which)
        .order_by(tickets.c.phase, tickets.c.number)
    )
    return [
        TicketState(
            phase=row.phase,
            number=row.number,
            closed=bool(row.closed),
            leased=bool(row.leased),
            worker=row.worker,
            attempts=row.attempts,
            unseen=row.unseen,
        )
        for row in connection.execute(query)
    ]
