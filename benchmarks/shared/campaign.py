"""Launches and workers that are started again when they end, as an engine would."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from sqlalchemy import create_engine, select
from sqlalchemy.exc import SQLAlchemyError

from sweeper.store.schema import tickets

# The folder of temporary files, by which processes are recognized: whatever they start inherits it.
TEMPORARY: Final = "temporary"
# Before what has ended is started again.
PAUSE_SECONDS: Final = 1.0


@dataclass
class Supervised:
    """A command that is started again until it ends with status 0.

    `name` is that of its logs; `forever` says that it is started again then too.
    """

    name: str
    arguments: tuple[str, ...]
    env: Mapping[str, str]
    logs: Path
    forever: bool = False
    ends: Counter[str] = field(default_factory=Counter)
    finished: bool = False
    process: subprocess.Popen[bytes] | None = None
    _starts: int = 0
    _due: float = 0.0

    @property
    def log(self) -> Path:
        """What the process that was started last prints."""
        return self.logs / f"{self.name}-{self._starts}.log"

    def look(self) -> None:
        """Start what is to be started; take note of what has ended."""
        if self.process is not None and self.process.poll() is not None:
            how = self._how()
            self.ends[how] += 1
            print(f"{'':11}{self.log.stem} ended: {how}", flush=True)
            self.finished = self.process.returncode == 0 and not self.forever
            self.process, self._due = None, time.monotonic() + PAUSE_SECONDS
        if self.process is None and not self.finished and time.monotonic() >= self._due:
            self._starts += 1
            with self.log.open("wb") as log:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "sweeper", *self.arguments],
                    env=self.env,
                    cwd=self.logs,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )

    def _how(self) -> str:
        assert self.process is not None
        status = self.process.returncode
        if status <= 0:
            return f"status {status}"
        lines = self.log.read_text(errors="replace").strip().splitlines()
        said = next((line for line in reversed(lines) if "error:" in line), "".join(lines[-1:]))
        return f"status {status}: {said[-250:]}"

    def stop(self, seconds: float) -> bool:
        """End it for good; return whether it has ended by itself."""
        self.finished, process, self.process = True, self.process, None
        if process is None:
            return True
        process.terminate()
        try:
            self.ends[f"stopped, status {process.wait(seconds)}"] += 1
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return False
        return True


class Key(NamedTuple):
    """A ticket."""

    study: int
    phase: str
    number: int


@dataclass
class Claim:
    """One claim of a ticket, as it was seen: by which worker's process, and when."""

    worker: int
    attempt: int
    first: float
    last: float


class Watch:
    """Looks at the tickets again and again: who was at which, and when (monotonic clock)."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url, pool_pre_ping=True)
        self.claims: dict[Key, dict[int, Claim]] = {}

    def look(self) -> None:
        """Take note of the claims that there are; nothing where the database does not answer."""
        columns = (tickets.c.study_id, tickets.c.phase, tickets.c.number)
        more = (tickets.c.claims, tickets.c.returned, tickets.c.worker)
        query = select(*columns, *more).where(
            tickets.c.state == "open", tickets.c.worker.is_not(None)
        )
        now = time.monotonic()
        with suppress(SQLAlchemyError), self._engine.connect() as connection:
            for *key, claims, returned, worker in connection.execute(query):
                pid = int(worker.rsplit(":", 3)[1])
                seen = self.claims.setdefault(Key(*key), {})
                seen.setdefault(claims, Claim(pid, claims - returned, now, now)).last = now

    @property
    def count(self) -> int:
        """How many claims were seen."""
        return sum(map(len, self.claims.values()))

    def close(self) -> None:
        self._engine.dispose()


@contextmanager
def children_killed(children: list[Supervised]) -> Iterator[None]:
    """Kill at the end what is still running, whatever happened."""
    try:
        yield
    finally:
        for child in children:
            if child.process is not None:
                with suppress(ProcessLookupError):
                    child.process.kill()
                child.process.wait()


def environment(storage: str, temporary: Path, more: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a command on a database."""
    temporary.mkdir(exist_ok=True)
    ours = {"SWEEPER_STORAGE": storage, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **ours, **more}
