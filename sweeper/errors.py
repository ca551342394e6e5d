"""Exceptions whose messages are written for users."""

from collections.abc import Iterable
from difflib import get_close_matches


class SweeperError(Exception):
    """Base of the errors that a user can fix; the message is one line and needs no traceback."""


class UnknownName(SweeperError):
    """The study, trial or other object with the given name or number does not exist."""


class Conflict(SweeperError):
    """The request is valid, but conflicts with the current state."""


class DatabaseFailed(SweeperError):
    """The database is unreachable, failed a request, or has the schema of another version."""


class DataRefused(SweeperError):
    """The database works, but refuses a value or lacks a row of one study."""


class StudyDamaged(Conflict):
    """The stored rows of a study cannot be used; other studies are not affected.

    `known` is True if the damage was located in the database, and False if `reason` only repeats
    an exception.
    """

    def __init__(self, study: str, reason: str, *, known: bool = True) -> None:
        advice = f"; restore it, or remove it: sweeper delete {study}" if known else ""
        super().__init__(f"study {study!r} cannot be used: {reason}{advice}")
        self.known = known


class TrialPruned(Exception):
    """Raised by `run.report` when the trial is pruned: the training function must return."""


class TrialReleased(Exception):
    """Raised by `run.report` when the trial is interrupted: the training function must return.

    The trial is resumed later, from its checkpoint if its reports contain a state.
    """


def suggestion(name: str, allowed: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the closest allowed name, or "" if none is close."""
    close = get_close_matches(name, list(allowed), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
