"""Who a worker is, so that a launcher on the same host can tell a dead one from a slow one."""

import os
import socket

import psutil


def worker_name() -> str:
    """Return host, process id and start time: no two processes ever share it."""
    process = psutil.Process()
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.2f}:{os.urandom(2).hex()}"


def host_and_pid(worker: str) -> tuple[str, int]:
    """Return the two parts of a worker's name that a person can act on."""
    host, pid, _, _ = worker.rsplit(":", 3)
    return host, int(pid)


def is_dead(worker: str) -> bool:
    """Return whether the worker was a process of this host that is no more."""
    host, pid, started, _ = worker.rsplit(":", 3)
    if host != socket.gethostname():
        return False
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" != started
    except psutil.NoSuchProcess:
        return True
