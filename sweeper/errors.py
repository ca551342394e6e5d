"""The errors that a person is meant to read."""

from collections.abc import Iterable
from difflib import get_close_matches


class SweeperError(Exception):
    """One line that says what was given, what is allowed and what to do; never a bug."""


class UnknownName(SweeperError):
    """What was asked for by its name or number is not there."""


class Conflict(SweeperError):
    """What was asked for does not go with what is there: nothing is wrong with the request."""


class DatabaseFailed(SweeperError):
    """The database cannot be reached, did not do what it was asked for, or is of another time."""


def nearest(given: str, allowed: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the closest allowed name, or nothing."""
    close = get_close_matches(given, list(allowed), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
