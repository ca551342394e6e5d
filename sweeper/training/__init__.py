"""Training: the declared task, the ready loop and what a loop of one's own needs."""

from sweeper.training.device import environment, pick_device
from sweeper.training.loop import train
from sweeper.training.run import Evaluation, Trainer, TrainingRun
from sweeper.training.seeding import derive_seed
from sweeper.training.task import Optimiser, Splits, Task

__all__ = [
    "Evaluation",
    "Optimiser",
    "Splits",
    "Task",
    "Trainer",
    "TrainingRun",
    "derive_seed",
    "environment",
    "pick_device",
    "train",
]
