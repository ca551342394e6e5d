"""The commands.

The engine is imported inside them: torch and Optuna take seconds, and help, the list of
studies and a mistyped option should not wait for them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweeper.cli import serving
from sweeper.cli.options import (
    DEFAULT_STORAGE,
    ExecutorName,
    Form,
    Json,
    Name,
    Output,
    Results,
    Settings,
    Storage,
    StudyArgument,
    TemplateFile,
    Workers,
    as_settings,
    console,
    print_json,
)
from sweeper.study.ready import find_study_file, ready_studies

if TYPE_CHECKING:
    from sweeper import api

app = typer.Typer(
    help="Does label smoothing help this model, with which ε, and should it anneal?",
    pretty_exceptions_enable=False,
)


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Take the options that stand before every command."""


@app.command()
def launch(
    study: StudyArgument,
    workers: Workers = None,
    executor: ExecutorName = "local",
    template: TemplateFile = None,
    settings: Settings = None,
    trials: Annotated[int | None, typer.Option(help="In place of the study's budget.")] = None,
    storage: Storage = DEFAULT_STORAGE,
    timeout: Annotated[float | None, typer.Option(help="Seconds this launch may take.")] = None,
    results: Results = Path("results"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check, say what would be submitted, run nothing.")
    ] = False,
    detach: Annotated[
        bool,
        typer.Option(
            "--detach", help="Leave it to Slurm, Kubernetes or workers started elsewhere."
        ),
    ] = False,
    pack: Annotated[
        str | None, typer.Option(help="Trials trained in one step: auto, off or a number.")
    ] = None,
    confirm: Annotated[
        bool | None,
        typer.Option(
            "--confirm/--no-confirm",
            show_default=False,
            help="Give a verdict from fresh seeds, or leave it [as the file says]",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a study to its end, or go on with it, and confirm what it found."""
    path = find_study_file(study)
    from sweeper import api
    from sweeper.cli.progress import shown

    size = int(pack) if pack is not None and pack.lstrip("-").isdecimal() else pack
    chosen = api.make_executor(executor, template, as_settings(settings))
    plan = api.plan_launch(
        path,
        trials=trials,
        pack=size,
        confirm=confirm,
        storage=storage,
        workers=workers,
        executor=chosen,
        results=results,
    )
    if dry_run:
        _print_plan(plan, as_json)
        return
    with shown(console(stderr=as_json), plan.name) as on_progress:
        done = api.launch(
            path,
            workers=workers,
            executor=chosen,
            trials=trials,
            pack=size,
            confirm=confirm,
            storage=storage,
            timeout=timeout,
            results=results,
            detach=detach,
            on_progress=on_progress,
        )
    if as_json:
        print_json(_status(done))
    elif detach:
        typer.echo(
            f"study {done.name} is launched: {plan.trials} trials, {plan.ended} ended. "
            + (
                f"{executor} has its workers; sweeper status {done.name} says how far they are"
                if chosen.traits.survives
                else f"Workers take it up: sweeper worker {done.name}"
            )
        )
    else:
        _print_found(done, plan, results)
    if detach or done.state == "stopped":
        return
    if not done.finished and timeout is None and done.spec.budget.timeout is None:
        raise typer.Exit(130)
    if done.finished and done.best is None:
        raise typer.Exit(1)


@app.command()
def confirm(
    name: Name,
    workers: Workers = None,
    executor: ExecutorName = "local",
    template: TemplateFile = None,
    settings: Settings = None,
    storage: Storage = DEFAULT_STORAGE,
    timeout: Annotated[float | None, typer.Option(help="Seconds this may take.")] = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Train the pick, ε = 0 and others again on fresh seeds, and give the verdict."""
    from sweeper import api
    from sweeper.cli.progress import shown

    with shown(console(stderr=as_json), name) as on_progress:
        done = api.confirm(
            name,
            workers=workers,
            executor=api.make_executor(executor, template, as_settings(settings)),
            storage=storage,
            timeout=timeout,
            results=results,
            on_progress=on_progress,
        )
    if as_json:
        print_json(_status(done))
    else:
        _print_verdict(done)
        _print_files(done, results)
    if not done.finished and timeout is None:
        raise typer.Exit(130)


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="A best.json that holds a verdict.")],
    replicates: Annotated[int, typer.Option(min=2, help="New seeds.")] = 5,
    storage: Storage = DEFAULT_STORAGE,
    folder: Annotated[
        Path | None, typer.Option(help="Where task files lie on this machine.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train an export's pick and ε = 0 again on new seeds: does its interval hold? Writes nothing.

    The exit status is 0 where the new difference lies in the stated interval and 1 where not.
    """
    from sweeper import api

    out = console(stderr=True)

    def say(done: int, of: int) -> None:
        out.print(f"{done}/{of} trainings", soft_wrap=True)

    found = api.verify(file, storage, replicates=replicates, folder=folder, on_training=say)
    if as_json:
        print_json(found.to_dict())
    else:
        typer.echo(found.sentence)
    if not found.holds:
        raise typer.Exit(1)


@app.command()
def worker(
    name: Annotated[
        str | None, typer.Argument(help="A study; every running one without it.")
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    results: Results = Path("results"),
    folder: Annotated[
        Path | None, typer.Option(help="Where task files lie on this machine.")
    ] = None,
    idle: Annotated[
        float | None, typer.Option(min=0, help="Leave after so many seconds without work.")
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Leave after so many trials.")] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="How many there are: each leaves the others their share.")
    ] = 1,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds from the first SIGTERM to the end.")
    ] = 20.0,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Leave after so many seconds, work or not.")
    ] = None,
    parent: Annotated[int | None, typer.Option(envvar="SWEEPER_PARENT", hidden=True)] = None,
) -> None:
    """Work on a study until it is finished, or on all that are running until told to leave.

    The first Ctrl-C or SIGTERM hands the running trial back with its checkpoint, the second
    stops at once. The exit status is 0 where there was nothing left to do.
    """
    from sweeper import api

    terms = api.Terms(name, results, folder, idle, trials, workers)
    ended, status = api.run_worker(terms, storage, parent=parent, timeout=timeout, grace=grace)
    typer.echo(f"{name or 'worker'}: {ended}")
    raise typer.Exit(status)


@app.command()
def pause(name: Name, storage: Storage = DEFAULT_STORAGE) -> None:
    """Let a study rest: running trials go back to the queue, workers wait."""
    from sweeper import api

    api.pause(name, storage)
    typer.echo(f"{name} is paused; sweeper resume {name} lets it go on")


@app.command()
def resume(name: Name, storage: Storage = DEFAULT_STORAGE) -> None:
    """Let a study go on that was paused or stopped."""
    from sweeper import api

    api.resume(name, storage)
    typer.echo(f"{name} goes on where workers are at it: sweeper worker {name}")


@app.command()
def stop(name: Name, storage: Storage = DEFAULT_STORAGE) -> None:
    """End a study early: running trials go back to the queue, workers leave."""
    from sweeper import api

    api.stop(name, storage)
    typer.echo(f"{name} is stopped; sweeper resume {name}, or a launch, lets it go on")


@app.command()
def init(storage: Storage = DEFAULT_STORAGE) -> None:
    """Make the tables of a database; no-op where they are."""
    from sweeper import api

    api.prepare(storage)
    typer.echo("the database is ready")


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(help="A study; all of them without it.")] = None,
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """Say how far studies are."""
    from sweeper import api
    from sweeper.cli.tables import listing, summary, workers_at
    from sweeper.study.results import failures

    found = [api.open_study(name, storage)] if name else api.studies(storage)
    if as_json:
        states = [_status(study) for study in found]
        print_json(states[0] if name else states)
        return
    out = console()
    out.print(listing(found))
    if name:
        trials = found[0].frame()
        out.print(summary(trials))
        if failed := failures(trials):
            out.print("failed: " + ", ".join(f"{n} {cause}" for cause, n in failed.items()))
        _print_verdict(found[0])
        present = found[0].workers()
        if present:
            out.print(workers_at(present))


@app.command()
def report(
    name: Name,
    output: Output = None,
    page: Annotated[
        str, typer.Option(help="A ready page, or a file that says what it shows.")
    ] = "trade-offs",
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Write a study's report: one HTML file that opens offline."""
    from sweeper import api
    from sweeper.report import find_page

    shown = find_page(page)
    path = output or Path("results") / name / "report.html"
    typer.echo(api.open_study(name, storage).report(path, shown))


@app.command()
def export(
    name: Name,
    output: Output = None,
    form: Form = "json",
    model: Annotated[
        Path | None, typer.Option(help="Write the best trial's weights there instead.")
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    results: Results = Path("results"),
) -> None:
    """Export the best configuration (to the terminal without -o), or its weights."""
    from sweeper import api
    from sweeper.export import render

    study = api.open_study(name, storage)
    if model is not None:
        typer.echo(study.export_model(model, results))
    elif output is None:
        typer.echo(render(study.document(), form), nl=False)
    else:
        typer.echo(study.export(output, form))


@app.command()
def logs(
    name: Name,
    trial: Annotated[int, typer.Argument(help="The trial's number.")],
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Print what one trial did: its epochs, its output, and why it failed."""
    from sweeper import api

    typer.echo(api.open_study(name, storage).log(trial))


@app.command()
def replay(
    name: Name,
    trial: Annotated[int, typer.Argument(help="The trial's number.")],
    storage: Storage = DEFAULT_STORAGE,
    folder: Annotated[
        Path | None, typer.Option(help="Where task files lie on this machine.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train one trial again and compare it to the last bit with what is stored; writes nothing.

    The exit status is 0 where all is the same and 1 where it is not.
    """
    from sweeper import api
    from sweeper.cli.replayed import lines, on_epoch

    say = on_epoch(console(stderr=True))
    done = api.replay(name, trial, storage, folder=folder, on_epoch=say)
    if as_json:
        print_json(done.to_dict())
    else:
        for line in lines(done):
            typer.echo(line)
    if not done.same:
        raise typer.Exit(1)


@app.command()
def delete(
    name: Name,
    storage: Storage = DEFAULT_STORAGE,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a study with all that it found."""
    from sweeper import api

    counts = api.open_study(name, storage).progress()
    if not yes:
        typer.confirm(f"Delete study {name!r} with {counts.ended} trials?", abort=True)
    api.delete(name, storage)
    typer.echo(f"deleted {name}")


app.command()(serving.serve)
app.add_typer(serving.token, name="token")


@app.command()
def schema() -> None:
    """Print the JSON Schema of study files, for editors."""
    from sweeper.study.spec import json_schema

    print_json(json_schema())


@app.command()
def studies(as_json: Json = False) -> None:
    """List the ready studies that come with the package."""
    found = {name: _first_comment(path) for name, path in ready_studies().items()}
    if as_json:
        print_json(found)
        return
    longest = max(map(len, found), default=0)
    for name, words in found.items():
        typer.echo(f"{name:<{longest}} {words}")


def _first_comment(path: Path) -> str:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    return first.removeprefix("#").strip()


def _status(study: "api.Study") -> dict[str, Any]:
    from sweeper.study.results import failures

    best, trials, verdict = study.best, study.frame(), study.verdict()
    return {
        "study": study.name,
        "state": study.state,
        "metric": study.spec.objective.metric,
        **study.progress().to_dict(),
        "workers": [worker.to_dict() for worker in study.workers()],
        "failures": failures(trials),
        "trial_numbers": trials["number"].tolist(),
        "best_trial": None if best is None else int(best["number"]),
        "verdict": None if verdict is None else verdict.to_dict(),
        "unconfirmed": study.unconfirmed,
    }


def _print_plan(plan: "api.LaunchPlan", as_json: bool) -> None:
    asked = sum(point is None for point in plan.points)
    if as_json:
        facts = {"study": plan.name, "spec_hash": plan.spec_hash, "ended": plan.ended}
        rest = {"points": list(plan.points), "submission": plan.submission}
        print_json({**facts, "trials": plan.trials, **rest})
        return
    typer.echo(
        f"study {plan.name} ({plan.spec_hash[:12]}): {plan.trials} trials, {plan.ended} ended; "
        f"{plan.trials - asked} points are laid out, {asked} will be asked of "
        f"{plan.spec.sampler.name}. Nothing was written."
    )
    typer.echo(plan.submission, nl=False)


def _print_found(study: "api.Study", plan: "api.LaunchPlan", results: Path) -> None:
    from sweeper.cli.tables import summary

    for line in _outcome(study, plan):
        typer.echo(line)
    console().print(summary(study.frame()))
    _print_verdict(study)
    _print_files(study, results)


def _print_verdict(study: "api.Study") -> None:
    """Print what the confirmation found, or why there is none."""
    from sweeper.cli.tables import confirmed

    evidence, verdict = study.evidence(), study.verdict()
    if evidence is not None and verdict is not None:
        console().print(confirmed(evidence))
        typer.echo(f"verdict: {verdict.word}")
        for sentence in verdict.sentences:
            console().print(f"  {sentence}", soft_wrap=False)
    elif evidence is not None and evidence.complete:
        typer.echo(f"no verdict: {evidence.no_verdict}")
    elif study.unconfirmed:
        typer.echo(f"not confirmed: {study.unconfirmed}")
    for sentence in study.health():
        console().print(f"note: {sentence}")


def _print_files(study: "api.Study", results: Path) -> None:
    for file in ("report.html", "best.json"):
        path = results / study.name / file
        if path.is_file():
            typer.echo(path)


def _outcome(study: "api.Study", plan: "api.LaunchPlan") -> Iterator[str]:
    """Yield what there is to say beside the table: why it ended, and what failed."""
    counts = study.progress()
    if plan.ended == counts.trials:
        yield (
            f"study {study.name} is finished: all {counts.trials} trials were done before. "
            "Raise budget.trials (or --trials) to go on."
        )
    elif not study.finished:
        yield (
            f"study {study.name} stopped at {counts.ended} of {counts.trials} trials; "
            "launch it again to go on."
        )
    elif counts.ended < counts.trials:
        yield (
            f"study {study.name} is finished at {counts.ended} of {counts.trials} trials: nothing "
            f"better in the last {study.spec.budget.patience} (budget.patience)."
        )
    trials = study.frame()
    failed = trials[trials["state"] == "failed"]
    for _, row in failed.head(1).iterrows():
        yield (
            f"{len(failed)} failed; trial {row['number']}: {row['failure']} "
            f"(sweeper logs {study.name} {row['number']})"
        )
