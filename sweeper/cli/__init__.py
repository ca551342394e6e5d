"""The command line. It is the only layer that reads settings from the environment."""

import gc
import logging
import os
import select
import sys
import traceback
from io import TextIOWrapper
from typing import Any, TextIO

from sweeper.cli.exit_codes import ExitCode
from sweeper.errors import DatabaseFailed, SweeperError
from sweeper.extras import require
from sweeper.version import __version__

# Set before NumPy and torch are imported. Outside training, more threads only cost CPU time.
_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


def main() -> None:
    """Run the command line and exit with one of `sweeper.cli.exit_codes`.

    A user error is printed as one line per problem.
    """
    unset = [name for name in _THREADS if name not in os.environ]
    os.environ.update(dict.fromkeys(unset, "1"))
    # Trainers undo these settings, so that training runs use the threads that the user has set.
    os.environ.setdefault("SWEEPER_THREADS_SET", ",".join(unset))
    # Replace characters that the terminal or file cannot encode.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    # Bind the current stderr: it is redirected while a trial trains in this process.
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("sweeper").setLevel(logging.INFO)
    status = _status_of(sys.argv[1:])
    # A final garbage collection over all imported modules would take a second.
    gc.freeze()
    sys.exit(status)


def _status_of(arguments: list[str]) -> int:
    """Run a command, print its error if it has one, and return the exit code."""
    debug = "--debug" in arguments
    streams = (sys.stdout, sys.stderr)
    try:
        try:
            return _app([argument for argument in arguments if argument != "--debug"])
        except SystemExit as end:
            # typer exits after shell completion, and instead of raising BrokenPipeError.
            if not isinstance(end.__context__, BrokenPipeError):
                return end.code if isinstance(end.code, int) else ExitCode.SUCCESS
            if any(_reader_has_ended(stream) for stream in streams):
                return ExitCode.OUTPUT_CLOSED
            raise end.__context__ from None
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:
        try:
            if debug:
                traceback.print_exc()
            return _complain(error)
        except BrokenPipeError:
            return ExitCode.OUTPUT_CLOSED


def _reader_has_ended(stream: TextIO) -> bool:
    if os.path.samestat(os.fstat(stream.fileno()), os.stat(os.devnull)):
        return True  # set by rich, which prints the help, when the reader has ended
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _app(arguments: list[str]) -> int:
    if arguments[:1] == ["--version"]:
        print(f"sweeper {__version__}")
        return ExitCode.SUCCESS
    serves = arguments[:1] == ["serve"] and "--help" not in arguments
    require("serve" if serves else "sweep", " ".join(["sweeper", *arguments[:1]]))
    # Imported late: the base package does not depend on typer, and a failing import is reported as
    # one line too.
    import typer

    from sweeper.cli.app import app

    try:
        status = app(arguments or ["--help"], prog_name="sweeper", standalone_mode=False)
    except typer.Abort:
        print("error: canceled; nothing was changed", file=sys.stderr)
        return ExitCode.NEGATIVE
    return int(status or 0)


def _complain(error: Exception) -> int:
    """Print an error, each of its lines with a prefix, and return the exit code."""
    if isinstance(error, SweeperError):
        text = str(error)
        code = ExitCode.DATABASE if isinstance(error, DatabaseFailed) else ExitCode.REFUSED
    elif hasattr(error, "format_message"):  # a usage error of click, which typer vendors
        text, code = _usage(error), ExitCode.REFUSED
    elif isinstance(error, OSError) and error.filename is not None:
        text, code = f"{error.filename!s:.100}: {error.strerror}", ExitCode.REFUSED
    else:
        text = f"unexpected {type(error).__name__}: {error} (use --debug to show the traceback)"
        code = ExitCode.UNEXPECTED
    for line in text.splitlines():
        print(f"error: {line}", file=sys.stderr)
    return code


def _usage(error: Any) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "sweeper"
    # An argument may have thousands of characters.
    words = [
        word if len(word) <= 100 else f"{word[:60]}…" for word in error.format_message().split()
    ]
    message = " ".join(words).replace("Value error, ", "").rstrip(".")
    return (
        f"{message} See {command} --help"
        if message[-1:] == "?"
        else f"{message}; see {command} --help"
    )
