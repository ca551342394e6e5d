"""A sequence of faults that a seed repeats, and what is done for each."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import psutil

from benchmarks.shared.process_tree import ROLES, Member, members
from benchmarks.shared.tcp_proxy import Proxy

# Kind of fault: how often, and whether SQLite and servers know it.
WEIGHTS: Final[Mapping[str, tuple[int, bool, bool]]] = {
    "kill": (6, True, True),
    "freeze": (4, True, True),
    "network": (4, False, True),
    "restart": (2, False, True),
    "lock": (2, True, False),
    "disk": (1, True, True),
    "clock": (2, True, True),
    "results": (1, True, True),
}
# Between two faults, as a share of the mean.
GAP: Final = (0.4, 1.6)
SHORT_SECONDS: Final = (0.5, 8.0)
# Longer than a lease of 30 s, which one fault in five lasts.
LONG_SECONDS: Final = (32.0, 42.0)
STEPS: Final = (-86400, -3600, -60, -2, 2, 20, 60, 3600, 86400)
SERVER_STOPS: Final = ("immediate", "fast")
NETWORK: Final = ("cut", "slow", "half-open")


class Fault(NamedTuple):
    """A fault: `at` seconds from the start, for `seconds`; `draw`, from 0 to 1, says which of many.

    `what` is the role of a process, the kind of a failing network, how a server is stopped or by
    how much the clock steps.
    """

    at: float
    kind: str
    what: str
    seconds: float
    draw: float

    def __str__(self) -> str:
        lasts = "" if self.kind in ("kill", "clock", "results") else f" for {self.seconds:.1f} s"
        return f"{self.at:7.1f} s  {self.kind} {self.what}{lasts} ({self.draw:.3f})"


def schedule(seed: int, database: str, seconds: float, longest: float, gap: float) -> list[Fault]:
    """Return the faults of so many seconds, one every `gap` s, none longer than `longest`."""
    gaps = [gap * share for share in GAP]
    drawn, served = random.Random(f"{seed} {database}"), database != "sqlite"
    kinds = [kind for kind, (_, file, server) in WEIGHTS.items() if (server if served else file)]
    weights = [WEIGHTS[kind][0] for kind in kinds]
    faults, at = list[Fault](), drawn.uniform(*gaps)
    while at < seconds:
        [kind] = drawn.choices(kinds, weights)
        lasts = drawn.uniform(*(LONG_SECONDS if drawn.random() < 0.2 else SHORT_SECONDS))
        if kind in ("lock", "disk", "restart"):  # the others wait, or end
            lasts = drawn.uniform(*SHORT_SECONDS)
        what = {
            "kill": drawn.choice(ROLES),
            "freeze": drawn.choice(ROLES),
            "network": drawn.choice(NETWORK),
            "restart": drawn.choice(SERVER_STOPS),
            "clock": f"{drawn.choice(STEPS):+d}",
        }.get(kind, "")
        faults.append(Fault(at, kind, what, min(lasts, longest), drawn.random()))
        at += drawn.uniform(*gaps)
    return faults


class Stoppable(Protocol):
    """A database server."""

    def stop(self, *, immediate: bool = False) -> None:
        """Stop it."""

    def start(self) -> None:
        """Start it again."""


@dataclass(frozen=True)
class World:
    """What faults hit.

    `disk` is a small disk of its own with the results and, for SQLite, the database; None where
    it cannot be mounted. `clock` is the file that libfaketime reads; None where there is none.
    """

    results: Path
    disk: Path | None
    clock: Path | None
    database: Path | None = None  # of SQLite
    server: Stoppable | None = None
    proxies: tuple[Proxy, ...] = ()


class Hit(NamedTuple):
    """A process that was killed or frozen: when, for how long, and the workers it belonged to."""

    at: float
    kind: str
    role: str
    pid: int
    workers: frozenset[int]
    seconds: float


@dataclass
class Injector:
    """Injects faults, and ends them when they have lasted long enough."""

    world: World
    hits: list[Hit] = field(default_factory=list)
    injected: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    _ends: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    _busy: set[str] = field(default_factory=set)
    _offset: int = 0

    def inject(self, fault: Fault) -> str:
        """Do what a fault says; return what was hit."""
        said = getattr(self, f"_{fault.kind}")(fault)
        counted = self.missed if said.startswith("missed") else self.injected
        counted[fault.kind] += 1
        return str(said)

    def look(self) -> None:
        """End what has lasted long enough."""
        for until, end in list(self._ends):
            if time.monotonic() >= until:
                self._ends.remove((until, end))
                end()

    def end_all(self) -> None:
        """End everything that lasts."""
        for _, end in self._ends:
            end()
        self._ends.clear()

    def _later(self, seconds: float, end: Callable[[], None]) -> None:
        self._ends.append((time.monotonic() + seconds, end))

    def _once(self, name: str, seconds: float, end: Callable[[], None]) -> None:
        """Let nothing else of this name begin before the end."""
        self._busy.add(name)

        def over() -> None:
            self._busy.discard(name)
            end()

        self._later(seconds, over)

    # ---- processes -----------------------------------------------------------------------

    def _drawn(self, fault: Fault) -> Member | None:
        found = [member for member in members() if member.role == fault.what]
        return found[int(fault.draw * len(found))] if found else None

    def _hit(self, fault: Fault, member: Member, seconds: float = 0.0) -> str:
        pid = member.process.pid
        self.hits.append(
            Hit(time.monotonic(), fault.kind, member.role, pid, member.workers, seconds)
        )
        return f"{member.role} {pid} of worker {','.join(map(str, member.workers)) or '-'}"

    def _kill(self, fault: Fault) -> str:
        member = self._drawn(fault)
        if member is None:
            return f"missed: no {fault.what} now"
        with suppress(psutil.Error):
            member.process.kill()
        return self._hit(fault, member)

    def _freeze(self, fault: Fault) -> str:
        member = self._drawn(fault)
        if member is None:
            return f"missed: no {fault.what} now"

        def thaw() -> None:
            with suppress(psutil.Error):
                member.process.resume()

        with suppress(psutil.Error):
            member.process.suspend()
        self._later(fault.seconds, thaw)
        return self._hit(fault, member, fault.seconds)

    def kill_all(self) -> int:
        """Kill all launches and workers, with whatever is below them, at once; return how many."""
        everybody = members()
        for member in everybody:  # so that none sees the end of another
            with suppress(psutil.Error):
                member.process.suspend()
        for member in everybody:
            with suppress(psutil.Error):
                member.process.kill()
            self.hits.append(
                Hit(time.monotonic(), "kill", member.role, member.process.pid, member.workers, 0.0)
            )
        return len(everybody)

    # ---- the database --------------------------------------------------------------------

    def _network(self, fault: Fault) -> str:
        number = int(fault.draw * len(self.world.proxies))
        name, proxy = f"network {number}", self.world.proxies[number]
        if name in self._busy:
            return f"missed: {name} fails already"
        proxy.set(fault.what)  # type: ignore[arg-type]
        self._once(name, fault.seconds, lambda: proxy.set("pass"))
        return name

    def _restart(self, fault: Fault) -> str:
        server = self.world.server
        assert server is not None
        if "server" in self._busy:
            return "missed: the server is away already"
        server.stop(immediate=fault.what == "immediate")
        self._once("server", fault.seconds, server.start)
        return "the server"

    def _lock(self, fault: Fault) -> str:
        assert self.world.database is not None
        if "lock" in self._busy:
            return "missed: it is locked already"
        connection = sqlite3.connect(self.world.database, timeout=1.0, isolation_level=None)
        try:
            connection.execute("begin immediate")
        except sqlite3.OperationalError as error:
            connection.close()
            return f"missed: {error}"
        self._once("lock", fault.seconds, connection.close)
        return "the write lock of the file"

    # ---- the machine ---------------------------------------------------------------------

    def _disk(self, fault: Fault) -> str:
        disk = self.world.disk
        if disk is None:
            return "missed: no disk of its own can be mounted here"
        if "disk" in self._busy:
            return "missed: it is full already"
        ballast = disk / "ballast"
        fill(ballast)
        self._once("disk", fault.seconds, lambda: ballast.unlink(missing_ok=True))
        return "the disk of the results" + (" and the database" if self.world.database else "")

    def _clock(self, fault: Fault) -> str:
        if self.world.clock is None:
            return "missed: there is no libfaketime here"
        self._offset += int(fault.what)
        write_clock(self.world.clock, self._offset)
        return f"to {self._offset:+d} s"

    def _results(self, _: Fault) -> str:
        shutil.rmtree(self.world.results, ignore_errors=True)
        return "the folder"


def fill(path: Path) -> None:
    """Write until there is no room left."""
    with path.open("ab", buffering=0) as stream, suppress(OSError):
        for size in (1 << 16, 512):
            with suppress(OSError):
                while True:
                    stream.write(b"\0" * size)


def write_clock(path: Path, offset: int) -> None:
    """Set the clock of the processes that libfaketime reads this file for."""
    new = path.with_suffix(".new")
    new.write_text(f"{offset:+d}")
    new.replace(path)


def stepped_clock(path: Path) -> dict[str, str]:
    """Return the environment of processes that follow the clock of a file; {} without libfaketime.

    Only the wall clock: with the monotonic one set apart, no wait would end.
    """
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not found:
        return {}
    write_clock(path, 0)
    sleeps = str(Path(__file__).parent / "stepped_clock")
    here = os.environ.get("PYTHONPATH")
    return {
        "LD_PRELOAD": str(found[0]),
        "FAKETIME_TIMESTAMP_FILE": str(path),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DISABLE_SHM": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "PYTHONPATH": sleeps if not here else f"{sleeps}{os.pathsep}{here}",
    }


@contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[Path | None]:
    """Mount a disk of its own on a folder; yield None where that is not permitted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and not subprocess.run(mount, capture_output=True).returncode
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def resume_all() -> None:
    """Let every frozen process go on."""
    for member in members():
        with suppress(psutil.Error):
            member.process.send_signal(signal.SIGCONT)
