"""The commands of `sweeper`, in the order of the help text.

Most modules are imported inside the commands: importing torch and Optuna takes seconds, and help,
the list of studies and a mistyped option should not wait for that.
"""

from typing import Annotated

import typer

from sweeper.cli import checking, importing, managing, reproducing, running, serving, showing
from sweeper.cli.exit_codes import overview

app = typer.Typer(
    help="Tune label smoothing: does it help this model, with which ε, and should ε anneal?",
    epilog=overview(),
    pretty_exceptions_enable=False,
)


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Accept the options that come before the command; `main` handles them."""


for command in (
    running.launch,
    checking.check,
    running.confirm,
    running.retry,
    reproducing.verify,
    running.worker,
    managing.pause,
    managing.resume,
    managing.stop,
    managing.init,
    showing.status,
    showing.trials,
    showing.report,
    showing.export,
    showing.logs,
    reproducing.replay,
    managing.delete,
    managing.backup,
    serving.serve,
    showing.schema,
    showing.studies,
):
    app.command()(command)
app.add_typer(importing.importing, name="import")
app.add_typer(serving.token, name="token")
