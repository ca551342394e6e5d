"""Label smoothing for training loops. It can be used without the rest of sweeper.

Names are imported on first use, so that `sweeper.smoothing.names` can be imported without torch.
"""

from typing import TYPE_CHECKING

from sweeper.lazy import lazy

if TYPE_CHECKING:
    from sweeper.smoothing.config import Smoothing
    from sweeper.smoothing.conventions import CONVENTIONS, to_others, to_uniform
    from sweeper.smoothing.loss import smoothing_loss
    from sweeper.smoothing.module import SmoothingLoss
    from sweeper.smoothing.schedules import SCHEDULES, Schedule, register_schedule
    from sweeper.smoothing.targets import smooth_targets

_HOMES = {
    "CONVENTIONS": "sweeper.smoothing.conventions",
    "SCHEDULES": "sweeper.smoothing.schedules",
    "Schedule": "sweeper.smoothing.schedules",
    "Smoothing": "sweeper.smoothing.config",
    "SmoothingLoss": "sweeper.smoothing.module",
    "register_schedule": "sweeper.smoothing.schedules",
    "smooth_targets": "sweeper.smoothing.targets",
    "smoothing_loss": "sweeper.smoothing.loss",
    "to_others": "sweeper.smoothing.conventions",
    "to_uniform": "sweeper.smoothing.conventions",
}

__all__ = [
    "CONVENTIONS",
    "SCHEDULES",
    "Schedule",
    "Smoothing",
    "SmoothingLoss",
    "register_schedule",
    "smooth_targets",
    "smoothing_loss",
    "to_others",
    "to_uniform",
]

__getattr__ = lazy(__name__, _HOMES)
