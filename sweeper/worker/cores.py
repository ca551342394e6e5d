"""The CPU cores of this machine."""

import os
from contextlib import suppress
from pathlib import Path


def cores() -> int:
    """Return the number of cores that this process may use, by CPU affinity and cgroup quota."""
    allowed = os.cpu_count() or 1
    with suppress(AttributeError, OSError):
        allowed = len(os.sched_getaffinity(0))
    quota = _quota()
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def _quota() -> float | None:
    """Return the number of cores that the cgroup may use, None for no limit."""
    with suppress(OSError, ValueError):
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    with suppress(OSError, ValueError):
        base = Path("/sys/fs/cgroup/cpu")
        limit_us = int((base / "cpu.cfs_quota_us").read_text())
        period_us = int((base / "cpu.cfs_period_us").read_text())
        return None if limit_us < 0 else limit_us / period_us
    return None
