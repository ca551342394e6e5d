"""The Python API: launch a study, or open one and read its results."""

from typing import TYPE_CHECKING

from sweeper.lazy import lazy

if TYPE_CHECKING:
    from sweeper.api.accounts import create_token, revoke_token, tokens
    from sweeper.api.checking import check
    from sweeper.api.control import (
        backup,
        check_not_newer,
        delete,
        existing_writer,
        pause,
        prepare,
        reopen,
        request_confirmation,
        resume,
        run_worker,
        stop,
    )
    from sweeper.api.importing import import_wandb
    from sweeper.api.launching import (
        LaunchOptions,
        LaunchPlan,
        OnProgress,
        confirm,
        launch,
        plan_launch,
        retry,
        run_confirmation,
        run_plan,
        run_retry,
        submit,
    )
    from sweeper.api.replaying import replay
    from sweeper.api.study import Study, TrialListing, open_study, studies
    from sweeper.api.trial import Trial
    from sweeper.api.verifying import verify
    from sweeper.api.worker_pool import RunOptions
    from sweeper.checking.finding import Check
    from sweeper.executors import make_executor
    from sweeper.snapshot import StudySnapshot
    from sweeper.worker.served_studies import WorkerOptions

_HOMES = {
    "Check": "sweeper.checking.finding",
    "LaunchOptions": "sweeper.api.launching",
    "LaunchPlan": "sweeper.api.launching",
    "OnProgress": "sweeper.api.launching",
    "RunOptions": "sweeper.api.worker_pool",
    "Study": "sweeper.api.study",
    "StudySnapshot": "sweeper.snapshot",
    "WorkerOptions": "sweeper.worker.served_studies",
    "Trial": "sweeper.api.trial",
    "TrialListing": "sweeper.api.study",
    "backup": "sweeper.api.control",
    "confirm": "sweeper.api.launching",
    "create_token": "sweeper.api.accounts",
    "delete": "sweeper.api.control",
    "import_wandb": "sweeper.api.importing",
    "launch": "sweeper.api.launching",
    "make_executor": "sweeper.executors",
    "open_study": "sweeper.api.study",
    "pause": "sweeper.api.control",
    "plan_launch": "sweeper.api.launching",
    "prepare": "sweeper.api.control",
    "check": "sweeper.api.checking",
    "check_not_newer": "sweeper.api.control",
    "reopen": "sweeper.api.control",
    "request_confirmation": "sweeper.api.control",
    "replay": "sweeper.api.replaying",
    "resume": "sweeper.api.control",
    "retry": "sweeper.api.launching",
    "revoke_token": "sweeper.api.accounts",
    "run_confirmation": "sweeper.api.launching",
    "run_plan": "sweeper.api.launching",
    "run_retry": "sweeper.api.launching",
    "run_worker": "sweeper.api.control",
    "stop": "sweeper.api.control",
    "studies": "sweeper.api.study",
    "submit": "sweeper.api.launching",
    "tokens": "sweeper.api.accounts",
    "verify": "sweeper.api.verifying",
    "existing_writer": "sweeper.api.control",
}

__all__ = [
    "Check",
    "LaunchOptions",
    "LaunchPlan",
    "OnProgress",
    "RunOptions",
    "Study",
    "StudySnapshot",
    "Trial",
    "TrialListing",
    "WorkerOptions",
    "backup",
    "check",
    "check_not_newer",
    "confirm",
    "create_token",
    "delete",
    "existing_writer",
    "import_wandb",
    "launch",
    "make_executor",
    "open_study",
    "pause",
    "plan_launch",
    "prepare",
    "reopen",
    "replay",
    "request_confirmation",
    "resume",
    "retry",
    "revoke_token",
    "run_confirmation",
    "run_plan",
    "run_retry",
    "run_worker",
    "stop",
    "studies",
    "submit",
    "tokens",
    "verify",
]

__getattr__ = lazy(__name__, _HOMES)
