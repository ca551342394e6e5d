"""What it costs to train in processes: for a function that does nothing, and for packs.

Claim     A trial of a function that does nothing costs at most 45 ms of CPU time of all processes,
          and two cores do at least 25 of them per second. The process boundary costs packs less
          than 1% of their time.
Method    A worker runs a study twice, with few trials and with many. What the additional trials
          take, divided by their number, leaves out the start of all processes. CPU time is that
          of the worker and of all its descendants. For packs, an epoch of digits is trained and
          scored, and its reports are sent to another process that reads them and answers, in turn,
          because a machine's speed drifts.
Run       python -m benchmarks.trainers [--trials 200] [--rounds 20] [--quick]
"""

import multiprocessing
import os
import socket
import statistics
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.shared.arguments import parse, parser
from benchmarks.shared.tables import markdown_table
from benchmarks.shared.tasks import trivial
from sweeper.scoring import score
from sweeper.smoothing import Smoothing
from sweeper.store.database import open_writer
from sweeper.study.code import inspect_here
from sweeper.study.load import read_study
from sweeper.study.registration import register
from sweeper.tasks.digits import digits
from sweeper.trainers.channel import Channel, ChannelClosed
from sweeper.training.messages import FromTrainer, Reply, Report, ToTrainer
from sweeper.training.packed.pack import Outcome, Pack
from sweeper.training.run import Evaluation, TrainingRun
from sweeper.worker.served_studies import WorkerOptions
from sweeper.worker.stopping import StopRequest
from sweeper.worker.worker import work

TRIVIAL = f"""
[study]
name = "trivial"
[task]
use = "{trivial.__file__}:train"
"""
REST = """
[sampler]
name = "random"
[pruner]
name = "none"
[confirm]
enabled = false
"""


class Cost(NamedTuple):
    """Seconds of a whole study."""

    wall: float
    cpu: float


def cost(study: str, slots: int, trials: int) -> Cost:
    """Return what a worker takes for so many trials; with 0 slots it trains in its own process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "study.toml"
        file.write_text(study + REST)
        found = read_study(file, trials=trials, inspect=inspect_here)
        store = open_writer(f"sqlite:///{folder}/study.db")
        record = register(store, found)
        began, before = time.perf_counter(), sum(os.times()[:4])
        work(store, WorkerOptions(record.name, folder, slots=slots), StopRequest())
        used = Cost(time.perf_counter() - began, sum(os.times()[:4]) - before)
        store.close()
    return used


def of_one_trial(study: str, slots: int, trials: int) -> Cost:
    """Return what one trial takes, without the start."""
    few = max(2, trials // 10)
    small, large = (cost(study, slots, count) for count in (few, trials))
    return Cost(*((more - less) / (trials - few) for less, more in zip(small, large, strict=True)))


def echo(descriptor: int) -> None:
    """Read reports and answer them, as a worker does but for storing them."""
    channel = Channel(socket.socket(fileno=descriptor))
    with suppress(ChannelClosed):
        while True:
            message = FromTrainer.from_dict(channel.receive())
            answer = ToTrainer({report.key: Reply() for report in message.reports})
            channel.send(answer.to_dict())


def boundary(size: int, rounds: int) -> tuple[float, float]:
    """Return the median seconds of an epoch of a pack of digits, and of the way of its reports."""
    mine, other = Channel.pair()
    worker = multiprocessing.get_context("fork").Process(target=echo, args=(other.fileno(),))
    worker.start()
    other.close()
    task = replace(digits(), epochs=rounds)
    pack = Pack(task, size)
    for number in range(size):
        pack.join(TrainingRun(Smoothing(0.1 * number / size, "cosine", 1.0), 0, 0))
    epochs, ways = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        reports = [reported(number, given) for number, (_, given) in enumerate(pack.epoch())]
        trained = time.perf_counter()
        mine.send(FromTrainer(reports).to_dict())
        ToTrainer.from_dict(mine.receive())
        ways.append(time.perf_counter() - trained)
        epochs.append(trained - began)
    mine.close()
    worker.terminate()
    worker.join()
    return statistics.median(epochs), statistics.median(ways)


def reported(number: int, given: Outcome) -> Report:
    """Return the report of an epoch of a member of the pack."""
    assert isinstance(given, Evaluation)
    scores = score(given.logits, given.labels, full=False).to_dict()
    return Report(f"search:{number}:1", 1, given.progress, 0.1, scores, 10, 1.0)


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--trials", type=int, default=200)
    arguments.add_argument("--rounds", type=int, default=20)
    given = parse(arguments, trials=20, rounds=3)
    torch.set_num_threads(1)
    rows = []
    for slots in (0, 1, 2, 3):
        one = of_one_trial(TRIVIAL, slots, given.trials)
        rows.append([str(slots), f"{1000 * one.cpu:.0f}", f"{1 / one.wall:.1f}"])
    print(markdown_table(("slots", "CPU per trial, ms", "trials per second"), rows))
    rows = []
    for size in (4, 16, 64):
        epoch, way = boundary(size, given.rounds)
        rows.append([str(size), f"{1000 * epoch:.1f}", f"{1000 * way:.2f}", f"{way / epoch:.2%}"])
    print()
    print(markdown_table(("pack", "epoch, ms", "its reports, ms", "share"), rows))


if __name__ == "__main__":
    main()
