"""What a notebook imports: launch a study, or open one, and read what it found."""

from sweeper.api.accounts import create_token, revoke_token, tokens
from sweeper.api.control import delete, pause, prepare, resume, run_worker, stop, writer_of
from sweeper.api.launching import (
    LaunchPlan,
    OnProgress,
    confirm,
    launch,
    plan_launch,
    submit,
    write_results,
)
from sweeper.api.replaying import replay
from sweeper.api.study import Study, TrialPage, open_study, studies
from sweeper.api.trial import Trial
from sweeper.api.verifying import verify
from sweeper.executors import make_executor
from sweeper.worker.worker import Terms

__all__ = [
    "LaunchPlan",
    "OnProgress",
    "Study",
    "Terms",
    "Trial",
    "TrialPage",
    "confirm",
    "create_token",
    "delete",
    "launch",
    "make_executor",
    "open_study",
    "pause",
    "plan_launch",
    "prepare",
    "replay",
    "resume",
    "revoke_token",
    "run_worker",
    "stop",
    "studies",
    "submit",
    "tokens",
    "verify",
    "write_results",
    "writer_of",
]
