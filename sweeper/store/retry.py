"""Retries of database operations after transient errors."""

import logging
import random
import time
from collections.abc import Callable
from typing import Final, TypeVar

import optuna
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    MultipleResultsFound,
    NoResultFound,
    PendingRollbackError,
    SQLAlchemyError,
    StatementError,
)

FIRST_DELAY: Final = 0.1
LONGEST_DELAY: Final = 5.0

# SQLSTATE classes and codes: connection errors, serialization failure, deadlock, too many
# connections, shutdown and startup.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_TRANSIENT_STATES: Final = ("08", "40001", "40P01", "53300", "57P01", "57P02", "57P03")
# MySQL error numbers: too many connections, lock wait timeout, deadlock, connection lost or
# refused. 0: the connection was closed. 1020: another transaction changed the row.
_TRANSIENT_NUMBERS: Final = (0, 1020, 1040, 1053, 1205, 1213, 1927, 2002, 2003, 2006, 2013)
# Messages of permanent connection errors: psycopg sets no SQLSTATE if it cannot connect.
_PERMANENT_ERRORS: Final = ("authentication", "password", "does not exist", "no pg_hba.conf entry")

_log = logging.getLogger(__name__)

T = TypeVar("T")


def retry_transient(work: Callable[[], T], *, seconds: float, database: str) -> T:
    """Call `work` and return its result; retry after transient errors for up to `seconds`.

    The delay grows from 0.1 to 5 s, with jitter so that many workers do not retry at the same
    time. `work` must be idempotent: an earlier call may have been committed although its response
    was lost. `database` names the database in the log.
    """
    deadline, delay, warned = time.monotonic() + seconds, FIRST_DELAY, False
    while True:
        try:
            return work()
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            if not is_transient(error) or time.monotonic() + delay > deadline:
                raise
            if not warned:
                _log.warning("%s: %s; retrying for %.0f s", database, reason(error), seconds)
                warned = True
        time.sleep(delay * random.uniform(0.5, 1.0))
        delay = min(2 * delay, LONGEST_DELAY)


# Part of a driver's message -> explanation and advice.
_TOO_MANY_CONNECTIONS: Final = (
    "the server accepts no more connections; run fewer workers, or raise its max_connections to "
    "two per worker"
)
_HINTS: Final = {
    "database is locked": "locked by another process for more than {seconds:g} s; end that "
    "process, or try again",
    "disk is full": "its disk is full; free some space and launch again, nothing is lost",
    "readonly database": "it is read-only; make the file, its folder and its disk writable",
    "unable to open database file": "it cannot be opened; make the file, its folder and its disk "
    "readable and writable",
    "Too many connections": _TOO_MANY_CONNECTIONS,
    "too many clients": _TOO_MANY_CONNECTIONS,
    "remaining connection slots": _TOO_MANY_CONNECTIONS,
}


def reason(error: BaseException, seconds: float = 0.0) -> str:
    """Return a one-line explanation of a database error, with advice for known errors.

    `seconds` is the lock timeout that the text may mention.
    """
    error = _cause(error)
    text = _driver_message(getattr(error, "orig", None) or error)
    hint = next((hint for fragment, hint in _HINTS.items() if fragment in text), None)
    if hint is not None:
        return hint.format(seconds=seconds)
    if is_about_data(error):
        return f"the database rejects a value: {text.splitlines()[0]}"
    return f"database error: {text.splitlines()[0]}"


def _driver_message(error: BaseException) -> str:
    """Return the message of a driver's exception; MySQL's have a number and a text."""
    match error.args:
        case (int(), str(text)):
            return text.strip()
    return str(error).strip()


def _cause(error: BaseException) -> BaseException:
    while isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__:
        error = error.__cause__
    return error


def is_about_data(error: BaseException) -> bool:
    """Return whether the database works but rejects a value, or has too few or too many rows."""
    error = _cause(error)
    about_rows = isinstance(
        error, IntegrityError | DataError | NoResultFound | MultipleResultsFound
    )
    # A StatementError without a driver error: SQLAlchemy could not convert a value to its type.
    return about_rows or (isinstance(error, StatementError) and not isinstance(error, DBAPIError))


def is_transient(error: BaseException) -> bool:
    """Return whether a database error may disappear when the operation is retried.

    A locked SQLite file is not transient, because SQLite has already waited for the lock.
    """
    error = _cause(error)
    # Optuna lost its connection and continued in the broken transaction.
    if isinstance(error, PendingRollbackError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return str(state).startswith(_TRANSIENT_STATES)
    number = error.orig.args[0] if error.orig is not None and error.orig.args else None
    if isinstance(number, int):
        return number in _TRANSIENT_NUMBERS
    if type(error.orig).__module__.startswith("sqlite3"):
        return False
    permanent = any(text in str(error.orig) for text in _PERMANENT_ERRORS)
    return type(error.orig).__name__ == "OperationalError" and not permanent
