"""Where a trial runs, and everything about that place which decides its result."""

import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

from sweeper.errors import SweeperError

PACKAGES = ("sweeper", "torch", "numpy", "optuna")
_CPUINFO = Path("/proc/cpuinfo")

# MKL's products depend, in their last bits, on where in memory a matrix begins, and so on a
# run's place among those trained with it, unless MKL is told otherwise before its first. It
# costs no time.
os.environ.setdefault("MKL_CBWR", "AUTO")


def pick_device(name: str = "auto") -> torch.device:
    """Return the device of a name: auto (CUDA when there), cpu, cuda, cuda:0, cuda:1, ...

    Raises SweeperError for any other name and for a device that this machine lacks.
    """
    if name == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    if name == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", _cuda_index(name))


def _cuda_index(name: str) -> int:
    kind, _, index = name.partition(":")
    if kind != "cuda" or not (name == "cuda" or (index.isascii() and index.isdigit())):
        raise SweeperError(f"device is {name!r}; allowed: auto, cpu, cuda, cuda:0, cuda:1, ...")
    count = torch.cuda.device_count()
    if int(index or 0) >= count:
        raise SweeperError(
            f"device is {name!r}, but torch {torch.__version__} sees {count} CUDA devices here; "
            "use auto or cpu, or a torch build and driver that see it"
        )
    return int(index or 0)


def device_named(name: str) -> torch.device:
    """Return a device that `environment` gives that name; what auto picks where there is none."""
    if name == "cpu":
        return torch.device(name)
    devices = (torch.device("cuda", index) for index in range(torch.cuda.device_count()))
    return next((device for device in devices if _device_name(device) == name), pick_device())


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Train on so many CPU threads in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that there is no memory left: Python's, torch's or CUDA's."""
    # torch has no class of its own for the CPU's.
    of_cpu = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return of_cpu or isinstance(error, MemoryError | torch.OutOfMemoryError)


def memory_at_hand(device: torch.device) -> str:
    """Return how much memory is free now, in words; what a failed trial held is given back."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(device)
        return f"{_device_name(device)} has {_gib(free)} of {_gib(total)} free"
    memory = psutil.virtual_memory()
    return f"this machine has {_gib(memory.available)} of {_gib(memory.total)} free"


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def environment(device: torch.device, folder: Path | None = None) -> dict[str, str]:
    """Return what decides a result besides its seed, as text to store with a trial.

    Package versions, processor, thread count and device; `commit` is the git commit of
    `folder`, with -dirty for uncommitted changes, and absent without git or a checkout.
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


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide a result."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue  # run from a checkout that is not installed
    return found


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
