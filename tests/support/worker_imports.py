"""Train as a worker does, and print the imported packages that only other commands need."""

import sys

import torch

import sweeper.api  # noqa: F401
from sweeper.smoothing import Smoothing
from sweeper.training import Optimizer, Splits, Task, TrainingRun, train
from sweeper.training.packed.pack import train_packed


def main() -> None:
    rows = torch.rand(4, 2), torch.tensor([0, 1, 0, 1])
    task = Task(
        "small",
        2,
        lambda _: torch.nn.Linear(2, 2),
        lambda _: Splits(rows, rows, rows, 2),
        Optimizer(),
        epochs=1,
        batch_size=2,
    )
    run = TrainingRun(Smoothing(0.1), 0, 0)
    assert len(list(train(task, run))) == len(list(train_packed(task, run))) == 1
    late = ("torch._dynamo", "scipy.stats", "sklearn", "optuna_dashboard")
    print([name for name in late if name in sys.modules])


if __name__ == "__main__":
    main()
