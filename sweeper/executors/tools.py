"""Running an engine's own commands."""

import logging
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from sweeper.errors import SweeperError

# Longer than an engine that is well needs; one that hangs is as good as not there.
TOOL_SECONDS: Final = 60.0
# Between two looks at the same jobs: an engine's controller serves everybody.
LOOK_SECONDS: Final = 2.0
# An engine that is restarted or moved is back by then.
SILENCE_SECONDS: Final = 600.0

_log = logging.getLogger(__name__)
T = TypeVar("T")


class Refused(SweeperError):
    """What an engine's command said when it ended with an exit status other than 0."""


def run_tool(
    command: Sequence[str],
    *,
    engine: str,
    text: str = "",
    env: Mapping[str, str] | None = None,
) -> str:
    """Return what an engine's command prints, given `text` on its standard input.

    Raises `Refused` with its last line, and `SweeperError` where it is not there or hangs.
    """
    try:
        done = subprocess.run(
            command,
            input=text,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=TOOL_SECONDS,
        )
    except FileNotFoundError:
        raise SweeperError(
            f"executor {engine}: there is no {command[0]} on this machine; launch where "
            f"{engine.capitalize()}'s commands are, or take --executor local"
        ) from None
    except subprocess.TimeoutExpired:
        raise SweeperError(
            f"executor {engine}: {command[0]} gave no answer in {TOOL_SECONDS:g} s"
        ) from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()
        raise Refused(f"executor {engine}: {command[0]} said: {said[-1].strip()}")
    return done.stdout


@dataclass
class Look(Generic[T]):
    """What an engine last said, asked again when that is old.

    An engine that does not answer is taken to be where it was, for `SILENCE_SECONDS`.
    """

    ask: Callable[[], T]
    _said: T | None = None
    _at: float = field(default=-LOOK_SECONDS)
    _silent_since: float | None = None

    def __call__(self) -> T | None:
        """Return what the engine says; None where it has not said anything yet."""
        now = time.monotonic()
        if now - self._at >= LOOK_SECONDS:
            self._at = now
            self._ask(now)
        return self._said

    def _ask(self, now: float) -> None:
        try:
            self._said = self.ask()
        except SweeperError as error:
            if self._silent_since is None:
                _log.warning("%s; asking again for %.0f s", error, SILENCE_SECONDS)
                self._silent_since = now
            if now - self._silent_since > SILENCE_SECONDS:
                raise
        else:
            self._silent_since = None
