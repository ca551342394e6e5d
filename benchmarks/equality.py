"""Differences between training in packs and training runs one by one.

Claim     Parameters agree with those of the loop of one run to 1e-5 in relative norm over the
          first 50 steps. Over a whole digits study, the NLL of a configuration differs from the
          loop's by less than a tenth of the standard deviation over seeds on average, and
          without bias.
Method    The configurations that a random study of digits would try are trained on a few seeds,
          by the loop and in packs of 16, and compared in pairs. They differ only by rounding.
          Rounding errors grow as any disturbance of a training run does, so the last epoch is a
          harder test than the first steps.
Run       python -m benchmarks.equality [--configurations 64] [--seeds 3] [--quick]
"""

from collections.abc import Sequence
from itertools import islice
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.shared.arguments import parse, parser
from benchmarks.shared.pack_training import pack_evaluations
from benchmarks.shared.tables import markdown_table
from sweeper.scoring import score
from sweeper.smoothing import Smoothing
from sweeper.study.load import read_study
from sweeper.study.plan import plan
from sweeper.study.space import effective_smoothing
from sweeper.tasks.digits import digits
from sweeper.training import Evaluation, Task, TrainingRun, train

Floats = NDArray[np.float64]
SIZE: Final = 16
STEPS: Final = 50


def runs_of(count: int, seeds: int) -> list[list[TrainingRun]]:
    """Return the configurations of a random study for each seed."""
    spec = read_study("digits-random", trials=count).spec
    points = [point for point in plan(spec, {}) if point is not None]
    return [
        [TrainingRun(Smoothing(*effective_smoothing(point)), seed, 0) for point in points]
        for seed in range(seeds)
    ]


def by_loop(task: Task, runs: Sequence[TrainingRun], epochs: int) -> list[Evaluation]:
    """Train the first epochs of each run by itself; return the last evaluations."""
    return [list(islice(train(task, run), epochs))[-1] for run in runs]


def by_pack(task: Task, runs: Sequence[TrainingRun], epochs: int) -> list[Evaluation]:
    """Train the first epochs of all runs in packs; return the last evaluations."""
    found = list[Evaluation]()
    for start in range(0, len(runs), SIZE):
        evaluations = pack_evaluations(task, runs[start : start + SIZE], epochs)
        last = {run: evaluation for run, _, evaluation in evaluations}
        found += [last[run] for run in sorted(last)]
    return found


def nll(evaluations: Sequence[Evaluation]) -> Floats:
    """Return the validation NLL of each."""
    return np.array([score(one.logits, one.labels, full=False).nll for one in evaluations])


def weights(of: Evaluation) -> Tensor:
    """Return all of a model's parameters, (P,)."""
    assert of.state is not None
    return torch.cat([tensor.flatten() for tensor in of.state()["model"].values()]).double()


def first_steps(task: Task, runs: Sequence[TrainingRun]) -> list[list[str]]:
    """Return the rows of steps and relative norms of the difference."""
    labels = task.data(0).train[1]
    per_epoch = -(-len(labels) // task.batch_size)
    rows = []
    for epochs in range(1, -(-STEPS // per_epoch) + 1):
        pairs = zip(by_loop(task, runs, epochs), by_pack(task, runs, epochs), strict=True)
        norms = [float((weights(a) - weights(b)).norm() / weights(a).norm()) for a, b in pairs]
        rows.append([str(epochs * per_epoch), f"{np.median(norms):.1e}", f"{max(norms):.1e}"])
    return rows


def main() -> None:
    """Train both ways and print the differences."""
    arguments = parser(__doc__)
    arguments.add_argument("--configurations", type=int, default=64)
    arguments.add_argument("--seeds", type=int, default=3)
    given = parse(arguments, configurations=4, seeds=2)
    torch.set_num_threads(1)
    task, seeds = digits(), runs_of(given.configurations, given.seeds)
    headings = ["steps", "relative norm of the difference, median", "largest"]
    print(markdown_table(headings, first_steps(task, seeds[0][:SIZE])), flush=True)
    loop = np.array([nll(by_loop(task, runs, task.epochs)) for runs in seeds])
    pack = np.array([nll(by_pack(task, runs, task.epochs)) for runs in seeds])
    difference = pack - loop
    spread = loop.std(0, ddof=1)  # over seeds, of each configuration
    seed_sd = float(np.sqrt((spread**2).mean()))
    error = difference.mean(0).std(ddof=1) / np.sqrt(difference.shape[1])
    print(f"\n{loop.size} pairs, NLL after {task.epochs} epochs, in nats")
    print(f"standard deviation over seeds      {seed_sd:.5f}")
    print(f"mean absolute difference           {np.abs(difference).mean():.5f}")
    print(f"  in standard deviations           {np.abs(difference).mean() / seed_sd:.3f}")
    print(f"mean difference, standard error    {difference.mean():+.6f} ± {error:.6f}")


if __name__ == "__main__":
    main()
