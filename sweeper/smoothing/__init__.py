"""Label smoothing for a training loop: torch only, importable without the rest."""

from sweeper.smoothing.config import Smoothing
from sweeper.smoothing.conventions import CONVENTIONS, to_others, to_uniform
from sweeper.smoothing.loss import smoothing_loss
from sweeper.smoothing.module import SmoothingLoss
from sweeper.smoothing.schedules import SCHEDULES, Schedule, register_schedule
from sweeper.smoothing.targets import smooth_targets

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
