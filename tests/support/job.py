"""A job for the tests of executors: `python -m tests.support.job MODE …`."""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import NoReturn

# An environment variable that a job is given, as a database's URL is.
SECRET = "JOB_SECRET"


def say(*arguments: str) -> None:
    """Print the arguments, the secret and the process, as JSON."""
    print(json.dumps([list(arguments), os.environ[SECRET], os.getpid()]), flush=True)


def end(status: str, *_: str) -> NoReturn:
    print(f"ends with {status}", flush=True)
    sys.exit(int(status))


def wait(*_: str, stubborn: bool = False) -> None:
    """Say the process, then wait for SIGTERM, or for ever."""

    def on_signal(number: int, _: FrameType | None) -> None:
        print(f"told to end by {number}", flush=True)
        if not stubborn:
            sys.exit(128 + number)

    signal.signal(signal.SIGTERM, on_signal)
    say()
    while True:
        threading.Event().wait(60)


if __name__ == "__main__":
    modes: dict[str, Callable[..., None]] = {
        "say": say,
        "end": end,
        "wait": wait,
        "stubborn": partial(wait, stubborn=True),
    }
    modes[sys.argv[1]](*sys.argv[2:])
