"""What a notebook imports: launch a study, or open one, and read what it found."""

from sweeper.api.control import delete, pause, prepare, resume, run_worker, stop
from sweeper.api.launching import (
    LaunchPlan,
    OnProgress,
    confirm,
    launch,
    plan_launch,
    write_results,
)
from sweeper.api.replaying import replay
from sweeper.api.study import Study, open_study, studies
from sweeper.api.verifying import verify
from sweeper.execution.worker import Terms

__all__ = [
    "LaunchPlan",
    "OnProgress",
    "Study",
    "Terms",
    "confirm",
    "delete",
    "launch",
    "open_study",
    "pause",
    "plan_launch",
    "prepare",
    "replay",
    "resume",
    "run_worker",
    "stop",
    "studies",
    "verify",
    "write_results",
]
