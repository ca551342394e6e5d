"""Trials per hour in packs and one by one, on one device.

Claim     Where a step is mostly overhead, a pack trains many times as many trials per hour. Where
          it is all arithmetic, as with the convolutional network on a CPU, the ratio is 1.
Method    Whole epochs, including evaluation, after a first one, by the loop of one run and by a
          pack of each size. A trial is all epochs of the task; a pack has trials of every
          schedule. `--places N` also compares three ways to use the N places of a pack when
          trials end early, after one to four quarters of the epochs: places are kept until all
          trials have ended, removed, or taken by the next trials.
Run       python -m benchmarks.packs [--device cuda] [--sizes 1,2,4,8,16,32,64] [--repeats 3]
          [--task "digits MLP"] [--places 16] [--quick]
"""

import statistics
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import islice

import torch

from benchmarks.shared.arguments import numbers, parse, parser
from benchmarks.shared.tables import markdown_table, median_range
from benchmarks.shared.tasks.small_cnn import small_cnn
from benchmarks.shared.timing import alternate, seconds_of
from sweeper.smoothing import Smoothing
from sweeper.tasks.digits import digits
from sweeper.training import Task, TrainingRun, train
from sweeper.training.packed.pack import Pack
from sweeper.training.packed.stack import Member

TASKS: dict[str, Callable[[], Task]] = {"digits MLP": digits, "small CNN": small_cnn}


def run_of(number: int, device: torch.device) -> TrainingRun:
    """Return one of many runs that differ only in their smoothing; the first is annealed."""
    schedule = ("cosine", "confidence", "linear", "error", "exponential", "step", "fixed")[
        number % 7
    ]
    return TrainingRun(Smoothing(0.01 * (1 + number % 40), schedule, 2.0), 0, 0, device)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Return how long a call takes, including its work on the device."""

    def synchronized() -> None:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return seconds_of(synchronized)


def epochs_of(task: Task, size: int, device: torch.device) -> Callable[[], object]:
    """Return a function that trains one more epoch of a pack; size 0 is the loop of one run."""
    if size == 0:
        again = train(task, run_of(0, device))
        next(again)
        return lambda: next(again)
    pack = Pack(task, size)
    for number in range(size):
        pack.join(run_of(number, device))
    list(pack.epoch())
    return lambda: list(pack.epoch())


def trials_per_hour(task: Task, size: int, device: torch.device, repeats: int) -> list[float]:
    """Return the trials per hour in each of the measured epochs."""
    seconds = []
    for _ in range(repeats):
        epoch = epochs_of(task, size, device)
        seconds += [timed(epoch, device) for _ in islice(range(task.epochs), 1, 4)]
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return [3600 * max(size, 1) / (each * task.epochs) for each in seconds]


def table(task: Task, sizes: list[int], device: torch.device, repeats: int) -> str:
    """Return a table with one row per size; ratios are to the loop of one run."""
    found = {size: trials_per_hour(task, size, device, repeats) for size in (0, *sizes)}
    alone = statistics.median(found[0])
    rows = [
        [
            str(size) if size else "one by one, the loop",
            median_range(each, "{:,.0f}"),
            f"{statistics.median(each) / alone:.2f}",
        ]
        for size, each in found.items()
    ]
    return markdown_table(["in one step", "trials per hour", "ratio"], rows)


# ---- free places -------------------------------------------------------------------------

PLACES = {"kept": "stay empty", "removed": "removed", "taken": "taken by the next trial"}


def worked_off(task: Task, places: int, device: torch.device, way: str) -> float:
    """Return the seconds that four times as many trials as there are places take."""
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
    """Return a table with the seconds of each way."""
    sides = {way: partial(worked_off, task, places, device, way) for way in PLACES}
    found = alternate(sides, repeats)
    return markdown_table(
        [f"free places, of {places}", "seconds"],
        [[PLACES[way], median_range(seconds, "{:.2f}")] for way, seconds in found.items()],
    )


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--sizes", type=numbers, default=[1, 2, 4, 8, 16, 32, 64])
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--places", type=int, default=0)
    arguments.add_argument("--task", choices=TASKS, help="one of the tasks only")
    given = parse(arguments, sizes=[1, 4], repeats=1, places=4, task="digits MLP")
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    for name in [given.task] if given.task else TASKS:
        task = TASKS[name]()
        print(f"{name}, {where}, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
        print(table(task, given.sizes, device, given.repeats), end="\n\n", flush=True)
        if given.places:
            print(places_table(task, given.places, device, given.repeats), end="\n\n")


if __name__ == "__main__":
    main()
