"""What trials leave behind: a row an epoch, and one result each."""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sqlalchemy import (
    Connection,
    Insert,
    Table,
    Text,
    bindparam,
    cast,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.compiler import SQLCompiler

from sweeper.store.database import Store, transaction
from sweeper.store.schema import epochs, replicates, results, tickets
from sweeper.store.studies import StudyRecord
from sweeper.store.tickets import SEARCH, LeaseLost, Ticket


@dataclass(frozen=True)
class EpochRow:
    """One evaluation as stored; `epsilon` is the one in force when it was taken.

    `mean_epsilon` is the mean of what the epoch's training samples were smoothed with.
    """

    epoch: int
    progress: float
    epsilon: float
    train_loss: float | None
    nll: float
    accuracy: float
    brier: float
    ece: float
    mean_epsilon: float | None = None


@dataclass(frozen=True)
class Result:
    """What is kept of a finished trial beside Optuna's own row."""

    scores: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, float] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    classes: int | None = None
    epochs: int = 0
    seconds: float = 0.0
    copied_from: int | None = None
    failure: str = ""
    cause: str = ""  # sweeper.study.objective.Cause
    splits: str = ""  # those that the loop gives beside validation
    log: str = ""
    notes: str = ""  # what was unusual about its reports, one line per note


def _if_held(table: Table) -> Insert:
    """Return the statement that stores a row of a ticket while its claim still holds it."""
    return insert(table).from_select(
        [column.name for column in table.c],
        select(*(bindparam(column.name, type_=column.type) for column in table.c))
        .where(
            tickets.c.study_id == bindparam("study_id"),
            tickets.c.phase == bindparam("phase"),
            tickets.c.number == bindparam("number"),
            tickets.c.state == bindparam("state"),
            tickets.c.worker == bindparam("holder"),
            tickets.c.claims == bindparam("claim"),
        )
        .with_for_update(),
    )


@cache
def _compiled(table: Table, dialect: Dialect) -> SQLCompiler:
    """Return `_if_held` compiled once.

    It runs every epoch of every trial, and SQLAlchemy's own way to it costs more than the
    database.
    """
    return _if_held(table).compile(dialect=dialect)


def _write_if_held(store: Store, ticket: Ticket, table: Table, row: Mapping[str, Any]) -> None:
    held = {"state": "open", "holder": ticket.worker, "claim": ticket.claims}
    bound: Any = {**_key(ticket), **held, **row}
    compiled = _compiled(table, store.engine.dialect)
    if compiled.positiontup is not None:
        bound = tuple(bound[name] for name in compiled.positiontup)
    if store.run_alone(compiled.string, bound) != 1:
        raise _lost(ticket)


@transaction
def start_attempt(connection: Connection, ticket: Ticket) -> int:
    """Return how many epochs an earlier attempt has stored; its result, if any, is dropped."""
    _check_held(connection, ticket)
    connection.execute(delete(results).where(_of(results, ticket)))
    last = func.coalesce(func.max(epochs.c.epoch), 0).label("last")
    return int(connection.execute(select(last).where(_of(epochs, ticket))).scalar_one())


@transaction
def rewrite_epoch(connection: Connection, ticket: Ticket, row: EpochRow) -> None:
    """Store an evaluation that an earlier attempt has stored already: readers miss neither."""
    _check_held(connection, ticket)
    mine = _of(epochs, ticket) & (epochs.c.epoch == row.epoch)
    connection.execute(update(epochs).where(mine).values(**_numbers(row)))


@transaction
def _drop_result(connection: Connection, ticket: Ticket) -> None:
    _check_held(connection, ticket)
    connection.execute(delete(results).where(_of(results, ticket)))


def write_epoch(store: Store, ticket: Ticket, row: EpochRow) -> None:
    """Store one evaluation; raises `LeaseLost` where the ticket is another worker's by now."""
    _write_if_held(store, ticket, epochs, _numbers(row))


def write_result(store: Store, ticket: Ticket, result: Result) -> None:
    """Store what a trial found, once a claim, before Optuna is told; raises `LeaseLost`."""
    if ticket.claims > 1:
        _drop_result(store, ticket)
    _write_if_held(store, ticket, results, {k: _bound(v) for k, v in vars(result).items()})


@transaction
def write_replicate(
    connection: Connection,
    ticket: Ticket,
    result: Result,
    scores: Mapping[str, Any],
    rows: Mapping[str, int],
    examples: bytes,
) -> None:
    """Store what a confirmation's training found, in place of an earlier attempt's."""
    _check_held(connection, ticket)
    found = {"scores": _plain(scores), "rows": dict(rows), "examples": examples}
    for table, row in (
        (results, {name: _plain(value) for name, value in vars(result).items()}),
        (replicates, found),
    ):
        connection.execute(delete(table).where(_of(table, ticket)))
        connection.execute(insert(table).values(**_key(ticket), **row))


@transaction
def read_replicates(
    connection: Connection, study: StudyRecord, phase: str
) -> dict[int, dict[str, Any]]:
    """Return scores, rows and examples of a confirmation's trainings, by ticket number."""
    query = select(replicates).where(replicates.c.study_id == study.id, replicates.c.phase == phase)
    return {row.number: dict(row._mapping) for row in connection.execute(query)}


@transaction
def close_ticket(connection: Connection, ticket: Ticket) -> None:
    """End a ticket for good, after Optuna was told."""
    connection.execute(
        update(tickets).where(ticket.held()).values(state="closed", lease_until=None)
    )


@transaction
def read_results(
    connection: Connection,
    study: StudyRecord,
    phase: str = SEARCH,
    numbers: Collection[int] | None = None,
) -> dict[int, Result]:
    """Return the results of a study by ticket number, without their logs: those can be long.

    `numbers` are the tickets wanted, None for all.
    """
    columns = [column for column in results.c if column.name != "log"]
    query = select(*columns).where(results.c.study_id == study.id, results.c.phase == phase)
    if numbers is not None:
        query = query.where(results.c.number.in_(numbers))
    return {row.number: _result(dict(row._mapping)) for row in connection.execute(query)}


@transaction
def read_environment(
    connection: Connection, study: StudyRecord
) -> tuple[int | None, Mapping[str, str]]:
    """Return the classes and the environment of the first results that say what they are."""
    mine = results.c.study_id == study.id, results.c.phase == SEARCH
    classes = select(results.c.classes).where(*mine, results.c.classes.is_not(None))
    said = cast(results.c.environment, Text) != "{}"
    environment = select(results.c.environment).where(*mine, said)
    found = connection.execute(environment.order_by(results.c.number).limit(1))
    first = connection.execute(classes.order_by(results.c.number).limit(1))
    return first.scalar_one_or_none(), found.scalar_one_or_none() or {}


@transaction
def read_result(
    connection: Connection, study: StudyRecord, number: int, phase: str = SEARCH
) -> Result | None:
    """Return the result of one ticket in full, or None."""
    query = select(results).where(
        results.c.study_id == study.id, results.c.phase == phase, results.c.number == number
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else _result(dict(row._mapping))


@transaction
def read_epochs(
    connection: Connection,
    study: StudyRecord,
    phase: str = SEARCH,
    numbers: Collection[int] | None = None,
) -> list[dict[str, Any]]:
    """Return the stored evaluations of a study, by ticket number and epoch.

    `numbers` are the tickets wanted, None for all.
    """
    query = (
        select(epochs)
        .where(epochs.c.study_id == study.id, epochs.c.phase == phase)
        .order_by(epochs.c.number, epochs.c.epoch)
    )
    if numbers is not None:
        query = query.where(epochs.c.number.in_(numbers))
    return [dict(row._mapping) for row in connection.execute(query)]


@transaction
def read_epochs_of(
    connection: Connection, study: StudyRecord, number: int, phase: str = SEARCH
) -> list[EpochRow]:
    """Return the stored evaluations of one ticket by epoch; what was not finite is None."""
    columns = [epochs.c[name] for name in EpochRow.__dataclass_fields__]
    query = (
        select(*columns)
        .where(epochs.c.study_id == study.id, epochs.c.phase == phase, epochs.c.number == number)
        .order_by(epochs.c.epoch)
    )
    return [EpochRow(**row._mapping) for row in connection.execute(query)]


def _result(row: Mapping[str, Any]) -> Result:
    names = Result.__dataclass_fields__
    return Result(**{name: row[name] for name in names if name in row})


def _check_held(connection: Connection, ticket: Ticket) -> None:
    # FOR UPDATE so that on a server the lease cannot pass on before this transaction ends.
    query = select(tickets.c.number).where(ticket.held()).with_for_update()
    if connection.execute(query).one_or_none() is None:
        raise _lost(ticket)


def _lost(ticket: Ticket) -> LeaseLost:
    return LeaseLost(f"ticket {ticket.number} is no longer {ticket.worker}'s")


def _key(ticket: Ticket) -> dict[str, Any]:
    return {"study_id": ticket.study_id, "phase": ticket.phase, "number": ticket.number}


def _of(table: Any, ticket: Ticket) -> Any:
    return (
        (table.c.study_id == ticket.study_id)
        & (table.c.phase == ticket.phase)
        & (table.c.number == ticket.number)
    )


def _numbers(row: EpochRow) -> dict[str, Any]:
    return {name: _finite(value) for name, value in vars(row).items()}


def _plain(value: Any) -> Any:
    """Return the value as every database can store it.

    NaN and infinities become None, because JSON in SQL has none; characters that UTF-8 cannot
    encode, and NUL, which PostgreSQL refuses, are replaced.
    """
    if isinstance(value, Mapping):
        return {_text(key): _plain(item) for key, item in value.items()}
    return _text(value) if isinstance(value, str) else _finite(value)


def _text(text: str) -> str:
    return text.encode(errors="backslashreplace").decode().replace("\0", "\ufffd")


def _bound(value: Any) -> Any:
    """Return the value as the driver takes it: JSON as its text."""
    plain = _plain(value)
    return json.dumps(plain) if isinstance(plain, dict) else plain


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
