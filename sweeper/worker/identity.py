"""Worker names, which let processes on the same machine tell dead workers from slow ones."""

import os
import socket
from contextlib import suppress
from pathlib import Path

import psutil

from sweeper.store.worker_names import WORKER_NAME


def worker_name(slots: int = 1) -> str:
    """Return the name of this worker: host, process id, process identity and slots.

    The name is unique to this process and does not depend on the clock.
    """
    pid, random = os.getpid(), os.urandom(2).hex()
    return f"{socket.gethostname()}:{pid}:{_identity(pid)}:{random}-{max(1, slots)}"


def is_dead(worker: str) -> bool:
    """Return whether the worker was a process on this host that has ended.

    Returns False if this cannot be decided: for a worker on another host, on another machine or
    boot with the same host name, or in another namespace. Its lease then has to expire.
    """
    match = WORKER_NAME.fullmatch(worker)
    if match is None:
        return False
    host, pid, identity = match[1], int(match[2]), match[3]
    if host != socket.gethostname() or identity.rpartition(".")[0] != _host_identity():
        return False
    return _identity(pid) != identity


def _identity(pid: int) -> str:
    """Return where a process runs and when it was started; the start is "" if it has ended."""
    return f"{_host_identity()}.{_start(pid)}"


def _host_identity() -> str:
    """Return the boot of the machine, and the PID and time namespaces of this process."""
    boot, namespaces = "0", [0, 0]
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().replace("-", "")[:12]
    for index, name in enumerate(("pid", "time")):
        with suppress(OSError):
            namespaces[index] = os.stat(f"/proc/self/ns/{name}").st_ino
    return ".".join([boot, *map(str, namespaces)])


def _start(pid: int) -> str:
    """Return when a process was started, in clock ticks since boot if /proc exists."""
    try:
        # The program name, in parentheses, may itself contain spaces and parentheses.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except OSError:
        pass
    if Path("/proc/self/stat").exists():
        return ""
    try:
        return f"{psutil.Process(pid).create_time():.0f}"
    except psutil.NoSuchProcess:
        return ""
