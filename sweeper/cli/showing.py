"""The commands that show studies and write their results to files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweeper.cli.exit_codes import ExitCode
from sweeper.cli.options import (
    DEFAULT_STORAGE,
    Csv,
    Form,
    Json,
    Name,
    Output,
    Results,
    Storage,
    console,
    echo,
    path_option,
    print_json,
    takes_unicode,
)
from sweeper.formatting import failure_counts
from sweeper.study.examples import example_studies

if TYPE_CHECKING:
    from sweeper import api


def status(
    name: Annotated[
        str | None, typer.Argument(help="A study in the database; by default all studies.")
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Keep showing the progress until the study ends: in place in a terminal, "
            "otherwise one line for each change.",
        ),
    ] = False,
) -> None:
    """Show study progress."""
    from sweeper import api

    if watch:
        _watch(name, storage, as_json)
        return
    studies = [api.open_study(name, storage)] if name else api.studies(storage)
    if as_json:
        states = [_status(study) for study in studies]
        print_json(states[0] if name else states)
    else:
        _print_status(studies, details=name is not None)


def _watch(name: str | None, storage: str, as_json: bool) -> None:
    from sweeper import api
    from sweeper.cli.watching import changed_lines, table_in_place, watch

    out = console()
    if as_json or not out.is_terminal:
        lines = watch(name, storage, changed_lines(as_json=as_json))
    else:
        with table_in_place(out) as show:
            lines = watch(name, storage, show)
        studies = [api.open_study(line.name, storage) for line in lines]
        _print_status(studies, details=name is not None)
    if any(line.failed for line in lines):
        raise typer.Exit(ExitCode.NEGATIVE)


def _status(study: "api.Study") -> dict[str, Any]:
    from sweeper.cli.outcome import status
    from sweeper.cli.watching import StudyLine
    from sweeper.errors import StudyDamaged

    try:
        return status(study.snapshot(), study.workers())
    except StudyDamaged as error:
        return StudyLine(study.name, "damaged", "nll", None, str(error)).to_dict()


def _print_status(studies: "list[api.Study]", *, details: bool) -> None:
    """Print a table of the studies; with `details`, also the results of each."""
    from sweeper.cli import outcome
    from sweeper.cli.tables import StudyRow, active_workers, listing
    from sweeper.cli.watching import StudyLine
    from sweeper.study.results import failures

    out = console()
    if not details:
        lines = [StudyLine.of(study) for study in studies]
        out.print(listing(line.row for line in lines))
        for problem in filter(None, (line.problem for line in lines)):
            out.print(problem, soft_wrap=True)
        return
    for study in studies:
        snapshot = study.snapshot()
        progress, recommended = snapshot.progress, snapshot.recommended
        out.print(listing([StudyRow(snapshot.name, snapshot.state, progress, recommended)]))
        echo(outcome.usage(snapshot))
        outcome.print_summary(snapshot)
        if failed := failures(snapshot.frame):
            out.print(f"failed: {failure_counts(failed)}")
        outcome.print_verdict(snapshot)
        active = study.workers()
        if active:
            out.print(active_workers(active))


def trials(
    name: Name,
    storage: Storage = DEFAULT_STORAGE,
    as_csv: Csv = False,
    as_json: Json = False,
) -> None:
    """List all trials of a study: configuration, state and validation scores.

    The table has the columns that fit the terminal; CSV and JSON have all of them.
    """
    if as_csv and as_json:
        raise typer.BadParameter("cannot be combined with --json.", param_hint="--csv")
    from sweeper import api
    from sweeper.cli.trial_table import earlier_trials, trial_table
    from sweeper.report.trial_table import trials_csv
    from sweeper.study.plain import plain_trials

    study = api.open_study(name, storage)
    frame, workers = study.frame(), study.trial_workers()
    frame["worker"] = [workers.get(number, "") for number in frame["number"]]
    if as_json:
        rows = plain_trials(frame)
        print_json([row | {"worker": workers.get(row["number"], "")} for row in rows])
    elif as_csv:
        echo(trials_csv(frame), nl=False)
    elif frame.empty:
        echo(f"study {name} has no trials yet")
    else:
        out = console()
        table, omitted = trial_table(frame, out.width)
        out.print(table)
        if omitted:
            echo(f"not shown: {', '.join(omitted)} (--csv and --json have all columns)")
        if len(earlier := study.earlier()):
            echo("\nEarlier trials, which inform the sampler and do not count in the budget:")
            out.print(earlier_trials(earlier))


def report(
    name: Name,
    output: Output = None,
    page: Annotated[
        str, typer.Option(help="Name of a built-in page, or a TOML file that defines a page.")
    ] = "overview",
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Write a study's report as one HTML file that opens offline."""
    from sweeper import api
    from sweeper.report import find_page

    page_to_write = find_page(page)
    study = api.open_study(name, storage)
    path = output or study.results(Path("results")) / "report.html"
    echo(study.report(path, page_to_write))


def export(
    name: Name,
    output: Output = None,
    form: Form = "json",
    model: Annotated[
        Path | None,
        path_option("--model", help="Write the best trial's weights to this file instead."),
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    results: Results = Path("results"),
) -> None:
    """Print or write (-o) the best configuration, or write the best trial's weights (--model)."""
    from sweeper import api
    from sweeper.export import render

    study = api.open_study(name, storage)
    if model is not None:
        echo(study.export_model(model, results))
    elif output is None:
        text = render(study.document(), form, ascii_only=not takes_unicode())
        echo(text, nl=False)
    else:
        echo(study.export(output, form))


def logs(
    name: Name,
    trial: Annotated[int, typer.Argument(help="The trial's number.")],
    storage: Storage = DEFAULT_STORAGE,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep printing new output until it ends.")
    ] = False,
) -> None:
    """Print the epochs, the output and the failure of one trial."""
    from sweeper import api

    study = api.open_study(name, storage)
    if not follow:
        echo(study.log(trial))
        return
    for text in study.follow_log(trial):
        echo(text, nl=False)


def schema() -> None:
    """Print the JSON Schema of study files, for use in editors."""
    from sweeper.study.spec import json_schema

    print_json(json_schema())


def studies(as_json: Json = False) -> None:
    """List the example studies of the package."""
    descriptions = {name: _first_comment(path) for name, path in example_studies().items()}
    if as_json:
        print_json(descriptions)
        return
    longest = max(map(len, descriptions), default=0)
    for name, description in descriptions.items():
        echo(f"{name:<{longest}} {description}")


def _first_comment(path: Path) -> str:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    return first.removeprefix("#").strip()
