"""The time of a sweep outside training, compared with a plain Optuna script on the same work.

Claim     For trials of 0.4 s, at most 12% of the training time with pruning and 6% without; for
          trials of 2 s, 2%; and at most half of what a plain script spends.
Method    One process, one thread, an SQLite file each. The training loop measures the time inside
          it. Everything else between the first claim and the last tell is the overhead, including
          the scores. Blocks of the two sides alternate, because a machine's speed drifts. The
          plain script is written as most users would: Optuna's default SQLite storage, the NLL
          reported after every epoch, and a check for pruning each time.
Run       python -m benchmarks.overhead [--trials 32] [--blocks 2] [--quick]
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import optuna
import torch
from torch.nn import functional

from benchmarks.shared.arguments import parse, parser
from benchmarks.shared.plain_optuna import quiet_optuna, suggest_smoothing
from benchmarks.shared.tasks import timed_digits
from benchmarks.shared.timing import alternate
from sweeper.api import Study
from sweeper.store.database import open_writer
from sweeper.study.load import read_study
from sweeper.study.registration import register
from sweeper.training.run import TrainingRun
from sweeper.worker.served_studies import WorkerOptions
from sweeper.worker.stopping import StopRequest
from sweeper.worker.worker import work

STUDY = """
[study]
name = "overhead"
[task]
use = "{task}:train"
options = {{ repeats = {repeats} }}
[budget]
trials = {trials}
[pruner]
name = "{pruner}"
"""


class Cost(NamedTuple):
    """Seconds inside and outside the training loop."""

    training: float
    outside: float

    @property
    def share(self) -> float:
        """The time outside training as a share of the training."""
        return self.outside / self.training


class Work(NamedTuple):
    """A number of trials; each trains `repeats` times."""

    trials: int
    repeats: int
    pruner: str


def ours(folder: Path, to_do: Work) -> Cost:
    """Run a study with one worker in this process."""
    file = folder / "study.toml"
    file.write_text(STUDY.format(task=timed_digits.__file__, **to_do._asdict()))
    storage = f"sqlite:///{folder}/ours.db"
    store = open_writer(storage)
    record = register(store, read_study(file))
    began = time.perf_counter()
    work(store, WorkerOptions(record.name, folder), StopRequest())
    wall = time.perf_counter() - began
    trained = Study("overhead", storage).frame()[f"extra_{timed_digits.SECONDS}"].sum()
    store.close()
    return Cost(trained, wall - trained)


def plain(folder: Path, to_do: Work) -> Cost:
    """Run the same work with a plain Optuna script."""
    spent, pruning = 0.0, to_do.pruner != "none"

    def objective(trial: optuna.Trial) -> float:
        nonlocal spent
        options = {"repeats": to_do.repeats}
        run = TrainingRun(suggest_smoothing(trial), 0, 0, options=options)
        nll, last = float("nan"), 0.0
        try:
            for epoch, evaluation in enumerate(timed_digits.train(run)):
                last = evaluation.extra[timed_digits.SECONDS]
                nll = functional.cross_entropy(evaluation.logits, evaluation.labels).item()
                trial.report(nll, epoch)
                if pruning and trial.should_prune():
                    raise optuna.TrialPruned
        finally:
            spent += last
        return nll

    chosen = optuna.pruners.MedianPruner(10, 20) if pruning else optuna.pruners.NopPruner()
    study = optuna.create_study(storage=f"sqlite:///{folder}/plain.db", pruner=chosen)
    began = time.perf_counter()
    study.optimize(objective, to_do.trials)
    return Cost(spent, time.perf_counter() - began - spent)


def in_new_folder(side: Callable[[Path, Work], Cost], to_do: Work) -> Cost:
    with tempfile.TemporaryDirectory() as folder:
        return side(Path(folder), to_do)


def measure(to_do: Work, blocks: int) -> None:
    """Print one line: the time outside training on both sides in percent of their training."""
    sides = {"ours": ours, "plain": plain}
    costs = alternate(
        {name: partial(in_new_folder, side, to_do) for name, side in sides.items()}, blocks
    )
    mine, theirs = (Cost(*map(sum, zip(*costs[name], strict=True))) for name in costs)
    seconds = theirs.training / blocks / to_do.trials
    print(
        f"{seconds:4.2f} s per trial, pruner {to_do.pruner:6}: sweeper {mine.share:6.1%}, "
        f"plain {theirs.share:6.1%}, ratio {mine.share / theirs.share:.2f}",
        flush=True,
    )


def main() -> None:
    """Measure trials of both lengths, with and without pruning."""
    arguments = parser(__doc__)
    arguments.add_argument("--trials", type=int, default=32)
    arguments.add_argument("--blocks", type=int, default=2)
    given = parse(arguments, trials=2, blocks=1)
    torch.set_num_threads(1)
    quiet_optuna()
    print("time outside training, in percent of training:")
    lengths = [(1, 1.0)] if given.quick else [(1, 1.0), (5, 0.5)]
    for repeats, share in lengths:
        for pruner in ("median", "none"):
            measure(Work(int(given.trials * share), repeats, pruner), given.blocks)


if __name__ == "__main__":
    main()
