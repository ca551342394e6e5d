"""The device of a trial, and the environment that determines its result."""

import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from sweeper.errors import SweeperError
from sweeper.training.conversion import safe_exception_text
from sweeper.training.versions import versions

_CPUINFO = Path("/proc/cpuinfo")

# By default the last bits of MKL's matrix products depend on the memory alignment, and so on the
# position of a run in its pack. This setting avoids that at no cost. It must be set before MKL's
# first product.
os.environ.setdefault("MKL_CBWR", "AUTO")


def pick_device(name: str = "auto") -> torch.device:
    """Return the device for a name: auto (CUDA if available), cpu, cuda, cuda:0, cuda:1, ...

    Raises SweeperError for any other name and for a device that does not exist on this machine.
    """
    if name == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    if name == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", _cuda_index(name))


def _cuda_index(name: str) -> int:
    kind, _, index = name.partition(":")
    if kind != "cuda" or not (name == "cuda" or (index.isascii() and index.isdigit())):
        raise SweeperError(
            f"unknown device {name!r}; allowed: auto, cpu, cuda, cuda:0, cuda:1, ..."
        )
    count = torch.cuda.device_count()
    if int(index or 0) >= count:
        raise SweeperError(
            f"device {name!r} is not available: torch {torch.__version__} finds {count} CUDA "
            "devices; use auto or cpu, or install a torch build and driver that support the device"
        )
    return int(index or 0)


def device_named(name: str) -> torch.device:
    """Return the device with a name from `environment`, or the device of "auto" if none has it."""
    if name == "cpu":
        return torch.device(name)
    devices = (torch.device("cuda", index) for index in range(torch.cuda.device_count()))
    return next((device for device in devices if _device_name(device) == name), pick_device())


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Set the number of torch's CPU threads for the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is an out-of-memory error of Python, torch or CUDA."""
    # torch has no exception class for CPU memory.
    on_cpu = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in safe_exception_text(error)
    return on_cpu or isinstance(error, MemoryError | torch.OutOfMemoryError)


def free_memory(device: torch.device) -> str:
    """Return a text with the free memory of a device; first release torch's cached CUDA memory."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(device)
        return f"{_device_name(device)} has {_gib(free)} of {_gib(total)} free"
    memory = psutil.virtual_memory()
    return f"this machine has {_gib(memory.available)} of {_gib(memory.total)} free"


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def environment(device: torch.device, folder: Path | None = None) -> dict[str, str]:
    """Return what determines a result besides its seed, as text to store with a trial.

    Contains package versions, processor, thread count and device. `commit` is the git commit of
    `folder`, with -dirty for uncommitted changes; it is absent without git or a checkout.
    """
    commit = _commit(folder) if folder else None
    return {
        "python": platform.python_version(),
        **versions(),
        "cpu": _cpu_model(),
        "cpu_instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "device": _device_name(device),
        **({"commit": commit} if commit else {}),
    }


def _cpu_model() -> str:
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _commit(folder: Path) -> str | None:
    describe = ["describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    command = ["git", "--no-optional-locks", "-C", str(folder), *describe]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
