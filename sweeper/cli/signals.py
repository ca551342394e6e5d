"""Signal handling of the commands that run training."""

import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import typer

from sweeper.cli.exit_codes import ExitCode
from sweeper.cli.options import DEFAULT_STORAGE, echo


class Interrupt:
    """The handler of Ctrl-C and SIGTERM; `status` is the exit code for the last signal."""

    def __init__(self) -> None:
        self.received = False
        self.status = ExitCode.INTERRUPTED

    def __call__(self, number: int, _: FrameType | None) -> None:
        """Raise KeyboardInterrupt, as Ctrl-C does."""
        self.received = True
        self.status = ExitCode(128 + number)
        raise KeyboardInterrupt

    @contextmanager
    def before_start(self, *, stderr: bool) -> Iterator[None]:
        """End the command with one line if it is interrupted within the block.

        An interrupted import of a compiled module may raise another exception.
        """
        try:
            yield
        except BaseException:
            if not self.received:
                raise
            self.end(stderr=stderr)

    def end(self, *, stderr: bool) -> NoReturn:
        """Print the command that continues, and end this one."""
        echo(f"interrupted; to continue: {this_command()}", err=stderr)
        raise typer.Exit(self.status) from None


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Treat SIGTERM, which schedulers and containers send, like Ctrl-C within the block."""
    interrupt = Interrupt()
    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored by a shell
        numbers.append(signal.SIGINT)
    before = [(number, signal.signal(number, interrupt)) for number in numbers]
    try:
        yield interrupt
    finally:
        for number, handler in before:
            signal.signal(number, handler)


_PASSWORDS = re.compile(r"(://[^:/@\s]*:)[^/\s]*(?=@)|(password=)[^&\s]*")


def this_command() -> str:
    """Return the command line of this process for a shell, with passwords masked."""
    return _masked(["sweeper", *sys.argv[1:]])


def worker_command(name: str, storage: str) -> str:
    """Return the command that starts a worker of a study, for a shell."""
    is_default = storage in (DEFAULT_STORAGE, os.environ.get("SWEEPER_STORAGE"))
    option = [] if is_default else ["--storage", storage]
    return _masked(["sweeper", "worker", name, *option])


def _masked(words: Sequence[str]) -> str:
    return shlex.join(_PASSWORDS.sub(r"\1\2***", word) for word in words)
