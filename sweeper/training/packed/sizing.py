"""How many runs of a task are best trained in one step, measured on the task itself."""

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
from sweeper.training.run import TrainingRun
from sweeper.training.seeding import own_randomness
from sweeper.training.task import Task

# Steps timed after a first one; the quickest counts, since whatever else runs only slows.
_STEPS: Final = 4
# Twice as many in a step have to save so much of a trial's time; what is near as quick is not
# worth the wait for its points.
_WORTH: Final = 0.95
MOST: Final = 1024
# Of a run in a pack: its weights, their gradients, two moments, and copies to go back to.
_COPIES: Final = 8


@dataclass(frozen=True)
class Sizing:
    """How many trials are trained in one step, 0 for each by itself, and why.

    `seconds` are of a step and trial, by size; 0 is the ready loop's.
    """

    size: int
    reason: str
    seconds: dict[int, float]


def measured_size(task: Task, run: TrainingRun, trials: int) -> Sizing:
    """Return the size up to `trials` with the least time a step and trial.

    Timed for a second, or for 2 % of what all trials take if that is more. Raises what the task
    does.
    """
    with own_randomness(run.device):
        seconds = {0: _alone(task, run)}
        began = time.perf_counter()  # now: the data had to be loaded anyway
        allowed = max(1.0, 0.02 * trials * task.epochs * _steps(task, run) * seconds[0])
        best, size = 0, 2
        while size <= min(trials, MOST, _fitting(task, run)):
            if time.perf_counter() - began > allowed / 2:
                break
            try:
                # The one by itself again: a machine's speed changes, and the two are compared.
                together = _together(task, run, size) / size
                seconds[size] = together * seconds[0] / min(_alone(task, run), 2 * seconds[0])
            except Unstackable as error:
                return Sizing(0, f"each trial by itself: {error}", seconds)
            except Exception as error:
                if is_out_of_memory(error):
                    break
                raise
            if seconds[size] < _WORTH * seconds[best]:
                best = size
            elif size >= 4:
                break
            size *= 2
    return Sizing(best, _said(best, seconds), seconds)


def _said(best: int, seconds: dict[int, float]) -> str:
    if best == 0:
        return "each trial by itself: in one step with others none is quicker"
    times = seconds[0] / seconds[best]
    return f"{best} trials in one step: {times:.1f} times as quick as one by one"


def _steps(task: Task, run: TrainingRun) -> int:
    _, fit = start(task, run)
    return math.ceil(len(fit.train[1]) / task.batch_size)


def _alone(task: Task, run: TrainingRun) -> float:
    settings, fit = start(task, run)
    batches = epoch_batches(fit, 0, task.batch_size)
    inputs = next(epoch_inputs(task, fit, 0, batches))
    labels = fit.train[1][batches[0]]
    fit.model.train()
    fit.draws.begin([0])
    return _quickest(lambda: train_step(fit, settings, inputs, labels, 0.0), run.device)


def _together(task: Task, run: TrainingRun, size: int) -> float:
    pack = Pack(task, size)
    stack = Stack([pack.join(run) for _ in range(size)])
    batches = Batches(task, stack.members)
    with stack.training():
        return _quickest(lambda: stack.step(batches, 0), run.device)


def _quickest(step: Callable[[], object], device: torch.device) -> float:
    # On one thread its own time counts: what else the machine does would decide otherwise.
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if alone else time.perf_counter
    found = []
    for _ in range(1 + _STEPS):
        began = clock()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(clock() - began)
    return min(found[1:])


def _fitting(task: Task, run: TrainingRun) -> int:
    """Return how many runs take at most half of the memory that is free, by their weights."""
    _, fit = start(task, run)
    each = _COPIES * sum(p.numel() * p.element_size() for p in fit.model.parameters())
    if run.device.type == "cuda":
        free = torch.cuda.mem_get_info(run.device)[0]
    else:
        free = psutil.virtual_memory().available
    return max(1, free // 2 // max(each, 1))
