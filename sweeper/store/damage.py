"""Detection of damaged rows, reported per study so that other studies are not affected."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Concatenate, Final, NoReturn, ParamSpec, Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Double,
    Integer,
    LargeBinary,
    Table,
    Text,
    and_,
    cast,
    func,
    not_,
    select,
    type_coerce,
)
from sqlalchemy.types import NullType

from sweeper.errors import DataRefused, StudyDamaged, SweeperError, UnknownName
from sweeper.store.database import Store, transaction
from sweeper.store.schema import (
    code,
    confirmations,
    earlier_trials,
    metadata,
    results,
    tickets,
)
from sweeper.store.studies import StudyRecord, find_study
from sweeper.store.trials import find_damaged_point, has_optuna_study, read_trials

# Tables that are checked before a study is used: at most one row per trial.
_QUICK_TABLES: Final = (code, tickets, results, confirmations, earlier_trials)
_ALL_TABLES: Final = tuple(table for table in metadata.sorted_tables if "study_id" in table.c)

_MAX_VALUE_LENGTH: Final = 60
_MAX_MESSAGE_LENGTH: Final = 300
_MAX_DOUBLE: Final = sys.float_info.max

T = TypeVar("T")
P = ParamSpec("P")


class _Named(Protocol):
    @property
    def name(self) -> str: ...


S = TypeVar("S", bound=_Named | str)


def check_intact(store: Store, study: StudyRecord) -> None:
    """Raise `StudyDamaged` if rows of a study are missing or have the wrong type or shape.

    For speed, epochs and outputs are not checked.
    """
    if study.problem:
        raise StudyDamaged(study.name, study.problem)
    if not has_optuna_study(store, study.name):
        raise StudyDamaged(study.name, "its Optuna study was deleted")
    problem = find_damaged_point(store, study.name)
    if problem:
        raise StudyDamaged(study.name, f"its trials in Optuna are damaged: {problem}")
    for table in _QUICK_TABLES:
        _check_rows(store, study, table)


@contextmanager
def damage_as_error(store: Store, study: str) -> Iterator[None]:
    """Turn exceptions in the block into `StudyDamaged` for this study.

    Raises `UnknownName` if the study has been deleted. `DatabaseFailed` and other `SweeperError`s
    except `DataRefused` are raised unchanged.
    """
    try:
        yield
    except Exception as error:
        raise error_after_failure(store, study, error) from error


def error_after_failure(store: Store, name: str, error: Exception) -> SweeperError:
    """Return the error to raise after `error` occurred on a study; see `damage_as_error`."""
    if isinstance(error, SweeperError) and not isinstance(error, DataRefused):
        return error
    study = find_study(store, name)
    if study is None:
        return UnknownName(f"study {name!r} was deleted")
    try:
        check_intact(store, study)
        for table in _ALL_TABLES:
            _check_rows(store, study, table)
        read_trials(store, name)
    except SweeperError as damage:
        return damage
    except Exception as damage:  # values of a wrong type can raise any exception
        return StudyDamaged(name, f"its trials in Optuna cannot be read ({_message(damage)})")
    return StudyDamaged(name, _message(error), known=False)


def _message(error: Exception) -> str:
    text = str(error) if isinstance(error, SweeperError) else f"{type(error).__name__}: {error}"
    return text.splitlines()[0][:_MAX_MESSAGE_LENGTH]


def reports_damage(
    work: Callable[Concatenate[Store, S, P], T],
) -> Callable[Concatenate[Store, S, P], T]:
    """Decorate a function of a study or a study name to run inside `damage_as_error`."""

    @wraps(work)
    def run(store: Store, study: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with damage_as_error(store, study if isinstance(study, str) else study.name):
            return work(store, study, *args, **kwargs)

    return run


# ---- rows --------------------------------------------------------------------------------


@transaction
def _check_rows(connection: Connection, study: StudyRecord, table: Table) -> None:
    """Raise `StudyDamaged` for the first value of a table with a wrong type or shape."""
    belongs = table.c.study_id == study.id
    if connection.dialect.name == "sqlite":  # SQLite does not enforce column types
        for column in table.c:
            query = select(_raw(column)).where(belongs, _has_wrong_type(column)).limit(1)
            row = connection.execute(query).first()
            if row is not None:
                _raise_damaged(study, column, row[0], "a value of another type")
    for column in table.c:
        shape: TypeAdapter[Any] | None = column.info.get("shape")
        if shape is not None:
            texts = connection.execute(select(_raw(column)).where(belongs)).scalars()
            _check_shape(study, column, shape, [text for text in texts if text is not None])


def _check_shape(
    study: StudyRecord, column: Column[Any], shape: TypeAdapter[Any], texts: list[str]
) -> None:
    for text in dict.fromkeys(texts):
        try:
            shape.validate_json(text, strict=True)
        except ValidationError as error:
            _raise_damaged(study, column, text, error.errors()[0]["msg"])


def _raise_damaged(
    study: StudyRecord, column: Column[Any], value: object, problem: str
) -> NoReturn:
    text = repr(value)
    if len(text) > _MAX_VALUE_LENGTH:
        text = f"{text[:_MAX_VALUE_LENGTH]}…"
    raise StudyDamaged(study.name, f"{column.table.name}.{column.name} holds {text}: {problem}")


def _raw(column: Column[Any]) -> ColumnElement[Any]:
    """Return a column whose values are read as stored: JSON as text."""
    return cast(column, Text) if "shape" in column.info else type_coerce(column, NullType())


def _has_wrong_type(column: Column[Any]) -> ColumnElement[bool]:
    """Return the condition that SQLite stores a value that other databases would reject."""
    kind = func.typeof(column)
    match column.type:
        case BigInteger():
            valid = kind == "integer"
        case Integer():
            valid = and_(kind == "integer", column.between(-(2**31), 2**31 - 1))
        case Double():
            number = type_coerce(column, Double)
            valid = and_(kind.in_(("integer", "real")), number.between(-_MAX_DOUBLE, _MAX_DOUBLE))
        case LargeBinary():
            valid = kind == "blob"
        case _:
            valid = kind == "text"
    return and_(kind != "null", not_(valid)) if column.nullable else not_(valid)
