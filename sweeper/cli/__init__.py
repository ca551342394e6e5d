"""The command line: one verb, one call; the only reader of the environment."""

import gc
import logging
import sys
import traceback
from typing import Any


def main() -> None:
    """Run the command line; what a person got wrong is one line a problem and exit status 2."""
    # On the terminal as it is now: a trial's own output goes elsewhere while it trains.
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("sweeper").setLevel(logging.INFO)
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        status = _app(arguments)
    except KeyboardInterrupt:
        status = 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        status = _complain(error)
    # A last collection over all that is imported takes a second.
    gc.freeze()
    sys.exit(status)


def _app(arguments: list[str]) -> int:
    # Late, so that a mistake in the imports of a command is one line as well.
    from sweeper.cli.app import app

    return int(app(arguments or ["--help"], prog_name="sweeper", standalone_mode=False) or 0)


def _complain(error: Exception) -> int:
    """Print an error, a line for each of its own; return the exit status."""
    import typer

    from sweeper.errors import SweeperError

    if isinstance(error, SweeperError):
        text, status = str(error), 2
    elif hasattr(error, "format_message"):  # a usage error of click, which typer carries inside
        text, status = _usage(error), 2
    elif isinstance(error, typer.Abort):
        text, status = "not confirmed; nothing was done", 1
    else:
        text = f"unexpected {type(error).__name__}: {error} (--debug shows where)"
        status = 1
    for line in text.splitlines():
        print(f"error: {line}", file=sys.stderr)
    return status


def _usage(error: Any) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "sweeper"
    said = " ".join(error.format_message().split()).replace("Value error, ", "").rstrip(".")
    return f"{said}; {command} --help says more"
