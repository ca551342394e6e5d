"""The command that checks training code: check."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from sweeper import limits
from sweeper.cli.exit_codes import ExitCode
from sweeper.cli.options import Json, StudyArgument, console, echo, print_json
from sweeper.study.examples import find_study_file

if TYPE_CHECKING:
    from sweeper import api


def check(
    study: StudyArgument,
    trials: Annotated[
        int | None,
        typer.Option(min=1, max=limits.TRIALS, help="Number of trials; overrides budget.trials."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train three short runs and look for common faults in the training code; store nothing.

    The exit code is 0 if there is no finding and 1 if there is one.
    """
    path = find_study_file(study)
    echo(f"checking {study}", err=True)
    from sweeper import api

    def on_run(epsilon: float) -> None:
        echo(f"short training run at ε = {epsilon:g}", err=True)

    result = api.check(path, on_run=on_run, trials=trials)
    if as_json:
        print_json({**result.to_dict(), "stops": result.stops})
    else:
        console().print(_table(result))
        echo(_summary(result))
    if result.findings:
        raise typer.Exit(ExitCode.NEGATIVE)


def _table(result: "api.Check") -> Table:
    table = Table()
    table.add_column("check", no_wrap=True)
    table.add_column("result")
    table.add_column("seconds", justify="right")
    for line in result.lines:
        name = line.outcome if line.outcome != "finding" else line.kind
        seconds = f"{line.seconds:.1f}" if line.seconds else ""
        table.add_row(line.question, f"{name}: {line.text}", seconds)
    return table


def _summary(result: "api.Check") -> str:
    return (
        f"{result.count}; {result.epochs} reports, {100 * result.share:.2g}% of the budget, "
        f"{result.seconds:.1f} s"
    )
