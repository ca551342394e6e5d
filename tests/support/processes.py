"""The command line, in this process or in its own."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple
from unittest.mock import patch

from sweeper.cli import main
from tests.support.serving import Site

ROOT: Final = Path(__file__).parent.parent.parent
StartSweeper = Callable[..., subprocess.Popen[str]]


class Done(NamedTuple):
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str

    @property
    def results(self) -> str:
        """What stands on stdout after the first line of a launch, `checking STUDY`."""
        return re.sub(r"\Achecking .*\n", "", self.out)

    @property
    def json(self) -> Any:
        """What stands on stdout, which is JSON and nothing else."""
        return json.loads(self.out, parse_constant=_no_constant)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def run(*arguments: object) -> Done:
    """Run a command in this process, as `sweeper ARGUMENTS` would."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with (
        patch.object(sys, "argv", ["sweeper", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
    return Done(status, out.getvalue(), err.getvalue())


def process(
    *arguments: object, timeout: float = 120, **kwargs: Any
) -> subprocess.CompletedProcess[str]:
    """Run a command as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "sweeper", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **kwargs,
    )


@contextmanager
def started_processes(storage: str, folder: Path) -> Iterator[StartSweeper]:
    """Yield a function that starts `sweeper ARGUMENTS` as a process; kill what is left at the end.

    `url` is the database of the process, `code` what it runs first.
    """
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object, url: str = storage, code: str = "") -> subprocess.Popen[str]:
        main = (
            ["-c", f"{code}\nfrom sweeper.cli import main\nmain()"] if code else ["-m", "sweeper"]
        )
        process = subprocess.Popen(
            [sys.executable, *main, *map(str, arguments)],
            cwd=folder,
            env={**os.environ, "SWEEPER_STORAGE": url},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # a signal to its process group is not for the tests
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stdout is not None:  # closed, not read: what it started may still hold it
            process.stdout.close()


ADDRESS = re.compile(r"sweeper: (http://127\.0\.0\.1:\d+/) \(Ctrl-C to stop\)\n")


@contextmanager
def serving(
    start: StartSweeper, *options: object, url: str, code: str = ""
) -> Iterator[tuple[Site, Any]]:
    """Run the command; yield where it serves, and its process."""
    process = start("serve", "--no-browser", "--port", 0, *options, url=url, code=code)
    assert process.stdout is not None
    line = process.stdout.readline()
    found = ADDRESS.fullmatch(line)
    assert found, line
    yield Site(found[1]), process
    if process.poll() is None:
        process.terminate()
        assert process.wait(timeout=30) in (0, -signal.SIGTERM)


def start_module(name: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a module of tests/support as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", f"tests.support.{name}", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_module(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a module of tests/support to its end."""
    with start_module(name, *arguments) as process:
        out, err = process.communicate(timeout=500)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
