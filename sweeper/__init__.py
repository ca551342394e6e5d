"""Does label smoothing help this model, with which ε, and should it anneal?"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeper.api import (
        Study,
        confirm,
        delete,
        launch,
        make_executor,
        open_study,
        pause,
        replay,
        resume,
        stop,
        studies,
        verify,
    )
    from sweeper.errors import SweeperError
    from sweeper.smoothing import Smoothing, SmoothingLoss, smooth_targets, smoothing_loss
    from sweeper.training.run import Evaluation, TrainingRun
    from sweeper.training.task import Optimiser, Splits, Task

_HOME = {
    **dict.fromkeys(
        (
            *("Study", "confirm", "delete", "launch", "make_executor", "open_study", "pause"),
            *("replay", "resume", "stop", "studies", "verify"),
        ),
        "sweeper.api",
    ),
    "SweeperError": "sweeper.errors",
    **dict.fromkeys(
        ("Smoothing", "SmoothingLoss", "smooth_targets", "smoothing_loss"), "sweeper.smoothing"
    ),
    **dict.fromkeys(("Evaluation", "TrainingRun"), "sweeper.training.run"),
    **dict.fromkeys(("Optimiser", "Splits", "Task"), "sweeper.training.task"),
}

__all__ = [
    "Evaluation",
    "Optimiser",
    "Smoothing",
    "SmoothingLoss",
    "Splits",
    "Study",
    "SweeperError",
    "Task",
    "TrainingRun",
    "confirm",
    "delete",
    "launch",
    "make_executor",
    "open_study",
    "pause",
    "replay",
    "resume",
    "smooth_targets",
    "smoothing_loss",
    "stop",
    "studies",
    "verify",
]


def __getattr__(name: str) -> Any:
    # Late, so that a training script that imports sweeper.smoothing needs torch alone.
    if name not in _HOME:
        raise AttributeError(f"module 'sweeper' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
