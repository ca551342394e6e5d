"""Tune label smoothing: does it help this model, with which ε, and should ε anneal?"""

from typing import TYPE_CHECKING

from sweeper.lazy import lazy
from sweeper.version import __version__

if TYPE_CHECKING:
    from sweeper.api import (
        LaunchOptions,
        RunOptions,
        Study,
        StudySnapshot,
        check,
        confirm,
        delete,
        launch,
        make_executor,
        open_study,
        pause,
        replay,
        resume,
        retry,
        stop,
        studies,
        verify,
    )
    from sweeper.errors import SweeperError, TrialPruned, TrialReleased
    from sweeper.smoothing import Smoothing, SmoothingLoss, smooth_targets, smoothing_loss
    from sweeper.training.outputs import Scorer
    from sweeper.training.run import Evaluation, TrainingRun, current_run
    from sweeper.training.task import Optimizer, Splits, Task

_HOMES = {
    **dict.fromkeys(
        (
            *(
                "LaunchOptions",
                "RunOptions",
                "Study",
                "StudySnapshot",
                "check",
                "confirm",
                "delete",
                "launch",
                "make_executor",
                "open_study",
                "pause",
            ),
            *("replay", "resume", "retry", "stop", "studies", "verify"),
        ),
        "sweeper.api",
    ),
    **dict.fromkeys(("SweeperError", "TrialPruned", "TrialReleased"), "sweeper.errors"),
    **dict.fromkeys(
        ("Smoothing", "SmoothingLoss", "smooth_targets", "smoothing_loss"), "sweeper.smoothing"
    ),
    **dict.fromkeys(("Evaluation", "TrainingRun", "current_run"), "sweeper.training.run"),
    **dict.fromkeys(("Optimizer", "Splits", "Task"), "sweeper.training.task"),
    "Scorer": "sweeper.training.outputs",
}

__all__ = [
    "Evaluation",
    "LaunchOptions",
    "Optimizer",
    "RunOptions",
    "Scorer",
    "Smoothing",
    "SmoothingLoss",
    "Splits",
    "Study",
    "StudySnapshot",
    "SweeperError",
    "Task",
    "TrainingRun",
    "TrialPruned",
    "TrialReleased",
    "__version__",
    "check",
    "confirm",
    "current_run",
    "delete",
    "launch",
    "make_executor",
    "open_study",
    "pause",
    "replay",
    "resume",
    "retry",
    "smooth_targets",
    "smoothing_loss",
    "stop",
    "studies",
    "verify",
]

# Late, so that a training script that imports sweeper.smoothing needs torch alone.
__getattr__ = lazy(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
