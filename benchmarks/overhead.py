"""What a sweep costs beside its training, next to a plain Optuna script on the same work.

Claim     Outside training, for trials of 0.4 s: at most 12 % with pruning, 6 % without; for
          2 s trials 2 %; and at most half of what a plain script spends.
Method    One process, one thread, an SQLite file each. Time inside the training loop is taken
          by the loop itself; everything else between the first claim and the last tell is the
          cost, scoring included. Blocks of the two sides alternate, since a machine's speed
          drifts. The plain script is what people write: Optuna's default SQLite storage, the NLL
          of every epoch reported, pruning asked every time.
Run       python benchmarks/overhead.py [--trials 32] [--blocks 2]
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import optuna
import torch
from torch.nn import functional

from sweeper.api import Study
from sweeper.smoothing import Smoothing
from sweeper.store.database import open_writer
from sweeper.study.load import read_study
from sweeper.study.registration import register
from sweeper.tasks.digits import digits
from sweeper.training.loop import train as train_task
from sweeper.training.run import Evaluation, TrainingRun
from sweeper.worker.stopping import StopRequest
from sweeper.worker.worker import Terms, work

STUDY = """
[study]
name = "overhead"
[task]
use = "task.py:train"
options = {{ repeats = {repeats} }}
[budget]
trials = {trials}
[pruner]
name = "{pruner}"
"""
TASK = digits()
SPENT = "training_seconds"


class Cost(NamedTuple):
    """Seconds inside the training loop, and beside it."""

    training: float
    beside: float

    @property
    def share(self) -> float:
        """The cost in parts of the training."""
        return self.beside / self.training


def train(run: TrainingRun) -> Iterator[Evaluation]:
    """Train digits, `repeats` times as long, and say how long the training itself took."""
    began, spent = time.perf_counter(), 0.0
    for _ in range(1, run.options["repeats"]):
        for _ in train_task(TASK, run):
            pass
    for evaluation in train_task(TASK, run):
        spent += time.perf_counter() - began
        yield Evaluation(
            evaluation.logits,
            evaluation.labels,
            evaluation.progress,
            evaluation.train_loss,
            {SPENT: spent},
        )
        began = time.perf_counter()


def ours(folder: Path, trials: int, repeats: int, pruner: str) -> Cost:
    """Run a study through one worker in this process."""
    (folder / "task.py").write_bytes(Path(__file__).read_bytes())
    file = folder / "study.toml"
    file.write_text(STUDY.format(trials=trials, repeats=repeats, pruner=pruner))
    storage = f"sqlite:///{folder}/ours.db"
    store = open_writer(storage)
    record = register(store, read_study(file))
    began = time.perf_counter()
    work(store, Terms(record.name, folder), StopRequest())
    wall = time.perf_counter() - began
    trained = Study("overhead", storage).frame()[f"extra_{SPENT}"].sum()
    store.close()
    return Cost(trained, wall - trained)


def plain(folder: Path, trials: int, repeats: int, pruner: str) -> Cost:
    """Run the same work through the script that people write."""
    spent = 0.0

    def objective(trial: optuna.Trial) -> float:
        nonlocal spent
        smoothing = Smoothing(
            trial.suggest_float("epsilon", 0.0, 0.4),
            trial.suggest_categorical("schedule", ["fixed", "linear", "exponential"]),
            trial.suggest_float("rate", 0.3, 12.0, log=True),
        )
        run = TrainingRun(smoothing, 0, 0, options={"repeats": repeats})
        nll, last = float("nan"), 0.0
        try:
            for epoch, evaluation in enumerate(train(run)):
                last = evaluation.extra[SPENT]
                nll = functional.cross_entropy(evaluation.logits, evaluation.labels).item()
                trial.report(nll, epoch)
                if pruner != "none" and trial.should_prune():
                    raise optuna.TrialPruned
        finally:
            spent += last
        return nll

    chosen = optuna.pruners.MedianPruner(10, 20) if pruner != "none" else optuna.pruners.NopPruner()
    study = optuna.create_study(storage=f"sqlite:///{folder}/plain.db", pruner=chosen)
    began = time.perf_counter()
    study.optimize(objective, trials)
    return Cost(spent, time.perf_counter() - began - spent)


def measure(trials: int, repeats: int, pruner: str, blocks: int) -> None:
    """Print one line: both sides' cost in percent of their training."""
    costs: dict[str, list[Cost]] = {"ours": [], "plain": []}
    for _ in range(blocks):
        for name, side in (("ours", ours), ("plain", plain)):
            with tempfile.TemporaryDirectory() as folder:
                costs[name].append(side(Path(folder), trials, repeats, pruner))
    mine, theirs = (Cost(*map(sum, zip(*costs[name], strict=True))) for name in costs)
    seconds = theirs.training / blocks / trials
    print(
        f"{seconds:4.2f} s a trial, pruner {pruner:6}: sweeper {mine.share:6.1%}, "
        f"plain {theirs.share:6.1%}, ratio {mine.share / theirs.share:.2f}"
    )


def main() -> None:
    """Measure trials of both lengths, with and without pruning."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--blocks", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    print("time beside training, in percent of training:")
    for repeats, share in ((1, 1.0), (5, 0.5)):
        for pruner in ("median", "none"):
            measure(int(arguments.trials * share), repeats, pruner, arguments.blocks)


if __name__ == "__main__":
    main()
