"""Filling a database with finished trials: copies of the rows of trials that were really run."""

import json
import math
import random
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import timedelta
from itertools import cycle
from pathlib import Path
from typing import Any, Final

from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import Connection, Table, insert, select, text, update

from sweeper.store.database import Store
from sweeper.store.schema import epochs, results, tickets
from sweeper.store.studies import StudyRecord
from sweeper.study.trials import TICKET
from sweeper.worker.served_studies import WorkerOptions
from sweeper.worker.stopping import StopRequest
from sweeper.worker.worker import work

# The number of trials that are really run.
REAL: Final = 32

Row = dict[str, Any]
# Changes a row of another trial to that of the trial with a number.
Change = Callable[[Row, int], Row]

_TRIALS: Final[Table] = models.TrialModel.__table__
_PARAMS: Final[Table] = models.TrialParamModel.__table__
_VALUES: Final[Table] = models.TrialValueModel.__table__
_REPORTS: Final[Table] = models.TrialIntermediateValueModel.__table__
_ATTRIBUTES: Final[Table] = models.TrialUserAttributeModel.__table__


def fill(store: Store, record: StudyRecord, finished: int, folder: Path) -> None:
    """Fill a new study, the only one in its database, with finished trials.

    The first trials are run by one worker, so that each has the number of its ticket. The others
    are copies of all their rows, with different points and values.
    """
    work(store, WorkerOptions(record.name, folder, trials=min(REAL, finished)), StopRequest())
    if finished > REAL:
        store.transact(lambda connection: _copy_trials(connection, range(REAL, finished)))
    if store.url.get_backend_name() == "postgresql":
        # Its autovacuum would do so within a minute.
        store.transact(lambda connection: connection.execute(text("analyze")))


def _copy_trials(connection: Connection, numbers: range) -> None:
    sources = dict(zip(numbers, cycle(_worth_copying(connection)), strict=False))
    born = [_own_times(source, number) for number, source in sources.items()]
    connection.execute(insert(_TRIALS), born)
    listed = connection.execute(select(_TRIALS.c.number, _TRIALS.c.trial_id))
    ids = {row.number: row.trial_id for row in listed}
    in_optuna = {n: (source["trial_id"], ids[n]) for n, source in sources.items()}
    _copy(connection, _PARAMS, "trial_id", in_optuna, _own_point)
    _copy(connection, _VALUES, "trial_id", in_optuna, _own_value("value"))
    _copy(connection, _REPORTS, "trial_id", in_optuna, _own_value("intermediate_value"))
    _copy(connection, _ATTRIBUTES, "trial_id", in_optuna, _own_attribute)
    in_ours = {n: (source["number"], n) for n, source in sources.items()}
    _copy(connection, epochs, "number", in_ours, _own_value("nll"))
    _copy(connection, results, "number", in_ours, _own_result)
    _close(connection, numbers)


def _worth_copying(connection: Connection) -> list[Row]:
    """Return the trials that were completed or pruned, without ε = 0 and without twins."""
    twins = select(results.c.number).where(results.c.copied_from.is_not(None))
    query = select(_TRIALS).where(
        _TRIALS.c.number > 0,
        _TRIALS.c.state.in_([TrialState.COMPLETE, TrialState.PRUNED]),
        _TRIALS.c.number.not_in(twins),
    )
    return [dict(row) for row in connection.execute(query.order_by(_TRIALS.c.number)).mappings()]


def _copy(
    connection: Connection,
    table: Table,
    key: str,
    keys: Mapping[int, tuple[int, int]],
    change: Change,
) -> None:
    """Copy the rows of each number from the first of its keys to the second."""
    left = defaultdict(list)
    for row in connection.execute(select(table)).mappings():
        left[row[key]].append(_without_id(table, dict(row)))
    copies = [
        {**change(row, number), key: new}
        for number, (old, new) in keys.items()
        for row in left[old]
    ]
    if copies:
        connection.execute(insert(table), copies)


def _without_id(table: Table, row: Row) -> Row:
    """Remove a key that the database increments itself."""
    own = [column.name for column in table.primary_key]
    return {name: value for name, value in row.items() if own != [name]}


def _close(connection: Connection, numbers: range) -> None:
    worker = select(tickets.c.worker).where(tickets.c.number == 0).scalar_subquery()
    mine = tickets.c.number.between(numbers[0], numbers[-1])
    closed = {"state": "closed", "claims": 1, "worker": worker}
    connection.execute(update(tickets).where(mine).values(**closed))


def _own_times(row: Row, number: int) -> Row:
    later = timedelta(milliseconds=number - row["number"])
    times = {name: row[name] + later for name in ("datetime_start", "datetime_complete")}
    return {**_without_id(_TRIALS, row), "number": number, **times}


def _own_point(row: Row, number: int) -> Row:
    value, by = row["param_value"], random.Random(number).gauss()
    if row["param_name"] == "epsilon":
        value = _within(value + 0.02 * by, 0.0, 0.4)
    elif row["param_name"] == "rate":
        value = _within(value * math.exp(0.2 * by), 0.3, 12.0)
    return {**row, "param_value": value}


def _within(value: float, low: float, high: float) -> float:
    """Reflect a value at the ends of a range; clipping it would make twins."""
    return high - abs(high - (low + abs(value - low)))


def _own_value(column: str) -> Change:
    return lambda row, number: {**row, column: row[column] + _shift(number)}


def _own_attribute(row: Row, number: int) -> Row:
    value = json.loads(row["value_json"])
    own = number if row["key"] == TICKET else _own_scores(value, number)
    return {**row, "value_json": json.dumps(own)}


def _own_result(row: Row, number: int) -> Row:
    return {**row, "scores": _own_scores(row["scores"], number)}


def _own_scores(scores: Mapping[str, Any], number: int) -> Row:
    return {**scores, "nll": scores["nll"] + _shift(number)}


def _shift(number: int) -> float:
    return random.Random(number).gauss(0.0, 0.005)
