"""Operating system functions for monitoring and ending processes; most work on Linux only."""

import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Final

LINUX: Final = sys.platform == "linux"
# From <linux/prctl.h>.
_SET_PDEATHSIG: Final = 1
_SET_CHILD_SUBREAPER: Final = 36
# Signals that a terminal, `scancel` or systemd sends to every process of a job.
JOB_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(number: int) -> None:
    """Let the kernel send this process the signal `number` when its parent ends; 0 for none."""
    if LINUX:
        _libc.prctl(_SET_PDEATHSIG, number, 0, 0, 0)


def adopt_orphans() -> None:
    """Make this process the parent of its orphaned descendants."""
    if LINUX:
        _libc.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def flush_c_streams() -> None:
    """Flush the buffered output of C code."""
    _libc.fflush(None)


def prefer_oom_kill() -> None:
    """Let the kernel kill this process before others when memory runs out."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


def descriptor_of(process: int) -> int:
    """Return a pidfd, which becomes readable when the process ends; -1 if not available."""
    try:
        return os.pidfd_open(process)
    except (AttributeError, OSError):
        return -1


def readable(descriptor: int, seconds: float) -> bool:
    """Wait up to `seconds`; return whether the descriptor is readable."""
    poll = select.poll()  # unlike select.select, works for any descriptor number
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(1000 * seconds))


def wait_for_end(child: int, seconds: float) -> bool:
    """Wait up to `seconds` for a child process to end; return whether it has ended."""
    descriptor = descriptor_of(child)
    if descriptor >= 0:
        try:
            return readable(descriptor, seconds)
        finally:
            os.close(descriptor)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return True
        sleep(0.02)
    return False


def sleep(seconds: float) -> None:
    """Sleep; unlike time.sleep, this works in a process whose clock is changed by libfaketime."""
    select.select([], [], [], seconds)


def count_threads() -> int:
    """Return the number of threads of this process, 1 if unknown."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 1


def on_job_signals(handler: Callable[[int, FrameType | None], object] | int) -> None:
    """Set the handler for the signals that are sent to every process of a job."""
    for number in JOB_SIGNALS:
        signal.signal(number, handler)


def ignore(_: int, __: FrameType | None) -> None:
    """Signal handler that does nothing; unlike SIG_IGN, it is not inherited by new programs."""


def children_of(parent: int) -> list[int]:
    """Return the ids of the child processes of a process."""
    return [process for process, its_parent in _parents() if its_parent == parent]


def tree_of(root: int) -> list[int]:
    """Return the ids of a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for process, parent in _parents():
        children.setdefault(parent, []).append(process)
    tree, pending = [root], [root]
    while pending:
        below = children.get(pending.pop(), [])
        tree += below
        pending += below
    return tree


def _parents() -> Iterator[tuple[int, int]]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError, ValueError, IndexError):
                stat = Path("/proc", entry, "stat").read_text()
                # The process name, in parentheses, may contain spaces and parentheses.
                yield int(entry), int(stat.rpartition(")")[2].split()[1])


def memory_of(processes: list[int]) -> int:
    """Return the memory of processes in bytes; shared memory is divided among them (PSS)."""
    total = 0
    for process in processes:
        with suppress(OSError, ValueError, IndexError):
            for line in Path("/proc", str(process), "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += 1024 * int(line.split()[1])
    return total


def has_children() -> bool:
    """Return whether this process has children, including ended ones that are not reaped."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def kill_children(spared: frozenset[int] = frozenset()) -> None:
    """Kill all descendants of this process except `spared`, and wait for their end.

    This requires `adopt_orphans`, so that the children of a killed child become children of this
    process.
    """
    while has_children():
        victims = [child for child in children_of(os.getpid()) if child not in spared]
        if not victims:
            return
        for victim in victims:
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        for victim in victims:
            with suppress(ChildProcessError):
                os.waitpid(victim, 0)


def out_of_memory_kills() -> int:
    """Return the number of out-of-memory kills in the control group of this process."""
    for path in _memory_events():
        with suppress(OSError, ValueError, IndexError):
            for line in path.read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
    return 0


def _memory_events() -> Iterator[Path]:
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                yield Path(f"/sys/fs/cgroup{path}/memory.events")
            elif "memory" in controllers.split(","):
                yield Path(f"/sys/fs/cgroup/memory{path}/memory.oom_control")
    yield Path("/sys/fs/cgroup/memory.events")
    yield Path("/proc/vmstat")
