"""Training: tasks, the built-in training loop, and the classes for custom training loops."""

from typing import TYPE_CHECKING

from sweeper.lazy import lazy

if TYPE_CHECKING:
    from sweeper.training.device import environment, pick_device
    from sweeper.training.loop import train
    from sweeper.training.run import Evaluation, Trainer, TrainingRun
    from sweeper.training.seeds import derive_seed
    from sweeper.training.task import Optimizer, Splits, Task

_HOMES = {
    "Evaluation": "sweeper.training.run",
    "Optimizer": "sweeper.training.task",
    "Splits": "sweeper.training.task",
    "Task": "sweeper.training.task",
    "Trainer": "sweeper.training.run",
    "TrainingRun": "sweeper.training.run",
    "derive_seed": "sweeper.training.seeds",
    "environment": "sweeper.training.device",
    "pick_device": "sweeper.training.device",
    "train": "sweeper.training.loop",
}

__all__ = [
    "Evaluation",
    "Optimizer",
    "Splits",
    "Task",
    "Trainer",
    "TrainingRun",
    "derive_seed",
    "environment",
    "pick_device",
    "train",
]

__getattr__ = lazy(__name__, _HOMES)
