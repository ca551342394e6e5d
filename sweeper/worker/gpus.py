"""The GPUs of this machine, and which of them each slot uses."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Final

from sweeper.errors import SweeperError
from sweeper.study.resources import ranks_of
from sweeper.study.spec import StudySpec
from sweeper.worker.cores import cores

VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
# If none of these exists, torch cannot use a GPU. Asking torch would take a second.
_DRIVERS: Final = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dxg", "/dev/nvhost-gpu")
# 0.1 is stored as a slightly larger number, and still ten slots share a GPU.
_ROUNDING: Final = 1e-9


def visible_gpus() -> tuple[str, ...]:
    """Return the names of the GPUs that torch can use here, as in CUDA_VISIBLE_DEVICES."""
    if sys.platform == "linux" and not any(Path(driver).exists() for driver in _DRIVERS):
        return ()
    import torch

    # Asks the driver, and so does not initialize CUDA in this process.
    return gpu_names(os.environ.get(VISIBLE), torch.cuda.device_count())


def gpu_names(visible: str | None, count: int) -> tuple[str, ...]:
    """Return the names of `count` GPUs, under CUDA_VISIBLE_DEVICES = `visible` (None: not set).

    Names are numbers, UUIDs ("GPU-…") or MIG instances ("MIG-…"). A process can use only one MIG
    instance, and torch counts only that one, so all that are listed are taken.
    """
    if visible is None:
        return tuple(map(str, range(count)))
    names = tuple(name.strip() for name in visible.split(",") if name.strip())
    return names if all(name.startswith("MIG-") for name in names) else names[:count]


def slots_that_fit(spec: StudySpec, gpus: Sequence[str]) -> int | None:
    """Return the number of training runs that fit on the GPUs, None if they need no GPU.

    Raises `SweeperError` if the study needs more GPUs than there are.
    """
    needed, device = spec.resources.gpus, spec.task.device
    if not needed:
        pinned = device.startswith("cuda:")
        return None if device == "cpu" or not gpus else 1 if pinned else len(gpus)
    fitting = int(len(gpus) / needed + _ROUNDING) if needed >= 1 else len(gpus) * _sharing(needed)
    if not fitting:
        raise SweeperError(_too_few(needed, gpus))
    return fitting


def check_slots(spec: StudySpec, gpus: Sequence[str], slots: int) -> None:
    """Raise `SweeperError` if the study needs more GPUs than there are for this many slots."""
    fitting, needed = slots_that_fit(spec, gpus), spec.resources.gpus
    if needed and fitting is not None and slots > fitting:
        raise SweeperError(
            f"resources.gpus: {slots} training runs at a time with gpus = {needed:g} each, but "
            f"{_available(gpus)}; use at most {fitting} (--workers, or --slots of a worker), or "
            "lower gpus"
        )
    if slots == 0 and ranks_of(spec) > 1:
        raise SweeperError(
            f"resources: a training run with {ranks_of(spec)} ranks cannot be trained in the "
            "process of the worker; use one or more workers (--workers 1)"
        )


def default_slots(specs: Sequence[StudySpec], gpus: Sequence[str]) -> int:
    """Return how many training runs of these studies fit on this machine at a time.

    This is one per GPU, and one per `task.threads` cores for studies that do not use GPUs.
    """
    fitting = [slots_that_fit(spec, gpus) for spec in specs]
    on_gpus = [count for count in fitting if count is not None]
    on_cores = [
        max(1, cores() // (spec.task.threads * ranks_of(spec)))
        for spec, count in zip(specs, fitting, strict=True)
        if count is None
    ]
    if not specs:
        return len(gpus) or cores()
    return max(*on_gpus, min(on_cores, default=0), 0)


def _sharing(needed: float) -> int:
    return int(1 / needed + _ROUNDING)


def _too_few(needed: float, gpus: Sequence[str]) -> str:
    ranks = int(needed)
    on_cpus = (
        f', or train the ranks on CPUs: resources.ranks = {ranks} and task.device = "cpu"'
        if ranks > 1
        else ""
    )
    return (
        f"resources.gpus: gpus = {needed:g}, but {_available(gpus)}; use another machine, or lower "
        f"gpus{on_cpus}"
    )


def _available(gpus: Sequence[str]) -> str:
    visible = os.environ.get(VISIBLE)
    where = "" if visible is None else f' ({VISIBLE} is "{visible}")'
    count = len(gpus)
    return f"torch can use {count} GPU{'' if count == 1 else 's'} on this machine{where}"


@dataclass(frozen=True)
class GpuShare:
    """What a slot gets: `part` of each of the named GPUs, `gpus` in total.

    `environment` is that of its trainers.
    """

    names: tuple[str, ...] = ()
    part: Fraction = Fraction(0)
    gpus: float = 0.0
    environment: dict[str, str] = field(default_factory=dict)


class GpuPool:
    """Gives GPUs to the slots of a worker, and never more than there are."""

    def __init__(self, names: Sequence[str], slots: int) -> None:
        self._free = dict.fromkeys(names, Fraction(1))
        # For studies that do not say how many GPUs they need; slots share GPUs if there are more.
        self._equal = Fraction(1, -(-max(1, slots) // max(1, len(names))))
        self._slots = max(1, slots)

    def take(self, spec: StudySpec) -> GpuShare | None:
        """Return the share of a slot for a study; None if other slots use the GPUs."""
        device, needed = spec.task.device, spec.resources.gpus
        if not self._free:
            return GpuShare()
        if device == "cpu":
            return GpuShare(environment={VISIBLE: ""})
        if device.startswith("cuda:"):
            # The number counts all GPUs of this worker, so the trainers see all of them.
            return GpuShare(gpus=1 / self._slots)
        part, count = self._part(needed), max(1, int(needed))
        # Those with most space first, so that slots are spread over all GPUs.
        by_space = sorted(self._free, key=lambda name: -self._free[name])
        names = tuple(name for name in by_space if self._free[name] >= part)[:count]
        if len(names) < count:
            return None
        for name in names:
            self._free[name] -= part
        return GpuShare(names, part, float(part) * count, {VISIBLE: ",".join(names)})

    def give_back(self, share: GpuShare) -> None:
        """Take back the share of a slot that has ended."""
        for name in share.names:
            self._free[name] += share.part

    def _part(self, needed: float) -> Fraction:
        if not needed:
            return self._equal
        return Fraction(1) if needed >= 1 else Fraction(1, _sharing(needed))
