"""Trying again what a database refused for a reason that passes."""

import logging
import random
import time
from collections.abc import Callable
from typing import Final, TypeVar

import optuna
from sqlalchemy.exc import DBAPIError, PendingRollbackError, SQLAlchemyError

FIRST_DELAY: Final = 0.1
LONGEST_DELAY: Final = 5.0

# SQLSTATE classes and codes: connections, lost races, no connection left, shutting down or
# starting up. https://www.postgresql.org/docs/current/errcodes-appendix.html
_PASSING_STATES: Final = ("08", "40001", "40P01", "53300", "57P01", "57P02", "57P03")
# MySQL has numbers: too many connections, lock wait, deadlock, gone, lost, refused.
# 0: the connection was closed. 1020: another transaction was first.
_PASSING_NUMBERS: Final = (0, 1020, 1040, 1053, 1205, 1213, 1927, 2002, 2003, 2006, 2013)
# psycopg gives no SQLSTATE where there is no connection, for whatever reason.
_LASTING_REFUSALS: Final = ("authentication", "password", "does not exist", "no pg_hba.conf entry")

_log = logging.getLogger(__name__)

T = TypeVar("T")


def retried(work: Callable[[], T], *, seconds: float, database: str) -> T:
    """Return what `work` returns, called again for at most `seconds`.

    Only errors that pass by themselves are met with another call, after 0.1 to 5 s that grow
    and vary, so that many workers do not come back at once. `work` may have been committed by
    a call whose answer was lost: it has to bear being called again.
    """
    deadline, delay, said = time.monotonic() + seconds, FIRST_DELAY, False
    while True:
        try:
            return work()
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            if not is_transient(error) or time.monotonic() + delay > deadline:
                raise
            if not said:
                _log.warning("%s: %s; trying again for %.0f s", database, reason(error), seconds)
                said = True
        time.sleep(delay * random.uniform(0.5, 1.0))
        delay = min(2 * delay, LONGEST_DELAY)


# What a driver says, and what a person can do about it.
_HINTS: Final = {
    "database is locked": "locked by another process for more than {seconds:g} s; end that "
    "process, or try again",
    "disk is full": "its disk is full; make room and launch again, nothing is lost",
    "readonly database": "it is read-only; make the file, its folder and its disk writable",
    "unable to open database file": "it cannot be opened; make the file, its folder and its disk "
    "readable and writable",
    "Too many connections": "the server takes no more connections; run fewer workers, or raise its "
    "max_connections to four a worker",
    "too many clients": "the server takes no more connections; run fewer workers, or raise its "
    "max_connections to four a worker",
    "remaining connection slots": "the server takes no more connections; run fewer workers, or "
    "raise its max_connections to four a worker",
}


def reason(error: BaseException, seconds: float = 0.0) -> str:
    """Return what a database error says and asks for, in one line.

    `seconds` is how long a lock was waited for.
    """
    error = _cause(error)
    text = _said(getattr(error, "orig", None) or error)
    hint = next((hint for said, hint in _HINTS.items() if said in text), None)
    if hint is not None:
        return hint.format(seconds=seconds)
    return f"the database does not serve us: {text.splitlines()[0]}"


def _said(error: BaseException) -> str:
    """Return what a driver says: MySQL's gives a number and the words."""
    match error.args:
        case (int(), str(words)):
            return words.strip()
    return str(error).strip()


def _cause(error: BaseException) -> BaseException:
    while isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__:
        error = error.__cause__
    return error


def is_transient(error: BaseException) -> bool:
    """Return whether a database error passes by itself.

    A locked SQLite file does not: SQLite itself has waited for it by then.
    """
    error = _cause(error)
    # Optuna met a cut connection, and went on in the transaction that was cut with it.
    if isinstance(error, PendingRollbackError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return str(state).startswith(_PASSING_STATES)
    number = error.orig.args[0] if error.orig is not None and error.orig.args else None
    if isinstance(number, int):
        return number in _PASSING_NUMBERS
    if type(error.orig).__module__.startswith("sqlite3"):
        return False
    refused = any(words in str(error.orig) for words in _LASTING_REFUSALS)
    return type(error.orig).__name__ == "OperationalError" and not refused
