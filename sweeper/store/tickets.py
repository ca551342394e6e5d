"""Tickets: each is the right to run one trial, and is claimed by one worker at a time.

A worker holds a ticket by a lease, which it must renew. A study with a budget of N trials has
tickets 0 … N-1, so the budget is exact for any number of workers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, Literal, Self

from sqlalchemy import (
    ColumnElement,
    Connection,
    String,
    Table,
    and_,
    case,
    cast,
    func,
    insert,
    literal,
    not_,
    or_,
    select,
    true,
    update,
)

from sweeper.store.database import Store, transaction
from sweeper.store.schema import now, studies, tickets
from sweeper.store.studies import StudyRecord
from sweeper.store.usage import (
    HourLimits,
    SlotUse,
    core_seconds,
    gpu_seconds,
    settling,
    with_peak,
    within,
)

SEARCH: Final = "search"
LEASE_SECONDS: Final = 30.0
RENEW_SECONDS: Final = 10.0
# Tickets that are created in one transaction. Other SQLite writers wait for it.
BATCH: Final = 10_000

Point = Mapping[str, Any]
# Tickets with a planned point, tickets whose point comes from the sampler, or both.
Points = Literal["planned", "sampled", "any"]


class LeaseLost(Exception):
    """Another worker has taken the ticket: stop this trial and continue with the next one."""

    @classmethod
    def for_ticket(cls, ticket: "Ticket") -> Self:
        return cls(f"worker {ticket.worker} no longer holds ticket {ticket.number}")


@dataclass(frozen=True)
class Ticket:
    """A claimed ticket; `point` is the planned point, or None if the sampler chooses it.

    `claims` counts all claims of the ticket. `attempts` counts the claims that were not released,
    including this one: in these, a worker may have died.
    """

    study_id: int
    phase: str
    number: int
    point: Point | None
    worker: str
    claims: int
    attempts: int

    def held(self) -> ColumnElement[bool]:
        """Return the condition that this claim still holds the ticket."""
        return and_(
            self.row(),
            tickets.c.state == "open",
            tickets.c.worker == self.worker,
            tickets.c.claims == self.claims,
        )

    def row(self) -> ColumnElement[bool]:
        """Return the condition that selects the ticket's row."""
        return self.row_of(tickets)

    def row_of(self, table: Table) -> ColumnElement[bool]:
        """Return the condition that selects the ticket's rows in another table."""
        return and_(
            table.c.study_id == self.study_id,
            table.c.phase == self.phase,
            table.c.number == self.number,
        )


@dataclass(frozen=True)
class ClaimTerms:
    """What a claim uses, and under which conditions it is made.

    With `points` "planned" or "sampled", only tickets of that kind without failed attempts are
    claimed. `use` is what the slot of the claim uses. Nothing is claimed after the hours of
    `limits`.
    """

    points: Points = "any"
    use: SlotUse = field(default_factory=SlotUse)
    limits: HourLimits = field(default_factory=HourLimits)


ANY: Final = ClaimTerms()


@dataclass(frozen=True)
class TicketState:
    """The state of a ticket; `leased` is whether a worker's lease is valid.

    `unseen` is the time in seconds since the worker last renewed its lease, by the database's
    clock, and None if no worker holds the ticket.
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
    """Numbers of planned, closed and leased tickets, and of repeated attempts (`retried`).

    `core_seconds` and `gpu_seconds` are those of all claims.
    """

    planned: int
    closed: int
    leased: int
    retried: int
    core_seconds: float = field(default=0.0, compare=False)
    gpu_seconds: float = field(default=0.0, compare=False)


@transaction
def count_planned(connection: Connection, study: StudyRecord) -> int:
    """Return the number of search tickets of a study."""
    query = select(func.count()).where(tickets.c.study_id == study.id, tickets.c.phase == SEARCH)
    return int(connection.execute(query).scalar_one())


def add_tickets(
    store: Store, study: StudyRecord, points: Iterable[Point | None], first: int = 0
) -> int:
    """Create the missing search tickets; return the number of tickets created.

    `points` has one entry per ticket, starting with ticket `first`. A point of None is chosen by
    the sampler. Each batch is created in its own transaction.
    """
    existing = count_planned(store, study)
    missing = islice(enumerate(points, first), max(0, existing - first), None)
    added, last_sampled = 0, range(0)
    while batch := dict(islice(missing, BATCH)):
        sampled = all(point is None for point in batch.values())
        if sampled and len(batch) <= len(last_sampled):
            _copy_rows(store, study, last_sampled.start, next(iter(batch)), len(batch))
        else:
            _add_batch(store, study, batch)
            last_sampled = range(min(batch), max(batch) + 1) if sampled else range(0)
        added += len(batch)
    return added


@transaction
def _add_batch(
    connection: Connection, study: StudyRecord, points: Mapping[int, Point | None]
) -> None:
    add_rows(connection, study, SEARCH, points)


@transaction
def _copy_rows(
    connection: Connection, study: StudyRecord, start: int, first: int, count: int
) -> None:
    """Create `count` tickets from `first` on by copying tickets without a point from `start` on.

    This takes a tenth of the time of inserting rows.
    """
    copied = {
        "study_id": tickets.c.study_id,
        "phase": tickets.c.phase,
        "number": tickets.c.number + (first - start),
        "state": literal("open"),
        "params": tickets.c.params,
        "claims": literal(0),
        "returned": literal(0),
    }
    rows = select(*copied.values()).where(
        tickets.c.study_id == study.id,
        tickets.c.phase == SEARCH,
        tickets.c.number >= start,
        tickets.c.number < start + count,
    )
    connection.execute(insert(tickets).from_select(list(copied), rows))


def add_rows(
    connection: Connection, study: StudyRecord, phase: str, points: Mapping[int, Point | None]
) -> None:
    """Insert open tickets by number and point, as part of a transaction."""
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
def planned_points(
    connection: Connection, study: StudyRecord, phase: str = SEARCH
) -> dict[int, Point]:
    """Return the planned points, by ticket number."""
    query = (
        select(tickets.c.number, tickets.c.params)
        .where(tickets.c.study_id == study.id, tickets.c.phase == phase, _has("planned"))
        .order_by(tickets.c.number)
    )
    return {row.number: row.params for row in connection.execute(query)}


@transaction
def claim(
    connection: Connection,
    study_id: int,
    worker: str,
    *,
    below: int,
    phase: str = SEARCH,
    terms: ClaimTerms = ANY,
) -> Ticket | None:
    """Claim the first free ticket with a number less than `below`, or return None.

    Returns None for a study that is not running, and if the tickets of the phase have used the
    hours of the terms.
    """
    running = select(studies.c.id).where(studies.c.id == study_id, studies.c.state == "running")
    free = and_(
        running.exists(),
        tickets.c.study_id == study_id,
        tickets.c.phase == phase,
        tickets.c.number < below,
        tickets.c.state == "open",
        or_(tickets.c.lease_until.is_(None), tickets.c.lease_until < now()),
        _has(terms.points),
        *([] if terms.points == "any" else [tickets.c.claims == tickets.c.returned]),
        *within(terms.limits, study_id, phase),
    )
    first = select(tickets).where(free).order_by(tickets.c.number).limit(1)
    row = connection.execute(first.with_for_update(skip_locked=True)).one_or_none()
    if row is None:
        return None
    claims = row.claims + 1
    attempts = claims - row.returned
    ticket = Ticket(study_id, phase, row.number, row.params, worker, claims, attempts)
    values = {
        "since": now(),
        "cores": terms.use.cores,
        "gpus": terms.use.gpus,
        "share": terms.use.share,
        "worker": worker,
        "claims": claims,
        "lease_until": now() + LEASE_SECONDS,
    }
    # The seconds of a dead worker whose lease has expired are added up only now.
    connection.execute(settling(update(tickets).where(ticket.row()), values))
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
    """Return the number of open tickets with a number less than `below`, at most `most`."""
    still_open = select(tickets.c.number).where(
        tickets.c.study_id == study_id,
        tickets.c.phase == phase,
        tickets.c.number < below,
        tickets.c.state == "open",
        _has(points),
    )
    limited = still_open.limit(most).subquery()
    return int(connection.execute(select(func.count()).select_from(limited)).scalar_one())


def _has(points: Points) -> ColumnElement[bool]:
    if points == "any":
        return true()
    sampled = cast(tickets.c.params, String) == "null"  # a missing point is stored as JSON null
    return sampled if points == "sampled" else not_(sampled)


def check_held(connection: Connection, ticket: Ticket) -> None:
    """Raise `LeaseLost` if the claim no longer holds the ticket, as part of a transaction."""
    # FOR UPDATE, so that no other worker can claim the ticket before this transaction ends.
    query = select(tickets.c.number).where(ticket.held()).with_for_update()
    if connection.execute(query).one_or_none() is None:
        raise LeaseLost.for_ticket(ticket)


@transaction
def renew(connection: Connection, held: Sequence[Ticket]) -> None:
    """Extend the leases of the tickets that are still held."""
    still_held = or_(*(ticket.held() for ticket in held))
    connection.execute(update(tickets).where(still_held).values(lease_until=now() + LEASE_SECONDS))


@transaction
def set_share(connection: Connection, held: Sequence[Ticket], share: float) -> None:
    """Set the part of their slot that each of these tickets uses from now on."""
    still_held = or_(*(ticket.held() for ticket in held))
    values = {"since": now(), "share": share}
    connection.execute(settling(update(tickets).where(still_held), values))


@transaction
def release_ticket(connection: Connection, ticket: Ticket, peak: int | None = None) -> None:
    """Release an unfinished ticket so that any worker can resume it; the attempt does not count.

    `peak` is the peak memory of the attempt in bytes.
    """
    values = {"worker": None, "lease_until": None, "returned": tickets.c.returned + 1}
    _end_claim(connection, ticket, values, peak)


@transaction
def abandon_ticket(connection: Connection, ticket: Ticket, peak: int | None = None) -> None:
    """End the lease of a ticket whose trial makes no progress; the attempt counts."""
    _end_claim(connection, ticket, {"worker": None, "lease_until": None}, peak)


@transaction
def close_ticket(connection: Connection, ticket: Ticket, peak: int | None = None) -> None:
    """Close a ticket permanently; call it after Optuna's trial is finished."""
    _end_claim(connection, ticket, {"state": "closed", "lease_until": None}, peak)


def _end_claim(
    connection: Connection, ticket: Ticket, values: Mapping[str, Any], peak: int | None
) -> None:
    held = update(tickets).where(ticket.held())
    connection.execute(settling(held, {**values, **with_peak(peak)}))


@transaction
def revoke_leases(connection: Connection, workers: Iterable[str]) -> int:
    """End the leases of workers that are known to be dead; return the number of leases ended."""
    of_workers = and_(tickets.c.worker.in_(list(workers)), tickets.c.state == "open")
    ended = settling(update(tickets).where(of_workers), {"worker": None, "lease_until": None})
    return connection.execute(ended).rowcount


def _held(study: StudyRecord) -> ColumnElement[bool]:
    """Return the condition that a worker holds a ticket of the study, in any phase."""
    return and_(
        tickets.c.study_id == study.id, tickets.c.state == "open", tickets.c.worker.is_not(None)
    )


@transaction
def leaseholders(connection: Connection, study: StudyRecord) -> set[str]:
    """Return the names of the workers that hold a ticket of a study."""
    return set(connection.execute(select(tickets.c.worker).where(_held(study))).scalars())


@transaction
def last_workers(connection: Connection, study: StudyRecord) -> dict[int, str]:
    """Return the name of the worker that ran or runs each search ticket, by ticket number."""
    query = select(tickets.c.number, tickets.c.worker).where(
        tickets.c.study_id == study.id, tickets.c.phase == SEARCH, tickets.c.worker.is_not(None)
    )
    return {row.number: row.worker for row in connection.execute(query)}


@transaction
def all_closed(connection: Connection, study: StudyRecord, below: int, phase: str = SEARCH) -> bool:
    """Return whether all tickets with a number less than `below` are closed."""
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
    """Count the tickets with a number less than `below`."""
    attempts = tickets.c.claims - tickets.c.returned
    leased = and_(tickets.c.state == "open", tickets.c.lease_until >= now())
    query = select(
        func.count().label("planned"),
        func.sum(case((tickets.c.state == "closed", 1), else_=0)).label("closed"),
        func.sum(case((leased, 1), else_=0)).label("leased"),
        func.sum(case((attempts > 1, attempts - 1), else_=0)).label("retried"),
        func.sum(core_seconds()),
        func.sum(gpu_seconds()),
    ).where(tickets.c.study_id == study.id, tickets.c.phase == phase, tickets.c.number < below)
    row = connection.execute(query).one()
    seconds = (float(total or 0.0) for total in row[4:])
    return TicketCounts(row.planned, *(int(count or 0) for count in row[1:4]), *seconds)


@transaction
def claims_of(connection: Connection, study: StudyRecord, number: int, phase: str = SEARCH) -> int:
    """Return how often a ticket was claimed; if more than once, several workers ran its trial."""
    query = select(tickets.c.claims).where(
        tickets.c.study_id == study.id, tickets.c.phase == phase, tickets.c.number == number
    )
    return int(connection.execute(query).scalar_one())


@transaction
def ticket_states(
    connection: Connection, study: StudyRecord, phase: str = SEARCH
) -> list[TicketState]:
    """Return the states of all tickets of a phase, ordered by number."""
    of_phase = and_(tickets.c.study_id == study.id, tickets.c.phase == phase)
    return _states(connection, of_phase)


@transaction
def held_tickets(connection: Connection, study: StudyRecord) -> list[TicketState]:
    """Return the states of the tickets that workers hold, in all phases."""
    return _states(connection, _held(study))


def _states(connection: Connection, condition: ColumnElement[bool]) -> list[TicketState]:
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
        .where(condition)
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
