"""Stored results of training runs: one row per epoch, and one result per ticket."""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sqlalchemy import (
    Connection,
    Insert,
    Table,
    Text,
    and_,
    bindparam,
    cast,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.compiler import SQLCompiler

from sweeper.store.database import Store, storable_text, transaction
from sweeper.store.outputs import Output, store_outputs
from sweeper.store.schema import epochs, replicates, results, studies, tickets
from sweeper.store.studies import StudyRecord
from sweeper.store.tickets import SEARCH, LeaseLost, Ticket, check_held


@dataclass(frozen=True)
class EpochRow:
    """One evaluation as stored; `epsilon` is the value at the time of the evaluation.

    `mean_epsilon` is the mean over the training samples of the epoch.
    """

    epoch: int
    progress: float
    epsilon: float
    train_loss: float | None
    nll: float | None
    accuracy: float | None
    brier: float | None
    ece: float | None
    mean_epsilon: float | None = None


@dataclass(frozen=True)
class Result:
    """The result of a finished trial that is stored in addition to Optuna's row."""

    scores: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, float] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    classes: int | None = None
    epochs: int = 0
    seconds: float = 0.0
    copied_from: int | None = None
    failure: str = ""
    cause: str = ""  # sweeper.training.messages.Cause
    splits: str = ""  # splits that the training function reports besides validation
    notes: str = ""  # warnings about its reports, one per line
    code: int = 1  # the revision of the study's code
    problem: str = ""  # key for grouping equal failures


def _if_held(table: Table) -> Insert:
    """Return a statement that inserts a row only if the claim still holds the ticket."""
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
    """Return `_if_held` compiled, cached because it runs once per epoch of every trial."""
    return _if_held(table).compile(dialect=dialect)


def _write_if_held(store: Store, ticket: Ticket, table: Table, row: Mapping[str, Any]) -> None:
    held = {"state": "open", "holder": ticket.worker, "claim": ticket.claims}
    bound: Any = {**_key(ticket), **held, **row}
    compiled = _compiled(table, store.engine.dialect)
    if compiled.positiontup is not None:
        bound = tuple(bound[name] for name in compiled.positiontup)
    if store.execute_on_driver(compiled.string, bound) != 1:
        raise LeaseLost.for_ticket(ticket)


@transaction
def drop_result(connection: Connection, ticket: Ticket) -> None:
    """Delete the result of an earlier attempt, if any; raises `LeaseLost`."""
    check_held(connection, ticket)
    connection.execute(delete(results).where(ticket.row_of(results)))


def write_epoch(store: Store, ticket: Ticket, row: EpochRow) -> None:
    """Store one evaluation; raises `LeaseLost` if another worker has taken the ticket."""
    _write_if_held(store, ticket, epochs, _numbers(row))


def write_epochs(
    store: Store,
    rows: Sequence[tuple[Ticket, EpochRow]],
    printed: Sequence[tuple[Ticket, Output]] = (),
) -> list[Ticket]:
    """Insert or replace evaluations of several tickets in one transaction.

    `printed` is the output of their attempts, stored with them. Returns the tickets that another
    worker has taken; no evaluation is stored for these.
    """
    if len(rows) == 1 and not printed and rows[0][0].claims == 1:
        (ticket, row) = rows[0]
        try:
            write_epoch(store, ticket, row)  # fast path: a single statement
        except LeaseLost:
            return [ticket]
        return []
    return _write_epochs(store, rows, printed) if rows else []


@transaction
def _write_epochs(
    connection: Connection,
    rows: Sequence[tuple[Ticket, EpochRow]],
    printed: Sequence[tuple[Ticket, Output]],
) -> list[Ticket]:
    key = tickets.c.study_id, tickets.c.phase, tickets.c.number
    held = select(*key).where(or_(*(ticket.held() for ticket, _ in rows))).with_for_update()
    held_keys = {tuple(row) for row in connection.execute(held)}
    to_store = [(t, row) for t, row in rows if (t.study_id, t.phase, t.number) in held_keys]
    if to_store:
        # Rows of an earlier attempt, or of this call if it is retried after a lost response.
        stored = (ticket.row_of(epochs) & (epochs.c.epoch == row.epoch) for ticket, row in to_store)
        connection.execute(delete(epochs).where(or_(*stored)))
        connection.execute(insert(epochs), [{**_key(t), **_numbers(row)} for t, row in to_store])
    if printed:
        store_outputs(connection, printed)
    return [t for t, _ in rows if (t.study_id, t.phase, t.number) not in held_keys]


def write_result(store: Store, ticket: Ticket, result: Result) -> None:
    """Store the result of a trial, before Optuna's trial is finished; raises `LeaseLost`.

    Call it once per claim.
    """
    if ticket.claims > 1:
        drop_result(store, ticket)
    _write_if_held(store, ticket, results, {k: _bound(v) for k, v in vars(result).items()})


@transaction
def write_result_if_equal(
    connection: Connection,
    study: StudyRecord,
    ticket: Ticket,
    result: Result,
    values: Mapping[str, str],
) -> tuple[str, str] | None:
    """Store the result of a trial if its environment agrees with that of successful trials.

    `values` are the parts of the environment that must be equal. Of two trials that end at the
    same time, the first one decides. Returns the first key that differs, with the value of the
    other trials, and stores nothing then. Raises `LeaseLost`.
    """
    connection.execute(select(studies.c.id).where(studies.c.id == study.id).with_for_update())
    check_held(connection, ticket)
    for key, value in values.items():
        earlier = _environment_value(connection, study, key)
        if earlier is not None and earlier != value:
            return key, earlier
    row = {name: _plain(value) for name, value in vars(result).items()}
    connection.execute(delete(results).where(ticket.row_of(results)))
    connection.execute(insert(results).values(**_key(ticket), **row))
    return None


@transaction
def write_replicate(
    connection: Connection,
    ticket: Ticket,
    result: Result,
    scores: Mapping[str, Any],
    rows: Mapping[str, int],
    examples: bytes,
) -> None:
    """Store the result of a replicate, replacing an earlier attempt's; raises `LeaseLost`.

    `scores` and `rows` have one entry per split; `examples` are the packed test examples.
    """
    check_held(connection, ticket)
    replicate = {"scores": _plain(scores), "rows": dict(rows), "examples": examples}
    for table, row in (
        (results, {name: _plain(value) for name, value in vars(result).items()}),
        (replicates, replicate),
    ):
        connection.execute(delete(table).where(ticket.row_of(table)))
        connection.execute(insert(table).values(**_key(ticket), **row))


@transaction
def count_other_confirmations(connection: Connection, study: StudyRecord, phase: str) -> int:
    """Return the number of a study's confirmations that have replicates, without `phase`."""
    query = select(func.count(replicates.c.phase.distinct())).where(
        replicates.c.study_id == study.id, replicates.c.phase != phase
    )
    return int(connection.execute(query).scalar_one())


@transaction
def read_replicates(
    connection: Connection, study: StudyRecord, phase: str
) -> dict[int, dict[str, Any]]:
    """Return number, scores and rows of a confirmation's training runs, by ticket number.

    `size` is the size of the packed test examples in bytes, 0 if there are none.
    """
    columns = (replicates.c.number, replicates.c.scores, replicates.c.rows)
    query = select(*columns, func.length(replicates.c.examples).label("size")).where(
        replicates.c.study_id == study.id, replicates.c.phase == phase
    )
    return {row.number: dict(row._mapping) for row in connection.execute(query)}


@transaction
def read_examples(connection: Connection, study: StudyRecord, phase: str) -> dict[int, bytes]:
    """Return the packed test examples of a confirmation's training runs, by ticket number."""
    query = select(replicates.c.number, replicates.c.examples).where(
        replicates.c.study_id == study.id, replicates.c.phase == phase
    )
    return {row.number: row.examples for row in connection.execute(query)}


@transaction
def fail_study(connection: Connection, study: StudyRecord, most: int) -> bool:
    """Mark a running study as failed if its trials keep failing; return whether it was marked.

    It is marked if at least `most` trials of its current code failed with the same problem and
    none succeeded.
    """
    of_search = and_(
        results.c.study_id == study.id,
        results.c.phase == SEARCH,
        results.c.code == study.code,
    )
    succeeded = select(results.c.number).where(of_search, results.c.cause == "")
    repeated_problem = (
        select(results.c.problem)
        .where(of_search, results.c.cause.not_in(("", "lost")))
        .group_by(results.c.problem)
        .having(func.count() >= most)
    )
    running = and_(studies.c.id == study.id, studies.c.state == "running")
    stuck = and_(running, repeated_problem.exists(), ~succeeded.exists())
    return connection.execute(update(studies).where(stuck).values(state="failed")).rowcount > 0


@transaction
def read_results(
    connection: Connection,
    study: StudyRecord,
    phase: str = SEARCH,
    numbers: Collection[int] | None = None,
) -> dict[int, Result]:
    """Return the results of a study by ticket number.

    `numbers` selects tickets; None returns all.
    """
    query = select(results).where(results.c.study_id == study.id, results.c.phase == phase)
    if numbers is not None:
        query = query.where(results.c.number.in_(numbers))
    return {row.number: _result(dict(row._mapping)) for row in connection.execute(query)}


@transaction
def read_environment(
    connection: Connection, study: StudyRecord
) -> tuple[int | None, Mapping[str, str]]:
    """Return the first known number of classes (or None) and environment (or {}) of a search."""
    of_search = results.c.study_id == study.id, results.c.phase == SEARCH, results.c.cause == ""
    classes = select(results.c.classes).where(*of_search, results.c.classes.is_not(None))
    not_empty = cast(results.c.environment, Text) != "{}"
    environment = select(results.c.environment).where(*of_search, not_empty)
    first_environment = connection.execute(environment.order_by(results.c.number).limit(1))
    first_classes = connection.execute(classes.order_by(results.c.number).limit(1))
    return first_classes.scalar_one_or_none(), first_environment.scalar_one_or_none() or {}


@transaction
def read_environment_value(connection: Connection, study: StudyRecord, key: str) -> str | None:
    """Return a value of the environment of the first successful trial that has it, or None."""
    return _environment_value(connection, study, key)


def _environment_value(connection: Connection, study: StudyRecord, key: str) -> str | None:
    has_key = cast(results.c.environment, Text).contains(json.dumps(key), autoescape=True)
    of_search = results.c.study_id == study.id, results.c.phase == SEARCH, results.c.cause == ""
    query = select(results.c.environment).where(*of_search, has_key)
    first = connection.execute(query.order_by(results.c.number).limit(1)).scalar_one_or_none()
    return None if first is None else first.get(key)


@transaction
def read_result(
    connection: Connection, study: StudyRecord, number: int, phase: str = SEARCH
) -> Result | None:
    """Return the result of one ticket, or None if there is none."""
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
    """Return the stored evaluations of a study, ordered by ticket number and epoch.

    `numbers` selects tickets; None returns all.
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
    """Return the stored evaluations of one ticket, ordered by epoch; non-finite values are None."""
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


def _key(ticket: Ticket) -> dict[str, Any]:
    return {"study_id": ticket.study_id, "phase": ticket.phase, "number": ticket.number}


def _numbers(row: EpochRow) -> dict[str, Any]:
    return {name: _finite(value) for name, value in vars(row).items()}


def _plain(value: Any) -> Any:
    """Return a value that every database can store.

    NaN and infinities become None, because JSON cannot represent them.
    """
    if isinstance(value, Mapping):
        return {storable_text(key): _plain(item) for key, item in value.items()}
    return storable_text(value) if isinstance(value, str) else _finite(value)


def _bound(value: Any) -> Any:
    """Return a value that the driver accepts: JSON as text."""
    plain = _plain(value)
    return json.dumps(plain) if isinstance(plain, dict) else plain


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
