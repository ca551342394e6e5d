"""The commands that run training: launch, confirm, retry and worker."""

import re
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from sweeper import limits
from sweeper.cli.exit_codes import ExitCode
from sweeper.cli.options import (
    DEFAULT_STORAGE,
    ExecutorName,
    Folder,
    Json,
    Name,
    Results,
    Settings,
    Storage,
    StudyArgument,
    TemplateFile,
    Timeout,
    Workers,
    as_settings,
    console,
    echo,
    print_json,
    seconds,
)
from sweeper.cli.signals import Interrupt, interruptible, this_command, worker_command
from sweeper.study.examples import find_study_file

if TYPE_CHECKING:
    from sweeper import api


def launch(
    study: StudyArgument,
    workers: Workers = None,
    executor: ExecutorName = "local",
    template: TemplateFile = None,
    settings: Settings = None,
    trials: Annotated[
        int | None, typer.Option(help="Number of trials; overrides budget.trials.")
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    timeout: Timeout = None,
    results: Results = Path("results"),
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check the study and print what would run; run nothing."),
    ] = False,
    detach: Annotated[
        bool,
        typer.Option(
            "--detach", help="Return at once; Slurm, Kubernetes or other workers run the study."
        ),
    ] = False,
    pack: Annotated[
        str | None, typer.Option(help="Trials per vectorized step: auto, off or a number.")
    ] = None,
    confirm: Annotated[
        bool | None,
        typer.Option(
            "--confirm/--no-confirm",
            show_default=False,
            help="Confirm the pick on fresh seeds after the search; by default as in the file.",
        ),
    ] = None,
    accept_code: Annotated[
        bool,
        typer.Option(
            "--accept-code",
            help="Continue a study although its code has changed; the report notes it.",
        ),
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check/--no-check",
            envvar="SWEEPER_CHECK",
            help="Check training code with three short runs before the first launch.",
        ),
    ] = True,
    as_json: Json = False,
) -> None:
    """Run or resume a study, and confirm its result on fresh seeds."""
    path = find_study_file(study)
    execution = Execution(workers, executor, template, settings, storage, timeout, results)
    with interruptible() as interrupt:
        with interrupt.before_start(stderr=as_json):
            # Printed first: the imports and the check of the study take seconds.
            echo(f"checking {study}", err=as_json)
            from sweeper import api
            from sweeper.cli import outcome

            options = api.LaunchOptions(
                **execution.fields(),
                trials=trials,
                pack=_pack_size(pack),
                confirm=confirm,
                detach=detach,
                accept_code=accept_code,
                check=check,
            )
            plan = api.plan_launch(path, options, upgrade=not dry_run)
        if dry_run:
            outcome.print_plan(plan, as_json)
            return
        if plan.extension is not None and not plan.planned:
            echo(f"{plan.extension}", err=as_json)
        if plan.finished and not as_json:
            echo(outcome.finished_before(plan))  # first, because rewriting the report takes seconds
        run = Run(plan.name, storage, interrupt, as_json, plan.spec.objective.metric)
        study_now = run(partial(api.run_plan, plan))
        if as_json:
            active = api.open_study(plan.name, storage).workers() if detach else []
            print_json(outcome.status(study_now, active))
        elif detach and not plan.finished:
            echo(_detached(plan))
        else:
            outcome.print_results(study_now, results, this_command(), before=plan)
    if not detach:
        has_limit = (timeout or plan.spec.budget.timeout) is not None
        run.exit_by_state(study_now, has_limit=has_limit)


def confirm(
    name: Name,
    workers: Workers = None,
    executor: ExecutorName = "local",
    template: TemplateFile = None,
    settings: Settings = None,
    storage: Storage = DEFAULT_STORAGE,
    timeout: Timeout = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Retrain the pick, ε = 0 and other candidates on fresh seeds, and print the verdict."""
    execution = Execution(workers, executor, template, settings, storage, timeout, results)
    _run_again("run_confirmation", name, execution, as_json, again=this_command())


def retry(
    name: Name,
    workers: Workers = None,
    executor: ExecutorName = "local",
    template: TemplateFile = None,
    settings: Settings = None,
    storage: Storage = DEFAULT_STORAGE,
    timeout: Timeout = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Run failed and lost trials again, with the same numbers, configurations and seeds."""
    execution = Execution(workers, executor, template, settings, storage, timeout, results)
    # A second retry would find no failed trial, because the first one returns all to the queue.
    _run_again("run_retry", name, execution, as_json, again=worker_command(name, storage))


def worker(
    name: Annotated[
        str | None, typer.Argument(help="A study in the database; by default all running studies.")
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    results: Results = Path("results"),
    folder: Folder = None,
    idle: Annotated[float | None, seconds("Exit after this many seconds without work.")] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, max=limits.TRIALS, help="Exit after this many trials.")
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            min=1,
            max=limits.WORKERS,
            help="Total number of workers; each leaves the others their share of the trials.",
        ),
    ] = 1,
    slots: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=limits.SLOTS,
            show_default=False,
            help="Concurrent training runs; 0 trains in this process; by default one per GPU or "
            "core.",
        ),
    ] = None,
    grace: Annotated[float, seconds("Seconds between the first SIGTERM and exit.")] = 20.0,
    timeout: Annotated[float | None, seconds("Exit after this many seconds.")] = None,
    parent: Annotated[int | None, typer.Option(envvar="SWEEPER_PARENT", hidden=True)] = None,
    prepare: Annotated[bool, typer.Option(envvar="SWEEPER_PREPARE", hidden=True)] = False,
    pickled: Annotated[str, typer.Option(envvar="SWEEPER_PICKLED", hidden=True)] = "",
) -> None:
    """Run trials of one study until it is finished, or of all running studies until stopped.

    The first Ctrl-C or SIGTERM releases running trials with their checkpoints.
    The second exits at once. The exit code is 0 unless a signal ended the worker.
    """
    with ExitStack() as stack:
        if slots != 0:
            # Started first, so that it imports torch while this process imports Optuna.
            from sweeper.trainers.client import shared_zygote

            stack.enter_context(shared_zygote(start=True, prepare=prepare))
        from sweeper import api

        options = api.WorkerOptions(name, results, folder, idle, trials, workers, slots, pickled)
        reason, status = api.run_worker(
            options, storage, parent=parent, timeout=timeout, grace=grace
        )
    echo(f"{name or 'worker'}: {reason}")
    raise typer.Exit(status)


class Execution(NamedTuple):
    """The options of a command that say how its training runs are executed."""

    workers: int | None
    executor: str
    template: Path | None
    settings: list[str] | None
    storage: str
    timeout: float | None
    results: Path

    def fields(self) -> dict[str, Any]:
        """Return the fields of `api.RunOptions`."""
        from sweeper import api

        executor = api.make_executor(self.executor, self.template, as_settings(self.settings))
        return {
            "workers": self.workers,
            "executor": executor,
            "storage": self.storage,
            "timeout": self.timeout,
            "results": self.results,
        }


class Run:
    """One run of training, with its progress display and the handling of an interrupt."""

    def __init__(
        self, name: str, storage: str, interrupt: Interrupt, as_json: bool, metric: str = "nll"
    ) -> None:
        self._name, self._storage, self._interrupt = name, storage, interrupt
        self._as_json, self._metric = as_json, metric

    def __call__(
        self, work: "Callable[[api.OnProgress], api.StudySnapshot]"
    ) -> "api.StudySnapshot":
        """Run the work; return the study at its end, also if the work was interrupted."""
        from sweeper import api
        from sweeper.cli.progress import progress_display
        from sweeper.errors import UnknownName
        from sweeper.store.database import SchemaMissing

        out = console(stderr=self._as_json)
        with progress_display(out, self._name, self._metric) as on_progress:
            try:
                return work(on_progress)
            except KeyboardInterrupt:
                pass
        try:
            return api.open_study(self._name, self._storage).snapshot()
        except (KeyboardInterrupt, UnknownName, SchemaMissing):
            self._interrupt.end(stderr=self._as_json)

    def exit_by_state(self, study: "api.StudySnapshot", *, has_limit: bool) -> None:
        """End the command with the exit code of an interrupt or of an unsuccessful study."""
        if self._interrupt.received:
            raise typer.Exit(self._interrupt.status)
        if study.state == "failed" or not (study.finished or study.state == "stopped" or has_limit):
            raise typer.Exit(ExitCode.NEGATIVE)


def _run_again(
    runner: Literal["run_confirmation", "run_retry"],
    name: str,
    execution: Execution,
    as_json: bool,
    again: str,
) -> None:
    """Run the remaining work of a study and print its results."""
    with interruptible() as interrupt:
        with interrupt.before_start(stderr=as_json):
            echo(f"checking {name}", err=as_json)
            from sweeper import api
            from sweeper.cli import outcome

            work = partial(getattr(api, runner), name, api.RunOptions(**execution.fields()))
        run = Run(name, execution.storage, interrupt, as_json)
        study = run(work)
        if as_json:
            print_json(outcome.status(study, []))
        else:
            outcome.print_results(study, execution.results, again)
    run.exit_by_state(study, has_limit=execution.timeout is not None)


def _pack_size(text: str | None) -> str | int | None:
    """Return an integer if the text is one; the launch checks the value."""
    is_integer = text is not None and re.fullmatch(rf"-?\d{{1,{limits.INTEGER_DIGITS}}}", text)
    return int(text) if text is not None and is_integer else text


def _detached(plan: "api.LaunchPlan") -> str:
    executor = plan.pool.executor.traits
    return f"study {plan.name} is launched: {plan.ended} of {plan.trials} trials have ended. " + (
        f"Workers are submitted to {executor.name}. Show progress: sweeper status {plan.name}"
        if executor.outlives_parent
        else f"Start workers to run it: sweeper worker {plan.name}"
    )
