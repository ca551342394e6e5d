"""Rounds of the tests that depend on timing: few in `make test`, many in `make soak`."""

import os
from typing import Final

SOAK: Final = bool(os.environ.get("SWEEPER_SOAK"))


def repeats(usual: int, soak: int) -> int:
    """Return `usual`, or `soak` if the environment has SWEEPER_SOAK."""
    return soak if SOAK else usual
