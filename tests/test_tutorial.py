"""The tutorial: its files and commands, run in an empty folder as a reader would."""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple
from urllib.request import urlopen

import pytest

from tests.support.processes import ROOT

PAGE: Final = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
PROGRAMS: Final = {
    "python": [sys.executable],
    "sweeper": [sys.executable, "-m", "sweeper"],
}


class Block(NamedTuple):
    """A code block: a file if it has a title, otherwise commands with their output."""

    language: str
    title: str
    text: str


def blocks(page: str) -> Iterator[Block]:
    """Yield the files and the consoles of a page."""
    fence = r'^```(\w+)(?: title="([^"]+)")?(?: hl_lines="[^"]+")?\n(.*?)^```$'
    for language, title, text in re.findall(fence, page, flags=re.MULTILINE | re.DOTALL):
        if title or language == "console":
            yield Block(language, title, text)


def expected_lines(text: str) -> list[str]:
    """Return the expected output of a console, without the lines that are left out."""
    return [plain(line) for line in text.splitlines() if line not in ("", "…")]


def plain(text: str) -> str:
    """Return text with every number replaced: numbers differ between machines."""
    return re.sub(r"\b[0-9a-f]{12}\b|[\d.,]*\d", "0", text)


def check_output(expected: list[str], output: str) -> None:
    """Check that the expected lines occur in the output, in this order."""
    lines = iter(plain(output).splitlines())
    for line in expected:
        assert any(line == one.rstrip() for one in lines), f"{line!r} is not in:\n{output}"


def run_command(command: list[str], expected: list[str], folder: Path) -> None:
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    check_output(expected, done.stdout + done.stderr)


def run_service(command: list[str], expected: list[str], folder: Path) -> None:
    """Start the service, open the address that it prints, and stop it."""
    with subprocess.Popen(
        [*command, "--port", "0"],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as service:
        try:
            assert service.stdout is not None
            first = service.stdout.readline()
            check_output(expected, first)
            address = re.search(r"http://\S+", first)
            assert address is not None
            with urlopen(address[0], timeout=60) as response:
                assert "mine" in response.read().decode()
        finally:
            service.terminate()


def environment() -> dict[str, str]:
    """Return the environment of a reader, in which the sweeper of this checkout is installed."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SWEEPER_")}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


@pytest.mark.slow
def test_the_tutorial_works_as_shown(tmp_path: Path) -> None:
    began = time.monotonic()
    for block in blocks(PAGE):
        if block.title:
            (tmp_path / block.title).write_text(block.text, encoding="utf-8")
            continue
        first, _, rest = block.text.partition("\n")
        program, *arguments = shlex.split(first.removeprefix("$ "))
        command = [*PROGRAMS[program], *arguments]
        run = run_service if arguments[0] == "serve" else run_command
        run(command, expected_lines(rest), tmp_path)
    assert (tmp_path / "results" / "mine" / "report.html").is_file()
    print(f"the tutorial took {time.monotonic() - began:.0f} s")


def test_the_tutorial_has_files_and_commands() -> None:
    found = [*blocks(PAGE)]
    titles = [block.title for block in found if block.title]
    assert titles == ["train.py", "train.py", "study.toml", "final.py"]
    consoles = [block.text for block in found if not block.title]
    assert len(consoles) >= 5
    assert all(text.startswith("$ ") and text.count("$ ") == 1 for text in consoles)
    assert PAGE.count("```") == 2 * (len(found) + 1)  # the other block is an excerpt of an output


def test_the_check_of_the_output_sees_a_missing_line() -> None:
    check_output(["verdict: helps"], "first\nverdict: helps\nlast")
    with pytest.raises(AssertionError, match="verdict"):
        check_output(["verdict: helps"], "first\nverdict: hurts\nlast")
    with pytest.raises(AssertionError, match="first"):
        check_output(["last", "first"], "first\nlast")
