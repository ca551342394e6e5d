"""Measure the best pack size: the number of runs of a task to train in one step."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import psutil
import torch

from sweeper.training.device import is_out_of_memory
from sweeper.training.loop import epoch_batches, epoch_inputs, start, train_step
from sweeper.training.packed.pack import Pack
from sweeper.training.packed.stack import Batches, Stack
from sweeper.training.packed.stacking import Unstackable
from sweeper.training.random_state import restored_random_state
from sweeper.training.run import TrainingRun
from sweeper.training.task import Task

# Number of timed steps after a warm-up step. The fastest counts, because other load only slows.
_STEPS: Final = 4
# A doubled size must reduce the time per trial to less than this fraction. Smaller gains are not
# worth it, because larger packs delay the results that the sampler learns from.
_REQUIRED_GAIN: Final = 0.95
MAX_PACK_SIZE: Final = 1024
# Memory of a run in a pack, in multiples of its weights: weights, gradients, two moments, copies.
_COPIES: Final = 8


@dataclass(frozen=True)
class PackSize:
    """The number of trials to train in one step, 0 to train each trial alone, and the reason.

    `seconds` maps each measured size to the time per step and trial; size 0 is the built-in loop.
    """

    size: int
    reason: str
    seconds: dict[int, float]


def measure_pack_size(task: Task, run: TrainingRun, trials: int) -> PackSize:
    """Return the size up to `trials` with the least time per step and trial.

    Measures for one second, or for 2% of the expected time of all trials if that is longer.
    Exceptions of the task are raised.
    """
    with restored_random_state(run.device):
        seconds = {0: _single_step_seconds(task, run)}
        began = time.perf_counter()  # starts here, because loading the data does not count
        allowed = max(1.0, 0.02 * trials * task.epochs * _steps(task, run) * seconds[0])
        best, size = 0, 2
        while size <= min(trials, MAX_PACK_SIZE, _largest_fitting(task, run)):
            if time.perf_counter() - began > allowed / 2:
                break
            try:
                # Time a single run again, because the speed of the machine may have changed.
                together = _pack_step_seconds(task, run, size) / size
                seconds[size] = (
                    together * seconds[0] / min(_single_step_seconds(task, run), 2 * seconds[0])
                )
            except Unstackable as error:
                return PackSize(0, f"each trial is trained alone: {error}", seconds)
            except Exception as error:
                if is_out_of_memory(error):
                    break
                raise
            if seconds[size] < _REQUIRED_GAIN * seconds[best]:
                best = size
            elif size >= 4:
                break
            size *= 2
    return PackSize(best, _reason(best, seconds), seconds)


def _reason(best: int, seconds: dict[int, float]) -> str:
    if best == 0:
        return "each trial is trained alone: packs are not faster"
    speedup = seconds[0] / seconds[best]
    return f"packs of {best} trials: {speedup:.1f} times as fast as training each trial alone"


def _steps(task: Task, run: TrainingRun) -> int:
    _, fit = start(task, run)
    return math.ceil(len(fit.train[1]) / task.batch_size)


def _single_step_seconds(task: Task, run: TrainingRun) -> float:
    settings, fit = start(task, run)
    batches = epoch_batches(fit, 0, task.batch_size)
    inputs = next(epoch_inputs(task, fit, 0, batches))
    labels = fit.train[1][batches[0]]
    fit.model.train()
    fit.draws.begin([0])
    return _fastest(lambda: train_step(fit, settings, inputs, labels, 0.0), run.device)


def _pack_step_seconds(task: Task, run: TrainingRun, size: int) -> float:
    pack = Pack(task, size)
    stack = Stack([pack.join(run) for _ in range(size)])
    batches = Batches(task, stack.members)
    with stack.training():
        return _fastest(lambda: stack.step(batches, 0), run.device)


def _fastest(step: Callable[[], object], device: torch.device) -> float:
    # With one thread its CPU time counts, so that other load on the machine does not matter.
    single_thread = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if single_thread else time.perf_counter
    seconds = []
    for _ in range(1 + _STEPS):
        began = clock()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(clock() - began)
    return min(seconds[1:])


def _largest_fitting(task: Task, run: TrainingRun) -> int:
    """Return the number of runs that fit into half of the free memory, estimated by weights."""
    _, fit = start(task, run)
    run_bytes = _COPIES * sum(p.numel() * p.element_size() for p in fit.model.parameters())
    if run.device.type == "cuda":
        free = torch.cuda.mem_get_info(run.device)[0]
    else:
        free = psutil.virtual_memory().available
    return max(1, free // 2 // max(run_bytes, 1))
