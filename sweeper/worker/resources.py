"""The number of training runs that fit on this machine at a time."""

import os
import sys
from contextlib import suppress
from pathlib import Path

# If none of these exists, torch cannot use a GPU. Asking torch would take a second.
_DRIVERS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dxg", "/dev/nvhost-gpu")


def default_slots(threads: int) -> int:
    """Return the number of GPUs, or without a GPU the number of cores divided by `threads`."""
    return _gpus() or max(1, cores() // threads)


def gpu_of(slot: int) -> str | None:
    """Return the CUDA_VISIBLE_DEVICES of a slot, or None if there is at most one GPU."""
    count = _gpus()
    if count <= 1:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number) for number in range(count)]
    return names[slot % len(names)].strip()


def _gpus() -> int:
    if sys.platform == "linux" and not any(Path(driver).exists() for driver in _DRIVERS):
        return 0
    import torch

    return torch.cuda.device_count()


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
