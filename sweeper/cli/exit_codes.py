"""The exit codes of the commands."""

import signal
from collections.abc import Mapping
from enum import IntEnum
from typing import Final


class ExitCode(IntEnum):
    """The exit codes that all commands share; `MEANINGS` describes them."""

    SUCCESS = 0
    NEGATIVE = 1
    REFUSED = 2
    DATABASE = 3
    UNEXPECTED = 4
    INTERRUPTED = 128 + signal.SIGINT
    OUTPUT_CLOSED = 128 + signal.SIGPIPE
    TERMINATED = 128 + signal.SIGTERM


MEANINGS: Final[Mapping[ExitCode, str]] = {
    ExitCode.SUCCESS: "success",
    ExitCode.NEGATIVE: "failed study, difference found, or question answered with no",
    ExitCode.REFUSED: "invalid argument, file or state",
    ExitCode.DATABASE: "database unavailable",
    ExitCode.UNEXPECTED: "unexpected error",
    ExitCode.INTERRUPTED: "Ctrl-C",
    ExitCode.OUTPUT_CLOSED: "reader of the output has ended",
    ExitCode.TERMINATED: "SIGTERM",
}


def overview() -> str:
    """Return all exit codes as one paragraph of a help text."""
    return "Exit codes: " + "; ".join(f"{code:d} {MEANINGS[code]}" for code in ExitCode) + "."
