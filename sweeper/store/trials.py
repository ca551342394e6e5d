"""Optuna's trials of a study, read and written without its object mapper.

Its tables are as its own storage makes them, which refuses a schema that is not this Optuna's;
the mapper reads ten thousand trials in seconds instead of a moment, and bears one in a dozen
statements under a lock that all workers wait for.
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
    func,
    insert,
    or_,
    select,
    true,
    update,
)

from sweeper.store.database import Store, transaction
from sweeper.store.schema import results
from sweeper.store.studies import StudyRecord
from sweeper.store.tickets import SEARCH

# The attribute that makes a trial ours. Trials without it are foreign: shown, never counted.
TICKET: Final = "ticket"

_studies = models.StudyModel.__table__
_trials = models.TrialModel.__table__
_values = models.TrialValueModel.__table__
_params = models.TrialParamModel.__table__
_attributes = models.TrialUserAttributeModel.__table__
_ticket = cast(_attributes.c.value_json, Integer)


@dataclass(frozen=True)
class StoredTrial:
    """A trial that was born with a ticket; times are UTC."""

    number: int
    ticket: int
    state: TrialState
    value: float | None
    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]
    started: datetime | None
    finished: datetime | None


@dataclass(frozen=True)
class TrialQuery:
    """Which trials of a study, in which order, and which part of them.

    `sort` is number, state, value, epsilon, schedule, rate, epochs, seconds, a score's name or
    `hp_` and a hyperparameter's. `states` and `schedules` (their places among the choices) are
    what is kept, None for all; of schedules, trials at ε = 0 are kept where `at_zero` says so.
    """

    sort: str = "number"
    descending: bool = False
    states: Collection[TrialState] | None = None
    schedules: Collection[int] | None = None
    at_zero: bool = True
    offset: int = 0
    limit: int = 50


@dataclass(frozen=True)
class TrialCounts:
    """How many trials have ended, and how; `best` and `baseline` are finished values."""

    complete: int
    pruned: int
    failed: int
    best: float | None
    baseline: float | None

    @property
    def ended(self) -> int:
        """How many trials have come to an end, whichever."""
        return self.complete + self.pruned + self.failed


def bear(
    store: Store,
    study: int,
    ticket: int,
    params: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
) -> int:
    """Create a running trial with its ticket and its point in one commit; return Optuna's id.

    `study` is Optuna's id. Not made again where the answer is lost: the caller has to look
    whether the trial is there.
    """
    with store.engine.begin() as connection:
        # Whoever makes a trial holds this row, other programs too: so numbers have no gaps.
        connection.execute(
            select(_studies.c.study_id).where(_studies.c.study_id == study).with_for_update()
        )
        of_study = select(func.count()).select_from(_trials).where(_trials.c.study_id == study)
        row = {
            "number": connection.execute(of_study).scalar_one(),
            "study_id": study,
            "state": TrialState.RUNNING,
            "datetime_start": _utc(),
        }
        made: Any = connection.execute(insert(_trials).values(row))
        trial = int(made.inserted_primary_key[0])
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
    return trial


@transaction
def finish(
    connection: Connection,
    trial: int,
    state: TrialState,
    value: float | None,
    attributes: Mapping[str, Any],
) -> bool:
    """End a running trial in one commit; return False where it has ended already."""
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
    """Return the trials of a study by number; `ids`, Optuna's, are those wanted, None for all."""
    wanted = [] if ids is None else [_trials.c.trial_id.in_(ids)]
    params = _params_by_trial(connection, name, wanted)
    query = _ours(
        name,
        _trials.c.trial_id,
        _trials.c.number,
        _trials.c.state,
        _trials.c.datetime_start,
        _trials.c.datetime_complete,
        _ticket.label("ticket"),
        _values.c.value,
    )
    query = query.where(*wanted).order_by(_trials.c.number)
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


class TrialTable(NamedTuple):
    """Trials with what is kept of them beside Optuna's rows, a sequence for each column.

    All of it is as the driver gives it: numbers and texts.
    `scores` and `extra` are JSON. `params` has the values of each parameter, None for none.
    """

    trial: Sequence[int]  # Optuna's id
    number: Sequence[int]
    ticket: Sequence[int]
    state: Sequence[str]  # names of TrialState
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
    params: Mapping[str, Sequence[Any]]


@transaction
def read_table(
    connection: Connection, study: StudyRecord, ids: Collection[int] | None = None
) -> TrialTable:
    """Return trials, in any order, by one query; `ids` are Optuna's of those wanted, None for all.

    Column by column, as of a hundred thousand trials each object costs seconds.
    """
    wanted = [] if ids is None else [_trials.c.trial_id.in_(ids)]
    distributions = _distributions(connection, study.name, wanted)
    params = {name: _params.alias(f"param_{at}") for at, name in enumerate(distributions)}
    query = _ours(
        study.name,
        _trials.c.trial_id,
        _trials.c.number,
        _ticket,
        cast(_trials.c.state, Text),
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
        *(table.c.param_value for table in params.values()),
        # Which of several distributions a value is of, where that says what it means.
        *(params[name].c.distribution_json for name, found in distributions.items() if found[1:]),
    ).outerjoin(results, _result_of(study))
    for name, table in params.items():
        mine = and_(table.c.trial_id == _trials.c.trial_id, table.c.param_name == name)
        query = query.outerjoin(table, mine)
    result: Any = connection.execute(query.where(*wanted))
    # Past SQLAlchemy's rows, which take as long again as all of the query.
    rows = result.cursor.fetchall()
    result.close()
    own = len(TrialTable._fields) - 1
    columns: list[Any] = list(zip(*rows, strict=True)) or [()] * (own + 2 * len(params))
    values, texts = iter(columns[own : own + len(params)]), iter(columns[own + len(params) :])
    suggested = {
        name: _external(next(values), found, next(texts) if found[1:] else None)
        for name, found in distributions.items()
    }
    return TrialTable(*columns[:own], params=suggested)  # type: ignore[misc]


def _distributions(
    connection: Connection, name: str, wanted: Collection[ColumnElement[bool]]
) -> dict[str, list[str]]:
    """Return the distributions that each parameter of a study has had, as JSON.

    The parameters are in the order of the first trial's point.
    """
    of_study = _params.join(_trials, _trials.c.trial_id == _params.c.trial_id).join(
        _studies, _studies.c.study_id == _trials.c.study_id
    )
    kept = and_(_studies.c.study_name == name, *wanted)
    first = select(func.min(_trials.c.trial_id)).select_from(of_study).where(kept)
    point = select(_params.c.param_name).where(_params.c.trial_id == first.scalar_subquery())
    found: dict[str, list[str]] = {
        param: [] for param in connection.execute(point.order_by(_params.c.param_id)).scalars()
    }
    pairs = select(_params.c.param_name, _params.c.distribution_json).select_from(of_study)
    for param, text in sorted(map(tuple, connection.execute(pairs.where(kept).distinct()))):
        found.setdefault(param, []).append(text)
    return found


def _external(
    values: Sequence[float | None], distributions: Sequence[str], texts: Sequence[str] | None
) -> Sequence[Any]:
    """Return values as they were suggested: of a choice, the choice and not its place."""
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
    """Return Optuna's id and the ticket of each trial asked for, in order, and how many match."""
    kept = _kept(query)
    found = _ours(study.name, _trials.c.trial_id, _ticket.label("ticket")).where(kept)
    found = found.outerjoin(results, _result_of(study))
    by = _sorted_by(query.sort)
    order = (by.is_(None), by.desc() if query.descending else by.asc(), _trials.c.number)
    page = found.order_by(*order).offset(query.offset).limit(query.limit)
    count = _ours(study.name, func.count()).where(kept)
    rows = [(row.trial_id, row.ticket) for row in connection.execute(page)]
    return rows, int(connection.execute(count).scalar_one())


@transaction
def complete_trials(connection: Connection, name: str) -> list[int]:
    """Return Optuna's ids of the trials that were trained to the end, by number."""
    query = _ours(name, _trials.c.trial_id).where(_trials.c.state == TrialState.COMPLETE)
    return list(connection.execute(query.order_by(_trials.c.number)).scalars())


@transaction
def find_number(connection: Connection, name: str, number: int) -> tuple[int, int] | None:
    """Return Optuna's id and the ticket of the trial with a number, or None."""
    query = _ours(name, _trials.c.trial_id, _ticket.label("ticket"))
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


def _sorted_by(key: str) -> ColumnElement[Any]:
    if key in _DIRECT:
        return _DIRECT[key]
    if key in _PARAMS or key.startswith("hp_"):
        return _param(key.removeprefix("hp_"))
    score: ColumnElement[Any] = results.c.scores[key].as_float()
    return score


def _param(name: str) -> ColumnElement[Any]:
    """Return a trial's value of a parameter as Optuna stores it: of a choice, its place."""
    mine = and_(_params.c.trial_id == _trials.c.trial_id, _params.c.param_name == name)
    return select(_params.c.param_value).where(mine).scalar_subquery()


def _kept(query: TrialQuery) -> ColumnElement[bool]:
    kept = []
    if query.states is not None:
        kept.append(_trials.c.state.in_(query.states))
    if query.schedules is not None:
        zero = _param("epsilon") == 0
        named = and_(_param("schedule").in_(query.schedules), _param("epsilon") != 0)
        kept.append(or_(named, zero) if query.at_zero else named)
    return and_(true(), *kept)


@transaction
def trial_numbers(
    connection: Connection, name: str, tickets: Collection[int] | None = None
) -> dict[int, int]:
    """Return the number of each trial by its ticket; `tickets` are those wanted, None for all."""
    if tickets is not None and not tickets:
        return {}
    query = _ours(name, _ticket.label("ticket"), _trials.c.number)
    if tickets is not None:
        query = query.where(_attributes.c.value_json.in_([json.dumps(one) for one in tickets]))
    return {row.ticket: row.number for row in connection.execute(query)}


@transaction
def count_trials(connection: Connection, name: str, below: int) -> TrialCounts:
    """Count the trials of the tickets under `below`."""
    zero = func.min(case((_ticket == 0, _values.c.value)))
    rows = connection.execute(
        _ours(name, _trials.c.state, func.count(), func.min(_values.c.value), zero)
        .where(_ticket < below)
        .group_by(_trials.c.state)
    )
    counts = {state: (count, lowest, baseline) for state, count, lowest, baseline in rows}
    none = (0, None, None)
    complete, best, baseline = counts.get(TrialState.COMPLETE, none)
    return TrialCounts(
        complete=complete,
        pruned=counts.get(TrialState.PRUNED, none)[0],
        failed=counts.get(TrialState.FAIL, none)[0],
        best=best,
        baseline=baseline,
    )


def _ours(name: str, *columns: Any) -> Select[Any]:
    """Return a query of a study's trials that have a ticket, each with its value if it has one."""
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
    connection: Connection, name: str, wanted: Collection[ColumnElement[bool]]
) -> Mapping[int, tuple[dict[str, Any], dict[str, BaseDistribution]]]:
    """Return the values of each trial's parameters and their distributions, by Optuna's id."""
    query = (
        select(
            _params.c.trial_id,
            _params.c.param_name,
            _params.c.param_value,
            _params.c.distribution_json,
        )
        .join(_trials, _trials.c.trial_id == _params.c.trial_id)
        .join(_studies, _studies.c.study_id == _trials.c.study_id)
        .where(_studies.c.study_name == name, *wanted)
        .order_by(_params.c.param_id)
    )
    # Few texts, shared by thousands of rows.
    parsed = cache(json_to_distribution)
    found: defaultdict[int, tuple[dict[str, Any], dict[str, BaseDistribution]]]
    found = defaultdict(lambda: ({}, {}))
    for trial, param, value, text in connection.execute(query):
        values, distributions = found[trial]
        distributions[param] = parsed(text)
        values[param] = distributions[param].to_external_repr(value)
    return found


def _result_of(study: StudyRecord) -> ColumnElement[bool]:
    return and_(
        results.c.study_id == study.id,
        results.c.phase == SEARCH,
        results.c.number == _ticket,
    )
