"""Trials trained in packs beside trials trained one by one, on one device.

Claim     Where a step is mostly overhead, a pack trains many times as many trials an hour; where
          it is all arithmetic, as the convolutional network on a CPU, the ratio is 1.
Method    Whole epochs, evaluation and all, after a first one, by the loop of one run and by a
          pack of each size; the two in turns, since a machine's speed drifts. A trial is the
          task's epochs; a pack has trials of every schedule. With `--places N` also
          what becomes of N places when trials end early, a quarter each of the way: all are
          kept to the end, or given up, or taken by the next trials.
Run       python benchmarks/packs.py [--device cuda] [--sizes 1,2,4,8,16,32,64] [--repeats 3]
          [--task "digits MLP"] [--places 16]
"""

import argparse
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import nn

from sweeper.smoothing import Smoothing
from sweeper.tasks.digits import digits
from sweeper.training import Splits, Task, TrainingRun, train
from sweeper.training.packed.pack import Pack
from sweeper.training.packed.stack import Member
from sweeper.training.task import Optimiser


def cnn(hparams: Mapping[str, Any]) -> nn.Module:
    """Return a small convolutional network for images of 28 x 28."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * 49, 10)),
    )


def images(seed: int) -> Splits:
    """Return random images of ten classes: only their number matters here."""
    parts = [(torch.rand(rows, 1, 28, 28), torch.arange(rows) % 10) for rows in (1024, 128, 128)]
    return Splits(parts[0], parts[1], parts[2], 10)


TASKS: dict[str, Callable[[], Task]] = {
    "digits MLP": digits,
    "small CNN": lambda: Task(
        "images", 10, cnn, images, Optimiser(lr=1e-3), epochs=10, batch_size=128
    ),
}


class Line(NamedTuple):
    """Trials an hour by size, 0 for one by one, with the lowest and the highest of the repeats."""

    size: int
    median: float
    low: float
    high: float


def run_of(number: int, device: torch.device) -> TrainingRun:
    """Return one of many runs that differ in their smoothing alone; the first is annealed."""
    schedule = ("cosine", "confidence", "linear", "error", "exponential", "step", "fixed")[
        number % 7
    ]
    return TrainingRun(Smoothing(0.01 * (1 + number % 40), schedule, 2.0), 0, 0, device)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Return how many seconds something takes, on the device too."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def epochs_of(task: Task, size: int, device: torch.device) -> Callable[[], object]:
    """Return what trains one more epoch of so many runs at each call; 0 is the loop of one."""
    if size == 0:
        again = train(task, run_of(0, device))
        next(again)
        return lambda: next(again)
    pack = Pack(task, size)
    for number in range(size):
        pack.join(run_of(number, device))
    list(pack.epoch())
    return lambda: list(pack.epoch())


def measured(task: Task, sizes: list[int], device: torch.device, repeats: int) -> list[Line]:
    """Return a line for each size."""
    lines = []
    for size in sizes:
        seconds = []
        for _ in range(repeats):
            epoch = epochs_of(task, size, device)
            seconds += [timed(epoch, device) for _ in islice(range(task.epochs), 1, 4)]
        hour = [3600 * max(size, 1) / (each * task.epochs) for each in seconds]
        lines.append(Line(size, statistics.median(hour), min(hour), max(hour)))
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return lines


def table(name: str, lines: list[Line], device: torch.device) -> str:
    """Return the lines as a table; ratios are to the loop of one run."""
    alone = lines[0].median
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    rows = [
        f"{name}, {where}, torch {torch.__version__}, {torch.get_num_threads()} threads",
        "",
        "| in one step | trials an hour | lowest | highest | ratio |",
        "| --- | --- | --- | --- | --- |",
    ]
    for line in lines:
        what = "one by one, the loop" if line.size == 0 else str(line.size)
        rows.append(
            f"| {what} | {line.median:,.0f} | {line.low:,.0f} | {line.high:,.0f} "
            f"| {line.median / alone:.2f} |"
        )
    return "\n".join(rows)


# ---- places that come free ---------------------------------------------------------------

PLACES = {"kept": "kept to the end", "given up": "given up", "taken": "taken by the next trial"}


def worked_off(task: Task, places: int, device: torch.device, way: str) -> float:
    """Return how many seconds four times as many trials as there are places take."""
    quarters = (1 + number * 7 % 4 for number in range(4 * places))
    lengths = deque(task.epochs * share // 4 for share in quarters)
    pack, left = Pack(task, places), dict[Member, int]()

    def claim() -> None:
        while lengths and len(left) < places:
            left[pack.join(run_of(len(lengths), device))] = lengths.popleft()

    def work() -> None:
        claim()
        while left:
            for member, _ in list(pack.epoch()):
                left[member] -= 1
            ended = [member for member, epochs in left.items() if epochs <= 0]
            if way == "kept" and len(ended) < len(left):
                continue
            for member in ended:
                pack.leave(member)
                del left[member]
            if way == "taken" or not left:
                claim()

    return timed(work, device)


def places_table(task: Task, places: int, device: torch.device, repeats: int) -> str:
    """Return the seconds of each way as a table; the ways take turns."""
    found: dict[str, list[float]] = {way: [] for way in PLACES}
    for _ in range(repeats):
        for way, seconds in found.items():
            seconds.append(worked_off(task, places, device, way))
    rows = [f"| places that come free, of {places} | s | lowest | highest |", "| --- " * 4 + "|"]
    rows += [
        f"| {PLACES[way]} | {statistics.median(of):.2f} | {min(of):.2f} | {max(of):.2f} |"
        for way, of in found.items()
    ]
    return "\n".join(rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sizes", default="1,2,4,8,16,32,64")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--places", type=int, default=0)
    parser.add_argument("--task", choices=TASKS, help="one of them alone")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    sizes = [0, *(int(size) for size in arguments.sizes.split(","))]
    for name in [arguments.task] if arguments.task else TASKS:
        task = TASKS[name]
        print(table(name, measured(task(), sizes, device, arguments.repeats), device), flush=True)
        print(flush=True)
        if arguments.places:
            print(places_table(task(), arguments.places, device, arguments.repeats), end="\n\n")


if __name__ == "__main__":
    main()
