"""The errors that a person is meant to read."""

from collections.abc import Iterable
from difflib import get_close_matches


class SweeperError(Exception):
    """One line that says what was given, what is allowed and what to do; never a bug."""


def nearest(given: str, allowed: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the closest allowed name, or nothing."""
    close = get_close_matches(given, list(allowed), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
