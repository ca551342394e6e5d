"""The commands."""

import json
import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from sweeper import api
from sweeper.cli.progress import shown
from sweeper.cli.tables import listing, state_of, summary
from sweeper.errors import SweeperError, nearest
from sweeper.export import FORMATS, render
from sweeper.store.urls import DEFAULT_STORAGE
from sweeper.study.load import ready_studies
from sweeper.study.spec import StudySpec

app = typer.Typer(
    help="Does label smoothing help this model, with which ε, and should it anneal?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
console = Console(highlight=False)

Storage = Annotated[
    str,
    typer.Option(
        envvar="SWEEPER_STORAGE",
        show_default=False,
        help="Database URL or SQLite file [sqlite:///sweeper.db]",
    ),
]
Name = Annotated[str, typer.Argument(help="A study in the database.")]
StudyArgument = Annotated[str, typer.Argument(help="A study file, or a ready study's name.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="Where to write.")]
Results = Annotated[Path, typer.Option(help="Folder for reports and exports.")]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Take the options that stand before every command."""


@app.command()
def launch(
    study: StudyArgument,
    workers: Annotated[int, typer.Option(help="Processes; 0: this one alone.")] = 2,
    trials: Annotated[int | None, typer.Option(help="In place of the study's budget.")] = None,
    storage: Storage = DEFAULT_STORAGE,
    timeout: Annotated[float | None, typer.Option(help="Seconds this launch may take.")] = None,
    results: Results = Path("results"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and say; run nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Run a study to its end, or go on with it."""
    plan = api.plan_launch(study, trials=trials, storage=storage)
    if dry_run:
        _print_plan(plan, as_json)
        return
    bar = Console(stderr=True) if as_json else console
    with shown(bar, plan.name) as on_progress:
        done = api.launch(
            study,
            workers=workers,
            trials=trials,
            storage=storage,
            timeout=timeout,
            results=results,
            on_progress=on_progress,
        )
    if as_json:
        _print_json(_status(done))
    else:
        _print_found(done, plan, results)
    if not done.finished and timeout is None and done.spec.budget.timeout is None:
        raise typer.Exit(130)


@app.command()
def worker(
    name: Name,
    storage: Storage = DEFAULT_STORAGE,
    parent: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Work on a study until it is finished; the first Ctrl-C hands the running trial back."""
    console.print(f"{name}: {api.run_worker(name, storage, parent=parent)}")


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(help="A study; all of them without it.")] = None,
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """Say how far studies are."""
    found = [api.open_study(name, storage)] if name else api.studies(storage)
    if as_json:
        states = [_status(study) for study in found]
        _print_json(states[0] if name else states)
        return
    console.print(listing(found))
    if name:
        console.print(summary(found[0].frame()))


@app.command()
def report(name: Name, output: Output = None, storage: Storage = DEFAULT_STORAGE) -> None:
    """Write a study's report: one HTML file that opens offline."""
    path = output or Path("results") / name / "report.html"
    console.print(str(api.open_study(name, storage).report(path)), soft_wrap=True)


@app.command()
def export(
    name: Name,
    output: Output = None,
    form: Annotated[str, typer.Option("--format", help=", ".join(FORMATS))] = "json",
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Export the best configuration; to the terminal without -o."""
    if form not in FORMATS:
        raise SweeperError(
            f"--format {form}{nearest(form, FORMATS)}; allowed: {', '.join(FORMATS)}"
        )
    study = api.open_study(name, storage)
    if output is None:
        typer.echo(render(study.document(), form), nl=False)
    else:
        console.print(str(study.export(output, form)), soft_wrap=True)


@app.command()
def logs(
    name: Name,
    trial: Annotated[int, typer.Argument(help="The trial's number.")],
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Print what one trial did: its epochs, its output, and why it failed."""
    typer.echo(api.open_study(name, storage).log(trial))


@app.command()
def delete(
    name: Name,
    storage: Storage = DEFAULT_STORAGE,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a study with all that it found."""
    counts = api.open_study(name, storage).progress()
    if not yes:
        typer.confirm(f"Delete study {name!r} with {counts.ended} trials?", abort=True)
    api.delete(name, storage)
    console.print(f"deleted {name}")


@app.command()
def dashboard(
    storage: Storage = DEFAULT_STORAGE,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    browser: Annotated[bool, typer.Option(help="Open it in a browser.")] = True,
) -> None:
    """Browse studies in optuna-dashboard, read-only, on loopback."""
    from sweeper.service import dashboard as served
    from sweeper.store.database import open_reader

    def ready(address: str) -> None:
        typer.echo(f"optuna-dashboard, read-only: {address} (Ctrl-C ends it)")
        if browser:
            webbrowser.open(address)

    served.serve(served.dashboard(open_reader(storage)), port, ready)


@app.command()
def schema() -> None:
    """Print the JSON Schema of study files, for editors."""
    typer.echo(json.dumps(StudySpec.model_json_schema(), indent=2, ensure_ascii=False))


@app.command()
def studies(as_json: Json = False) -> None:
    """List the ready studies that come with the package."""
    found = {name: _first_comment(path) for name, path in ready_studies().items()}
    if as_json:
        _print_json(found)
        return
    for name, words in found.items():
        console.print(f"{name:<14} {words}", soft_wrap=True)


def _first_comment(path: Path) -> str:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    return first.removeprefix("#").strip()


def _status(study: api.Study) -> dict[str, Any]:
    best = study.best
    return {
        "study": study.name,
        "state": state_of(study),
        "metric": study.spec.objective.metric,
        **study.progress().to_dict(),
        "trial_numbers": study.frame()["number"].tolist(),
        "best_trial": None if best is None else int(best["number"]),
    }


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _print_plan(plan: api.LaunchPlan, as_json: bool) -> None:
    asked = sum(point is None for point in plan.points)
    if as_json:
        facts = {"study": plan.name, "spec_hash": plan.spec_hash, "ended": plan.ended}
        _print_json({**facts, "trials": plan.trials, "points": list(plan.points)})
        return
    console.print(
        f"study {plan.name} ({plan.spec_hash[:12]}): {plan.trials} trials, {plan.ended} ended; "
        f"{plan.trials - asked} points are laid out, {asked} will be asked of "
        f"{plan.spec.sampler.name}. Nothing was written.",
        soft_wrap=True,
    )


def _print_found(study: api.Study, plan: api.LaunchPlan, results: Path) -> None:
    counts = study.progress()
    if plan.ended == counts.trials:
        console.print(
            f"study {study.name} is finished: all {counts.trials} trials were done before. "
            "Raise budget.trials (or --trials) to go on.",
            soft_wrap=True,
        )
    elif not study.finished:
        console.print(
            f"study {study.name} stopped at {counts.ended} of {counts.trials} trials; "
            "launch it again to go on.",
            soft_wrap=True,
        )
    elif counts.ended < counts.trials:
        console.print(
            f"study {study.name} is finished at {counts.ended} of {counts.trials} trials: nothing "
            f"better in the last {study.spec.budget.patience} (budget.patience).",
            soft_wrap=True,
        )
    console.print(summary(study.frame()))
    for file in ("report.html", "best.json"):
        path = results / study.name / file
        if path.is_file():
            console.print(str(path), soft_wrap=True)
