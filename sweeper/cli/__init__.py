"""The command line: one verb, one call; the only reader of the environment."""

import sys

from rich.console import Console

from sweeper.errors import SweeperError


def main() -> None:
    """Run the command line; what a person got wrong is one line and exit status 2."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        _app(arguments)
    except SweeperError as error:
        if debug:
            raise
        _complain(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        _complain(f"unexpected {type(error).__name__}: {error} (--debug shows where)")
        sys.exit(1)


def _app(arguments: list[str]) -> None:
    # Late, so that a mistake in the imports of a command is one line as well.
    from sweeper.cli.app import app

    app(arguments, prog_name="sweeper")


def _complain(text: str) -> None:
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    for line in text.splitlines():
        console.print(f"error: {line}")
