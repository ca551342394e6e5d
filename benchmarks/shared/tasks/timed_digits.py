"""Training on digits that records how long the training itself took."""

import time
from collections.abc import Iterator
from typing import Final

from sweeper.tasks.digits import digits
from sweeper.training import Evaluation, TrainingRun
from sweeper.training.loop import train as train_task

TASK: Final = digits()
SECONDS: Final = "training_seconds"


def train(run: TrainingRun) -> Iterator[Evaluation]:
    """Train digits `repeats` times; yield the evaluations of the last training with the time."""
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
            {SECONDS: spent},
        )
        began = time.perf_counter()
