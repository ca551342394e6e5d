"""Optuna's trials of a study, read and written with SQL instead of Optuna's object mapper.

The mapper needs seconds to read ten thousand trials, and creates a trial with a dozen statements
while all other workers wait for its lock. Optuna's storage checks that the tables match the
installed Optuna.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final, NamedTuple

from optuna.distributions import (
    BaseDistribution,
    FloatDistribution,
    distribution_to_json,
    json_to_distribution,
)
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Integer,
    Select,
    Text,
    and_,
    case,
    cast,
    delete,
    func,
    insert,
    not_,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from sweeper import limits
from sweeper.store.database import Store, transaction
from sweeper.store.schema import now, results, tickets
from sweeper.store.studies import StudyRecord
from sweeper.store.tickets import SEARCH, Ticket, check_held
from sweeper.store.usage import core_seconds, gpu_seconds

# User attribute with the ticket number. Trials without it were not created by sweeper, and are not
# counted.
TICKET: Final = "ticket"
# User attribute with the warnings about the reports of a running trial, a list of texts.
WARNINGS: Final = "warnings"

_studies = models.StudyModel.__table__
_trials = models.TrialModel.__table__
_values = models.TrialValueModel.__table__
_params = models.TrialParamModel.__table__
_attributes = models.TrialUserAttributeModel.__table__
# Optuna's tables with further rows of a trial, except parameters.
_TRIAL_TABLES: Final = tuple(
    model.__table__
    for model in (
        models.TrialValueModel,
        models.TrialIntermediateValueModel,
        models.TrialUserAttributeModel,
        models.TrialSystemAttributeModel,
        models.TrialHeartbeatModel,
    )
)


class _TicketOf(FunctionElement[int]):
    """SQL function: a ticket number from an attribute's JSON text, which may be any text."""

    type = Integer()
    inherit_cache = True


@compiles(_TicketOf)
def _ticket_of(element: Any, compiler: Any, **options: Any) -> str:
    [text] = element.clauses
    return str(compiler.process(cast(text, Integer), **options))


@compiles(_TicketOf, "postgresql")
def _ticket_of_postgresql(element: Any, compiler: Any, **options: Any) -> str:
    # PostgreSQL may evaluate the cast for rows of other studies, and an invalid cast is an error.
    [text] = (compiler.process(clause, **options) for clause in element.clauses)
    return f"(case when {text} ~ '^[0-9]{{1,9}}$' then cast({text} as integer) end)"


_ticket = _TicketOf(_attributes.c.value_json)
# A name of its own, because other parts of the same query refer to the table.
_used = tickets.alias("used")


@dataclass(frozen=True)
class StoredTrial:
    """A trial with a ticket; `value` is None unless it is complete, and times are UTC."""

    number: int
    ticket: int
    state: TrialState
    value: float | None
    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]
    started: datetime | None
    finished: datetime | None


class Requirement(NamedTuple):
    """A parameter with the values, as Optuna stores them, of which it must have one.

    `at_zero` tells what counts for trials at ε = 0 instead, None if nothing else does.
    """

    name: str
    values: Collection[float]
    at_zero: bool | None = None


@dataclass(frozen=True)
class TrialQuery:
    """Filter, order and page of a list of trials.

    `sort` is "number", "state", "value", "epsilon", "schedule", "rate", "epochs", "seconds", the
    name of a score, or "hp_" followed by a hyperparameter. `state` (a name as in `TrialRows`) and
    `schedules` (indices of the choices) are filters; None matches all. If `schedules` is set,
    trials at ε = 0 match only with `at_zero`. `requirements` are what the hyperparameter to sort by
    requires to be active.
    """

    sort: str = "number"
    descending: bool = False
    state: str | None = None
    schedules: Collection[int] | None = None
    at_zero: bool = True
    requirements: Collection["Requirement"] = ()
    offset: int = 0
    limit: int = 50


@dataclass(frozen=True)
class TrialCounts:
    """Numbers of ended trials by state.

    `best` is the lowest value of a complete trial, `baseline` the lowest one at ε = 0; None if
    there is none.
    """

    complete: int
    pruned: int
    failed: int
    best: float | None
    baseline: float | None

    @property
    def ended(self) -> int:
        """Number of trials that have ended in any state."""
        return self.complete + self.pruned + self.failed


def insert_trial(
    store: Store,
    study: int,
    ticket: int,
    params: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
    claimed: Ticket | None = None,
) -> tuple[int, int]:
    """Create a running trial with its ticket and parameters; return Optuna's trial id and number.

    `study` is Optuna's study id. With `claimed`, raises `LeaseLost` if another worker has taken
    the ticket. The transaction is not retried: after a lost response, the caller must check
    whether the trial exists.
    """
    with store.engine.begin() as connection:
        if claimed is not None:
            check_held(connection, claimed)
        # Every program that creates a trial locks this row, so trial numbers have no gaps.
        connection.execute(
            select(_studies.c.study_id).where(_studies.c.study_id == study).with_for_update()
        )
        of_study = select(func.count()).select_from(_trials).where(_trials.c.study_id == study)
        number = int(connection.execute(of_study).scalar_one())
        row = {
            "number": number,
            "study_id": study,
            "state": TrialState.RUNNING,
            "datetime_start": _utc(),
        }
        inserted: Any = connection.execute(insert(_trials).values(row))
        trial = int(inserted.inserted_primary_key[0])
        _add_attributes(connection, trial, {TICKET: ticket})
        rows = [
            {
                "trial_id": trial,
                "param_name": name,
                "param_value": distribution.to_internal_repr(params[name]),
                "distribution_json": distribution_to_json(distribution),
            }
            for name, distribution in distributions.items()
        ]
        if rows:
            connection.execute(insert(_params), rows)
    return trial, number


@transaction
def end_trial(
    connection: Connection,
    trial: int,
    state: TrialState,
    value: float | None,
    attributes: Mapping[str, Any],
    claimed: Ticket | None = None,
) -> bool:
    """End a running trial in one transaction; return False if it has ended already.

    With `claimed`, raises `LeaseLost` if another worker has taken the ticket.
    """
    if claimed is not None:
        check_held(connection, claimed)
    running = and_(_trials.c.trial_id == trial, _trials.c.state == TrialState.RUNNING)
    ended = {"state": state, "datetime_complete": _utc()}
    if not connection.execute(update(_trials).where(running).values(ended)).rowcount:
        return False
    if value is not None:
        finite = models.TrialValueModel.TrialValueType.FINITE
        row = {"trial_id": trial, "objective": 0, "value": value, "value_type": finite}
        connection.execute(insert(_values).values(row))
    _add_attributes(connection, trial, attributes)
    return True


@transaction
def write_warnings(
    connection: Connection, trial: int, warnings: Sequence[str], claimed: Ticket
) -> None:
    """Store the warnings about a running trial, in place of earlier ones; raises `LeaseLost`."""
    check_held(connection, claimed)
    earlier = and_(_attributes.c.trial_id == trial, _attributes.c.key == WARNINGS)
    connection.execute(delete(_attributes).where(earlier))
    _add_attributes(connection, trial, {WARNINGS: list(warnings)} if warnings else {})


@transaction
def read_warnings(connection: Connection, name: str, ticket: int) -> list[str]:
    """Return the warnings about the trial of a ticket."""
    stored = _attributes.alias()
    of_trial = and_(stored.c.trial_id == _trials.c.trial_id, stored.c.key == WARNINGS)
    text = select(stored.c.value_json).where(of_trial).scalar_subquery()
    found = connection.execute(_query_trials(name, text).where(_ticket == ticket)).scalar()
    return [] if found is None else [str(warning) for warning in json.loads(found)]


def set_failed_running(connection: Connection, name: str, tickets: Collection[int]) -> None:
    """Set the failed trials of these tickets to running, as part of a transaction.

    A trial keeps its number, ticket and parameters. It gets a new id, because Optuna's storages
    cache finished trials by id.
    """
    wanted = and_(_trials.c.state == TrialState.FAIL, _ticket.in_(tickets))
    failed = _query_trials(name, _trials.c.trial_id, _trials.c.number, _trials.c.study_id).where(
        wanted
    )
    for old, number, study in connection.execute(failed).all() if tickets else []:
        row = {"number": number, "study_id": study, "state": TrialState.RUNNING}
        inserted: Any = connection.execute(insert(_trials).values(**row, datetime_start=_utc()))
        new = int(inserted.inserted_primary_key[0])
        is_ticket = _attributes.c.key == TICKET
        for table, condition in ((_params, true()), (_attributes, is_ticket)):
            moved = and_(table.c.trial_id == old, condition)
            connection.execute(update(table).where(moved).values(trial_id=new))
        for table in _TRIAL_TABLES:
            connection.execute(delete(table).where(table.c.trial_id == old))
        connection.execute(delete(_trials).where(_trials.c.trial_id == old))


def _add_attributes(connection: Connection, trial: int, attributes: Mapping[str, Any]) -> None:
    rows = [
        {"trial_id": trial, "key": key, "value_json": json.dumps(value)}
        for key, value in attributes.items()
    ]
    if rows:
        connection.execute(insert(_attributes), rows)


def _utc() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


@transaction
def read_trials(
    connection: Connection, name: str, ids: Collection[int] | None = None
) -> list[StoredTrial]:
    """Return the trials of a study, ordered by number.

    `ids` selects trials by Optuna's ids; None returns all.
    """
    filters = [] if ids is None else [_trials.c.trial_id.in_(ids)]
    params = _params_by_trial(connection, name, filters)
    query = _query_trials(
        name,
        _trials.c.trial_id,
        _trials.c.number,
        _trials.c.state,
        _trials.c.datetime_start,
        _trials.c.datetime_complete,
        _ticket.label("ticket"),
        _values.c.value,
    )
    query = query.where(*filters).order_by(_trials.c.number)
    return [
        StoredTrial(
            row.number,
            row.ticket,
            row.state,
            row.value,
            *params[row.trial_id],
            row.datetime_start,
            row.datetime_complete,
        )
        for row in connection.execute(query)
    ]


class TrialRows(NamedTuple):
    """Trials and their results as columns, one sequence per column.

    Values are numbers and texts as returned by the driver; `scores` and `extra` are JSON texts.
    `params` maps each parameter to its values, None for trials without it.
    """

    trial: Sequence[int]  # Optuna's id
    number: Sequence[int]
    ticket: Sequence[int]
    state: Sequence[str]  # names of TrialState; WAITING if no worker holds the ticket
    value: Sequence[float | None]
    started: Sequence[str | None]  # ISO 8601, UTC
    finished: Sequence[str | None]
    scores: Sequence[str]
    extra: Sequence[str]
    classes: Sequence[int | None]
    epochs: Sequence[int]
    seconds: Sequence[float]
    copied_from: Sequence[int | None]
    failure: Sequence[str]
    cause: Sequence[str]
    notes: Sequence[str]
    code: Sequence[int]
    cores: Sequence[float | None]
    core_seconds: Sequence[float]  # of all attempts
    gpu_seconds: Sequence[float]
    peak_memory: Sequence[int | None]  # bytes
    params: Mapping[str, Sequence[Any]]


@transaction
def read_table(
    connection: Connection, study: StudyRecord, ids: Collection[int] | None = None
) -> TrialRows:
    """Return trials in any order with one query; `ids` selects by Optuna's ids, None returns all.

    The result is stored by column, because creating an object per trial takes seconds for a
    hundred thousand trials.
    """
    filters = [] if ids is None else [_trials.c.trial_id.in_(ids)]
    distributions = _distributions(connection, study.name, filters)
    params = {name: _params.alias(f"param_{index}") for index, name in enumerate(distributions)}
    query = _query_trials(
        study.name,
        _trials.c.trial_id,
        _trials.c.number,
        _ticket,
        _state(study),
        _values.c.value,
        cast(_trials.c.datetime_start, Text),
        cast(_trials.c.datetime_complete, Text),
        func.coalesce(cast(results.c.scores, Text), "{}"),
        func.coalesce(cast(results.c.extra, Text), "{}"),
        results.c.classes,
        func.coalesce(results.c.epochs, 0),
        func.coalesce(results.c.seconds, 0.0),
        results.c.copied_from,
        func.coalesce(results.c.failure, ""),
        func.coalesce(results.c.cause, ""),
        func.coalesce(results.c.notes, ""),
        func.coalesce(results.c.code, study.code),
        _used.c.cores,
        func.coalesce(core_seconds(_used), 0.0),
        func.coalesce(gpu_seconds(_used), 0.0),
        _used.c.peak_memory,
        *(table.c.param_value for table in params.values()),
        # For a parameter with several distributions, the one that each value belongs to.
        *(params[name].c.distribution_json for name, texts in distributions.items() if texts[1:]),
    ).outerjoin(results, _result_of(study))
    query = query.outerjoin(_used, _ticket_of_trial(study))
    for name, table in params.items():
        of_param = and_(table.c.trial_id == _trials.c.trial_id, table.c.param_name == name)
        query = query.outerjoin(table, of_param)
    result: Any = connection.execute(query.where(*filters))
    # Read from the driver's cursor: SQLAlchemy's rows would double the time of the query.
    rows = result.cursor.fetchall()
    result.close()
    fixed = len(TrialRows._fields) - 1
    columns: list[Any] = list(zip(*rows, strict=True)) or [()] * (fixed + 2 * len(params))
    values = iter(columns[fixed : fixed + len(params)])
    value_distributions = iter(columns[fixed + len(params) :])
    suggested = {
        name: _external(next(values), texts, next(value_distributions) if texts[1:] else None)
        for name, texts in distributions.items()
    }
    return TrialRows(*columns[:fixed], params=suggested)  # type: ignore[misc]


def _distributions(
    connection: Connection, name: str, filters: Collection[ColumnElement[bool]]
) -> dict[str, list[str]]:
    """Return the distinct distributions of each parameter of a study, as JSON texts.

    Parameters are in the order of the first trial.
    """
    of_study = _params.join(_trials, _trials.c.trial_id == _params.c.trial_id).join(
        _studies, _studies.c.study_id == _trials.c.study_id
    )
    condition = and_(_studies.c.study_name == name, *filters)
    first = select(func.min(_trials.c.trial_id)).select_from(of_study).where(condition)
    point = select(_params.c.param_name).where(_params.c.trial_id == first.scalar_subquery())
    distributions: dict[str, list[str]] = {
        param: [] for param in connection.execute(point.order_by(_params.c.param_id)).scalars()
    }
    pairs = select(_params.c.param_name, _params.c.distribution_json).select_from(of_study)
    for param, text in sorted(map(tuple, connection.execute(pairs.where(condition).distinct()))):
        distributions.setdefault(param, []).append(text)
    return distributions


def _external(
    values: Sequence[float | None], distributions: Sequence[str], texts: Sequence[str] | None
) -> Sequence[Any]:
    """Return values in external form: for a categorical parameter, the choice, not its index.

    `distributions` are the JSON texts of the parameter. If there are several, `texts` has the
    distribution of each value, else it is None.
    """
    parsed = {text: json_to_distribution(text) for text in distributions}
    if texts is not None:
        pairs = zip(values, texts, strict=True)
        return [None if v is None else parsed[text].to_external_repr(v) for v, text in pairs]
    [distribution] = parsed.values()
    if isinstance(distribution, FloatDistribution):
        return values
    return [None if v is None else distribution.to_external_repr(v) for v in values]


@transaction
def page_of_trials(
    connection: Connection, study: StudyRecord, query: TrialQuery
) -> tuple[list[tuple[int, int]], int]:
    """Return one page of trials as (Optuna's id, ticket) in order, and the number of matches."""
    condition = _condition(study, query)
    matching = _query_trials(study.name, _trials.c.trial_id, _ticket.label("ticket")).where(
        condition
    )
    matching = matching.outerjoin(results, _result_of(study))
    key = _sort_key(query.sort)
    if query.requirements:
        key = case((and_(*map(_meets, query.requirements)), key))
    order = (key.is_(None), key.desc() if query.descending else key.asc(), _trials.c.number)
    page = matching.order_by(*order).offset(query.offset).limit(query.limit)
    count = _query_trials(study.name, func.count()).where(condition)
    rows = [(row.trial_id, row.ticket) for row in connection.execute(page)]
    return rows, int(connection.execute(count).scalar_one())


@transaction
def complete_trials(connection: Connection, name: str) -> list[int]:
    """Return Optuna's ids of the complete trials, ordered by number."""
    query = _query_trials(name, _trials.c.trial_id).where(_trials.c.state == TrialState.COMPLETE)
    return list(connection.execute(query.order_by(_trials.c.number)).scalars())


@transaction
def ended_values(connection: Connection, name: str) -> list[float | None]:
    """Return the values of ended trials in the order in which they ended.

    The value of a pruned or failed trial is None.
    """
    ended = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    query = (
        _query_trials(name, _trials.c.state, _values.c.value)
        .where(_trials.c.state.in_(ended))
        .order_by(_trials.c.datetime_complete, _trials.c.number)
    )
    return [
        row.value if row.state == TrialState.COMPLETE else None for row in connection.execute(query)
    ]


@transaction
def has_study_id(connection: Connection, study: int) -> bool:
    """Return whether a study with this Optuna id exists."""
    query = select(_studies.c.study_id).where(_studies.c.study_id == study)
    return connection.execute(query).one_or_none() is not None


@transaction
def find_number(connection: Connection, name: str, number: int) -> tuple[int, int] | None:
    """Return (Optuna's id, ticket) of the trial with this number, or None."""
    if not 0 <= number <= limits.LARGEST_SQL_INTEGER:
        return None  # out of range for an SQL integer, which is an error in some databases
    query = _query_trials(name, _trials.c.trial_id, _ticket.label("ticket"))
    row = connection.execute(query.where(_trials.c.number == number)).one_or_none()
    return None if row is None else (row.trial_id, row.ticket)


_DIRECT: Final[Mapping[str, ColumnElement[Any]]] = {
    "number": _trials.c.number,
    "state": _trials.c.state,
    "value": _values.c.value,
    "epochs": results.c.epochs,
    "seconds": results.c.seconds,
}
_PARAMS: Final = ("epsilon", "schedule", "rate")


def _sort_key(key: str) -> ColumnElement[Any]:
    if key in _DIRECT:
        return _DIRECT[key]
    if key in _PARAMS or key.startswith("hp_"):
        return _param(key.removeprefix("hp_"))
    score: ColumnElement[Any] = results.c.scores[key].as_float()
    return score


def _meets(requirement: Requirement) -> ColumnElement[bool]:
    meets = _param(requirement.name).in_(requirement.values)
    if requirement.at_zero is None:
        return meets
    zero = _param("epsilon") == 0
    return or_(zero, meets) if requirement.at_zero else and_(not_(zero), meets)


def _param(name: str) -> ColumnElement[Any]:
    """Return a parameter's value as Optuna stores it: for a categorical one, the choice's index."""
    of_trial = and_(_params.c.trial_id == _trials.c.trial_id, _params.c.param_name == name)
    return select(_params.c.param_value).where(of_trial).scalar_subquery()


def _state(study: StudyRecord) -> ColumnElement[str]:
    """Return the state of a trial as text: WAITING if it has not ended and no worker runs it."""
    waiting = and_(
        tickets.c.study_id == study.id,
        tickets.c.phase == SEARCH,
        tickets.c.number == _ticket,
        tickets.c.state == "open",
        or_(tickets.c.lease_until.is_(None), tickets.c.lease_until < now()),
    )
    unclaimed = and_(
        _trials.c.state == TrialState.RUNNING, select(tickets.c.number).where(waiting).exists()
    )
    return case((unclaimed, TrialState.WAITING.name), else_=cast(_trials.c.state, Text))


def _condition(study: StudyRecord, query: TrialQuery) -> ColumnElement[bool]:
    conditions = []
    if query.state is not None:
        conditions.append(_state(study) == query.state)
    if query.schedules is not None:
        zero = _param("epsilon") == 0
        named = and_(_param("schedule").in_(query.schedules), _param("epsilon") != 0)
        conditions.append(or_(named, zero) if query.at_zero else named)
    return and_(true(), *conditions)


@transaction
def trial_numbers(
    connection: Connection, name: str, tickets: Collection[int] | None = None
) -> dict[int, int]:
    """Return trial numbers by ticket; `tickets` selects tickets, None returns all."""
    if tickets is not None and not tickets:
        return {}
    query = _query_trials(name, _ticket.label("ticket"), _trials.c.number)
    if tickets is not None:
        query = query.where(_attributes.c.value_json.in_([json.dumps(n) for n in tickets]))
    return {row.ticket: row.number for row in connection.execute(query)}


@transaction
def has_optuna_study(connection: Connection, name: str) -> bool:
    """Return whether an Optuna study with this name exists."""
    query = select(_studies.c.study_id).where(_studies.c.study_name == name)
    return connection.execute(query).one_or_none() is not None


@transaction
def find_damaged_point(connection: Connection, name: str) -> str:
    """Return a description of the first damage to the parameters of a study's trials, or ""."""
    for param, texts in _distributions(connection, name, []).items():
        for text in texts:
            try:
                json_to_distribution(text)
            except (ValueError, TypeError, LookupError) as error:
                return f"the distribution of {param} cannot be read ({error})"
    for param in ("epsilon", "schedule", "rate"):
        without = _query_trials(name, _trials.c.number).where(_param(param).is_(None)).limit(1)
        number = connection.execute(without).scalar_one_or_none()
        if number is not None:
            return f"trial {number} has no {param}"
    return ""


@transaction
def count_trials(connection: Connection, name: str, below: int) -> TrialCounts:
    """Count the trials of the tickets with a number less than `below`."""
    at_zero = and_(_trials.c.state == TrialState.COMPLETE, _param("epsilon") == 0)
    zero = func.min(case((at_zero, _values.c.value)))
    rows = connection.execute(
        _query_trials(name, _trials.c.state, func.count(), func.min(_values.c.value), zero)
        .where(_ticket < below)
        .group_by(_trials.c.state)
    )
    counts = {state: (count, lowest, baseline) for state, count, lowest, baseline in rows}
    absent = (0, None, None)
    complete, best, baseline = counts.get(TrialState.COMPLETE, absent)
    return TrialCounts(
        complete=complete,
        pruned=counts.get(TrialState.PRUNED, absent)[0],
        failed=counts.get(TrialState.FAIL, absent)[0],
        best=best,
        baseline=baseline,
    )


def _query_trials(name: str, *columns: Any) -> Select[Any]:
    """Return a query for the trials of a study that have a ticket, joined with their values."""
    joined: FromClause = (
        _trials.join(_studies, _studies.c.study_id == _trials.c.study_id)
        .join(
            _attributes,
            and_(_attributes.c.trial_id == _trials.c.trial_id, _attributes.c.key == TICKET),
        )
        .outerjoin(
            _values, and_(_values.c.trial_id == _trials.c.trial_id, _values.c.objective == 0)
        )
    )
    return select(*columns).select_from(joined).where(_studies.c.study_name == name)


def _params_by_trial(
    connection: Connection, name: str, filters: Collection[ColumnElement[bool]]
) -> Mapping[int, tuple[dict[str, Any], dict[str, BaseDistribution]]]:
    """Return the parameter values and distributions of trials, by Optuna's id."""
    query = (
        select(
            _params.c.trial_id,
            _params.c.param_name,
            _params.c.param_value,
            _params.c.distribution_json,
        )
        .join(_trials, _trials.c.trial_id == _params.c.trial_id)
        .join(_studies, _studies.c.study_id == _trials.c.study_id)
        .where(_studies.c.study_name == name, *filters)
        .order_by(_params.c.param_id)
    )
    # Thousands of rows share a few texts.
    parsed = cache(json_to_distribution)
    by_trial: defaultdict[int, tuple[dict[str, Any], dict[str, BaseDistribution]]]
    by_trial = defaultdict(lambda: ({}, {}))
    for trial, param, value, text in connection.execute(query):
        values, distributions = by_trial[trial]
        distributions[param] = parsed(text)
        values[param] = distributions[param].to_external_repr(value)
    return by_trial


def _ticket_of_trial(study: StudyRecord) -> ColumnElement[bool]:
    return and_(
        _used.c.study_id == study.id,
        _used.c.phase == SEARCH,
        _used.c.number == _ticket,
    )


def _result_of(study: StudyRecord) -> ColumnElement[bool]:
    return and_(
        results.c.study_id == study.id,
        results.c.phase == SEARCH,
        results.c.number == _ticket,
    )
