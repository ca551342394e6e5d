"""Running the command-line tools of Slurm and Kubernetes."""

import logging
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from sweeper.errors import SweeperError

# Timeout of one command.
TOOL_SECONDS: Final = 60.0
# Interval between status queries, to limit the load on the controller.
POLL_SECONDS: Final = 2.0
# How long failing status queries are retried: long enough for the controller to be restarted.
SILENCE_SECONDS: Final = 600.0

_log = logging.getLogger(__name__)
T = TypeVar("T")


class CommandFailed(SweeperError):
    """A command of Slurm or Kubernetes ended with an exit status other than 0."""


def run_tool(
    command: Sequence[str],
    *,
    executor: str,
    text: str = "",
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a command with `text` as standard input, and return its standard output.

    Raises `CommandFailed` with the last line of its output if it fails, and `SweeperError` if it is
    not installed or times out.
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
            f"executor {executor}: {command[0]} not found on this machine; launch on a machine "
            f"with the {executor.capitalize()} commands, or use --executor local"
        ) from None
    except subprocess.TimeoutExpired:
        raise SweeperError(
            f"executor {executor}: {command[0]} did not respond within {TOOL_SECONDS:g} s"
        ) from None
    if done.returncode != 0:
        output = done.stderr.strip() or done.stdout.strip() or "no output"
        raise CommandFailed(
            f"executor {executor}: {command[0]} failed: {output.splitlines()[-1].strip()}"
        )
    return done.stdout


@dataclass
class PolledStatus(Generic[T]):
    """The last known status of jobs, queried at most once per `POLL_SECONDS`.

    After a failed query the last status is kept; the error is raised if queries fail for longer
    than `SILENCE_SECONDS`.
    """

    query: Callable[[], T]
    _status: T | None = None
    _queried_at: float = field(default=-POLL_SECONDS)
    _failing_since: float | None = None

    def __call__(self) -> T | None:
        """Return the status, or None if no query has succeeded yet."""
        now = time.monotonic()
        if now - self._queried_at >= POLL_SECONDS:
            self._queried_at = now
            self._update(now)
        return self._status

    def _update(self, now: float) -> None:
        try:
            self._status = self.query()
        except SweeperError as error:
            if self._failing_since is None:
                _log.warning("%s; retrying for %.0f s", error, SILENCE_SECONDS)
                self._failing_since = now
            if now - self._failing_since > SILENCE_SECONDS:
                raise
        else:
            self._failing_since = None
