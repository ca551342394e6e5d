"""The cores and GPUs that tickets use, and for how long.

A claim uses the cores and GPUs of its slot from the claim to its end: until the ticket is closed,
released or abandoned, or until the lease of a dead worker ends. In a pack, the trials share them.
The seconds of all claims of a ticket are added up in its row.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Update,
    and_,
    case,
    func,
    literal,
    select,
)

from sweeper.store.database import transaction
from sweeper.store.schema import now, tickets

_HOUR: Final = 3600.0


@dataclass(frozen=True)
class SlotUse:
    """What a slot uses: CPU cores, and GPUs, of which a slot may share one with others.

    `share` is the part of the slot that a new claim uses.
    """

    cores: float = 1.0
    gpus: float = 0.0
    share: float = 1.0


@dataclass(frozen=True)
class HourLimits:
    """Upper limits of the hours of a search; None: no limit."""

    core_hours: float | None = None
    gpu_hours: float | None = None


def core_seconds(table: FromClause = tickets) -> ColumnElement[float]:
    """Return the core seconds of a ticket so far."""
    return table.c.core_seconds + _elapsed(table) * func.coalesce(table.c.cores, 0.0)


def gpu_seconds(table: FromClause = tickets) -> ColumnElement[float]:
    """Return the GPU seconds of a ticket so far."""
    return table.c.gpu_seconds + _elapsed(table) * func.coalesce(table.c.gpus, 0.0)


def _elapsed(table: FromClause) -> ColumnElement[float]:
    """Return the seconds of the current claim that are not added to its row yet."""
    lease, since = table.c.lease_until, table.c.since
    until = case((lease < now(), lease), else_=now())
    known = and_(since.is_not(None), until > since)
    return case((known, (until - since) * func.coalesce(table.c.share, 0.0)), else_=0.0)


def settling(statement: Update, values: Mapping[str, Any]) -> Update:
    """Return an update of tickets that adds what their claims have used, then sets `values`."""
    # MySQL assigns from left to right, and the seconds depend on columns that are set after them.
    seconds = [
        (tickets.c.core_seconds, core_seconds()),
        (tickets.c.gpu_seconds, gpu_seconds()),
    ]
    after = {"since": None, **values}
    rest = [(tickets.c[name], value) for name, value in after.items()]
    return statement.ordered_values(*seconds, *rest)


def with_peak(memory: int | None) -> dict[str, Any]:
    """Return the values that raise the peak memory of a ticket to `memory` bytes, if known."""
    if memory is None:
        return {}
    earlier = func.coalesce(tickets.c.peak_memory, 0)
    return {"peak_memory": case((earlier < memory, literal(memory)), else_=earlier)}


def within(limits: HourLimits, study_id: int, phase: str) -> list[ColumnElement[bool]]:
    """Return the conditions that the tickets of a phase have hours left."""
    used = tickets.alias("used")  # these conditions are part of queries of `tickets`
    of_phase = used.c.study_id == study_id, used.c.phase == phase
    pairs = (limits.core_hours, core_seconds(used)), (limits.gpu_hours, gpu_seconds(used))
    return [
        select(func.coalesce(func.sum(seconds), 0.0)).where(*of_phase).scalar_subquery()
        < limit * _HOUR
        for limit, seconds in pairs
        if limit is not None
    ]


@dataclass(frozen=True)
class Hours:
    """The hours that the tickets of a phase have used so far."""

    core_hours: float = 0.0
    gpu_hours: float = 0.0


@transaction
def hours_used(connection: Connection, study_id: int, phase: str) -> Hours:
    """Return the hours that the tickets of a phase have used so far."""
    of_phase = tickets.c.study_id == study_id, tickets.c.phase == phase
    query = select(func.sum(core_seconds()), func.sum(gpu_seconds())).where(*of_phase)
    return Hours(*(float(total or 0.0) / _HOUR for total in connection.execute(query).one()))
