"""The processes of launches and workers below this one, by what they are."""

import ctypes
import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import psutil

PR_SET_CHILD_SUBREAPER: Final = 36
ROLES: Final = ("launcher", "worker", "server", "keeper", "trainer", "grandchild")
# Below a worker: the server that has imported torch, a study's server, keepers, trainers.
_BELOW_WORKER: Final = ("server", "server", "keeper", "trainer")


class Member(NamedTuple):
    """A process, its role, and the workers that its end may disturb."""

    process: psutil.Process
    role: str
    workers: frozenset[int]


def adopt_orphans() -> None:
    """Make this process the parent of what its descendants leave behind."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def members() -> list[Member]:
    """Return the processes below this one that belong to sweeper, by process number."""
    found = list[Member]()
    for process in psutil.Process().children():
        with suppress(psutil.Error):
            found += _members(process, process.cmdline())
    return sorted(found, key=lambda member: member.process.pid)


def _members(process: psutil.Process, command: list[str]) -> Iterator[Member]:
    if "sweeper" not in command:
        return
    if "worker" in command:
        yield Member(process, "worker", frozenset({process.pid}))
        yield from _below(process, frozenset({process.pid}), 0)
    elif "launch" in command:
        below = [member for child in _children(process) for member in _of_launcher(child)]
        workers = frozenset(m.process.pid for m in below if m.role == "worker")
        yield Member(process, "launcher", workers)
        yield from below


def _of_launcher(child: psutil.Process) -> Iterator[Member]:
    with suppress(psutil.Error):
        yield from _members(child, child.cmdline())


def _below(process: psutil.Process, workers: frozenset[int], depth: int) -> Iterator[Member]:
    role = _BELOW_WORKER[depth] if depth < len(_BELOW_WORKER) else "grandchild"
    for child in _children(process):
        yield Member(child, role, workers)
        yield from _below(child, workers, depth + 1)


def _children(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return [c for c in process.children() if c.status() != psutil.STATUS_ZOMBIE]
    return []


def reap(spared: Collection[int]) -> None:
    """Take note of orphans that have ended; for the children in `spared` somebody else waits."""
    for process in psutil.Process().children():
        with suppress(psutil.Error, ChildProcessError):
            if process.pid not in spared and process.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(process.pid, os.WNOHANG)


def started_below(temporary: Path) -> list[psutil.Process]:
    """Return the processes that run with this folder for temporary files, frozen ones too."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            ended = process.status() == psutil.STATUS_ZOMBIE
            if not ended and process.environ().get("TMPDIR") == str(temporary):
                found.append(process)
    return found
