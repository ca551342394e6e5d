"""Exit codes, trials, status, interrupts, narrow terminals and odd paths of the command line."""

import csv
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pytest
from rich.console import Console
from typer.main import get_command

from sweeper import api
from sweeper.cli.app import app
from sweeper.cli.exit_codes import MEANINGS, ExitCode
from sweeper.cli.progress import progress_display
from sweeper.cli.signals import this_command
from sweeper.report.trial_table import trials_csv
from sweeper.study.progress import Progress
from sweeper.version import __version__
from tests.support.databases import Server
from tests.support.launches import SLOW
from tests.support.processes import ROOT, StartSweeper, process, run
from tests.support.studies import STUDY
from tests.support.terminal import Terminal

Write = Callable[..., Path]
COMMANDS: Final[dict[str, Any]] = get_command(app).commands  # type: ignore[attr-defined]
PAGE: Final = (ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")


pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.fixture
def finished(write_study: Write) -> Path:
    """Return the file of a study that is finished in ./sweeper.db."""
    path = write_study(STUDY.replace("12", "6"))
    assert run("launch", path, "--workers", 0).status == 0
    return path


@pytest.fixture
def detached(write_study: Write) -> Path:
    """Return the file of a study that is launched in ./sweeper.db and has no worker."""
    path = write_study()
    assert run("launch", path, "--detach").status == 0
    return path


# ---- version and exit codes --------------------------------------------------------------


def test_the_version_is_that_of_the_package() -> None:
    assert run("--version") == (0, f"sweeper {__version__}\n", "")


def test_the_exit_codes_are_documented() -> None:
    table = re.findall(r"^\| (\d+) \| (.*) \|$", PAGE, flags=re.MULTILINE)
    assert table == [(str(code.value), meaning) for code, meaning in MEANINGS.items()]
    shown = " ".join(run("--help").out.split())
    assert all(f"{code:d} {meaning}" in shown for code, meaning in MEANINGS.items())


@pytest.mark.slow
def test_the_exit_codes_of_real_processes(write_study: Write) -> None:
    path = write_study(STUDY.replace("quick.py:train", "quick.py:broken"))
    server = "postgresql://user@127.0.0.1:1/db"
    codes = {
        ExitCode.SUCCESS: process("studies"),
        ExitCode.NEGATIVE: process("launch", path, "--workers", "0"),
        ExitCode.REFUSED: process("launch", "none.toml"),
        ExitCode.DATABASE: process("status", "--storage", server),
    }
    assert {code: done.returncode for code, done in codes.items()} == {c: c for c in codes}
    assert not any("Traceback" in done.stdout + done.stderr for done in codes.values())


@pytest.mark.slow
def test_a_no_to_a_question_changes_nothing(finished: Path) -> None:
    done = process("delete", "quick", input="n\n")
    assert done.returncode == ExitCode.NEGATIVE
    assert done.stderr == "error: canceled; nothing was changed\n"
    assert api.open_study("quick").finished


def test_an_unexpected_error_has_its_own_code(start_sweeper: StartSweeper) -> None:
    broken = "import sweeper.api.control as control\ncontrol.prepare = lambda storage: 1 / 0"
    child = start_sweeper("init", code=broken)
    said = child.communicate(timeout=120)[0]
    assert child.returncode == ExitCode.UNEXPECTED, said
    assert said.startswith("error: unexpected ZeroDivisionError")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["--help", "studies", "trials quick", "trials quick --csv"])
def test_a_reader_that_has_ended_is_no_error(command: str, finished: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "sweeper", *command.split()],
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (ExitCode.OUTPUT_CLOSED, b"")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_start_says_how_to_continue(number: int, write_study: Write) -> None:
    path = write_study()
    command = [sys.executable, "-m", "sweeper", "launch", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == f"checking {path}\n".encode()
        child.send_signal(number)
        out, err = child.communicate(timeout=60)
    assert child.returncode == 128 + number
    assert (out.decode(), err) == (f"interrupted; to continue: sweeper launch {path}\n", b"")
    assert not Path("sweeper.db").exists()


@pytest.mark.slow
def test_the_first_line_of_a_launch_comes_before_the_heavy_imports(write_study: Write) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "sweeper", "launch", write_study(), "--dry-run"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    heavy = re.search(r"\| +(torch|optuna|pandas|sqlalchemy|numpy)\b", done.stdout)
    assert heavy is not None
    assert done.stdout.index("checking ") < heavy.start()


def test_passwords_are_masked_in_the_command_that_continues(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    urls = ("postgresql://ann:sekret@host/db", "--storage=mysql://ann@host/db?password=sekret&x=1")
    monkeypatch.setattr(sys, "argv", ["sweeper", "launch", "a b.toml", *urls])
    assert this_command() == (
        "sweeper launch 'a b.toml' 'postgresql://ann:***@host/db' "
        "'--storage=mysql://ann@host/db?password=***&x=1'"
    )


# ---- trials ------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [60, 80, 200])
def test_trials_fit_the_terminal(
    width: int, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    done = run("trials", "quick")
    assert (done.status, done.err) == (0, "")
    heading, *rows = done.out.splitlines()
    last = rows.pop() if width < 200 else ""
    assert max(map(len, (heading, *rows))) <= width
    assert [row.split()[0] for row in rows] == list("012345")
    assert heading.split()[:6] == ["trial", "state", "ε", "schedule", "rate", "NLL"]
    for word in ("NLL scaled", "accuracy", "ECE", "epochs", "time", "worker", "quality"):
        assert (word in heading) != (word in last), word
    assert ("ECE" in heading) == (width >= 80)


def test_trials_as_csv_and_json_have_all_values(finished: Path) -> None:
    frame = api.open_study("quick").frame()
    rows = list(csv.DictReader(io.StringIO(run("trials", "quick", "--csv").out)))
    assert [*rows[0]] == [name for name in frame.columns if name != "ticket"] + ["worker"]
    assert [float(row["nll"]) for row in rows] == frame["nll"].tolist()
    assert [row["state"] for row in rows] == frame["state"].tolist()
    trials = run("trials", "quick", "--json").json
    assert [trial["number"] for trial in trials] == frame["number"].tolist()
    assert [trial["scores"]["nll"] for trial in trials] == frame["nll"].tolist()
    assert {trial["worker"] for trial in trials} == {f"{socket.gethostname()}:{os.getpid()}"}


def test_csv_runs_no_formula() -> None:
    texts = ['=HYPERLINK("x")', "+1", "-1", "@x", "\tx", "plain, text", "a\nb"]
    trials = pd.DataFrame({"ticket": 0, "failure": texts, "nll": -1.5})
    rows = list(csv.reader(io.StringIO(trials_csv(trials))))[1:]
    assert [row[0] for row in rows] == [f"'{text}" for text in texts[:5]] + texts[5:]
    assert {row[1] for row in rows} == {"-1.5"}


def test_columns_without_a_value_are_left_out(detached: Path) -> None:
    heading, row = run("trials", "quick").out.splitlines()
    assert heading.split() == ["trial", "state", "ε", "schedule", "epochs", "time"]
    assert row.split() == ["0", "waiting", "0", "fixed", "0", "0.0", "s"]
    assert [trial["scores"]["nll"] for trial in run("trials", "quick", "--json").json] == [None]
    assert run("trials", "quick", "--csv").out.count("\n") == 2


def test_csv_and_json_exclude_each_other(finished: Path) -> None:
    done = run("trials", "quick", "--csv", "--json")
    assert done.status == ExitCode.REFUSED
    assert done.err == (
        "error: Invalid value for --csv: cannot be combined with --json; "
        "see sweeper trials --help\n"
    )


# ---- status ------------------------------------------------------------------------------


def test_the_fields_of_status_are_documented(finished: Path) -> None:
    section = PAGE.split("## JSON of `status`")[1].split("\n## ")[0]
    columns = re.findall(r"^\| (`.*?) \|", section, flags=re.MULTILINE)
    fields = [field for column in columns for field in re.findall(r"`(\w+)`", column)]
    one = run("status", "quick", "--json").json
    assert [*one] == fields
    assert run("status", "--json").json == [one]
    watched = json.loads(run("status", "quick", "--json", "--watch").out)
    until = fields[: fields.index("confirmation_gpu_hours") + 1]
    assert [*watched] == [field for field in until if field != "recommended"]
    assert watched == {field: one[field] for field in watched}


def test_a_study_that_has_ended_is_shown_once(finished: Path) -> None:
    done = run("status", "--watch")
    assert done.status == 0
    assert re.fullmatch(r"quick: finished  6/6  \d done · 0 running · .*\n", done.out)


def test_watching_a_failed_study_gives_its_code(write_study: Write) -> None:
    path = write_study(STUDY.replace("quick.py:train", "quick.py:broken"))
    assert run("launch", path, "--workers", 0).status == ExitCode.NEGATIVE
    done = run("status", "quick", "--watch")
    assert done.status == ExitCode.NEGATIVE
    assert done.out.startswith("quick: failed  5/12")


@pytest.mark.slow
def test_watching_prints_a_line_for_each_change(
    write_study: Write, start_sweeper: StartSweeper, storage: str, tmp_path: Path
) -> None:
    path = write_study(SLOW.format(trace=tmp_path / "trace"), "slow.toml")
    assert run("launch", path, "--detach", "--storage", storage).status == 0
    watching = start_sweeper("status", "slow", "--watch")
    assert watching.stdout is not None
    first = watching.stdout.readline()
    assert first == "slow: unfinished  0/24  0 done · 0 running · 0 pruned · 0 failed\n"
    start_sweeper("worker", "slow", "--slots", 2)
    lines = watching.communicate(timeout=200)[0].splitlines()
    assert watching.returncode == 0
    assert lines[-1].startswith("slow: finished  24/24  ")
    assert any(line.startswith("slow: running  ") for line in lines)
    assert all(line != after for line, after in pairwise(lines))


@pytest.mark.slow
def test_watching_in_a_terminal_ends_with_the_result_or_ctrl_c(detached: Path) -> None:
    terminal = Terminal("status", "quick", "--watch")
    terminal.wait_for(lambda now: "unfinished" in now.text)
    terminal.press_ctrl_c()
    assert terminal.wait() == ExitCode.INTERRUPTED
    assert "Traceback" not in terminal.text
    watching = Terminal("status", "quick", "--watch")
    watching.wait_for(lambda now: "unfinished" in now.text)
    api.stop("quick")
    assert watching.wait() == 0
    assert any("quick" in line and "stopped" in line for line in watching.lines)


@pytest.mark.chaos
def test_watching_survives_a_restart_of_the_database(
    write_study: Write, start_sweeper: StartSweeper, own_server: Server
) -> None:
    url = own_server.url
    assert run("launch", write_study(), "--detach", "--storage", url).status == 0
    watching = start_sweeper("status", "quick", "--watch", url=url)
    assert watching.stdout is not None
    assert watching.stdout.readline().startswith("quick: unfinished")
    own_server.stop()
    assert "; retrying" in watching.stdout.readline()
    own_server.start()
    for line in watching.stdout:
        if line == "the database is available again\n":
            break
        assert "; retrying" in line
    api.stop("quick", url)
    assert watching.communicate(timeout=120)[0].startswith("quick: stopped  0/12")
    assert watching.returncode == 0


# ---- the progress bar --------------------------------------------------------------------

COUNTS: Final = Progress(
    trials=10000,
    complete=1234,
    pruned=2345,
    failed=12,
    running=64,
    waiting=6409,
    best=0.12345,
    baseline=0.2,
    retried=3,
)


@pytest.mark.parametrize("name", ["digits", "a-study-with-a-name-of-" + "x" * 200, "研究" * 50])
@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_the_bar_and_the_counts_are_visible(width: int, name: str) -> None:
    out = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    with progress_display(out, name) as on_progress:
        on_progress(COUNTS)
    assert isinstance(out.file, io.StringIO)
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.file.getvalue())
    lines = [line for line in re.split(r"[\r\n]+", drawn) if "3591/10000" in line]
    assert lines
    for line in lines:
        assert line.startswith(name[:5])
        assert "━" in line
        assert re.search(r"\d:\d\d:\d\d", line)
        assert out.measure(line).maximum <= width
    words = " ".join(drawn.split())
    for text in ("1234 done", "64 running", "2345 pruned", "12 failed", "best NLL 0.123"):
        assert text in words


@pytest.mark.slow
@pytest.mark.parametrize("width", [60, 80])
def test_the_bar_of_a_launch_fits_the_terminal(width: int, write_study: Write) -> None:
    name = "a-study-with-a-long-name-" + "x" * 30
    path = write_study(STUDY.replace('"quick"', f'"{name}"').replace("12", "4"))
    terminal = Terminal("launch", path, "--workers", 1, width=width)
    assert terminal.wait() == 0
    bars = [line for line in terminal.lines if "━" in line and "4/4" in line]
    assert bars
    assert all(line.startswith("a-study-with") and len(line) <= width for line in bars)


# ---- Ctrl-C ------------------------------------------------------------------------------

CONTINUES: Final = "to continue: sweeper launch "


def check_interrupted(terminal: Terminal) -> list[str]:
    """Check how a launch ended after Ctrl-C; return what it printed last."""
    assert terminal.wait() == ExitCode.INTERRUPTED
    text = terminal.text
    assert "Traceback" not in text
    assert "error: " not in text
    assert CONTINUES in text
    table = text.split("━┓")[-1] if "━┓" in text else None
    assert table is None or "│" in table, "an empty table"
    return terminal.lines


@pytest.fixture
def slow(write_study: Write, tmp_path: Path) -> Path:
    return write_study(SLOW.format(trace=tmp_path / "trace"), "slow.toml")


def started() -> int:
    """Return the number of trials that have started."""
    return len(Path("trace").read_text().split()) if Path("trace").exists() else 0


@pytest.mark.chaos
@pytest.mark.parametrize("presses", [1, 2])
@pytest.mark.parametrize("trials", [0, 1, 4])
def test_ctrl_c_prints_the_progress_so_far(trials: int, presses: int, slow: Path) -> None:
    terminal = Terminal("launch", slow, "--workers", 1)
    terminal.wait_for(lambda now: "checking" in now.text and started() >= trials)
    for _ in range(presses):
        terminal.press_ctrl_c()
    lines = check_interrupted(terminal)
    if not trials:
        assert not Path("sweeper.db").exists()
        return
    counts = api.open_study("slow").progress()
    assert (
        f"study slow stopped at {counts.ended} of 24 trials ({counts.complete} complete, "
        f"{counts.pruned} pruned, {counts.failed} failed)"
    ) in " ".join(lines)
    assert counts.ended >= trials - 1
    assert counts.running == 0
    assert any(line.startswith("best NLL 0.") for line in lines) == (counts.best is not None)


@pytest.mark.chaos
def test_ctrl_c_in_the_confirmation_prints_its_progress(write_study: Write) -> None:
    study = STUDY.replace("quick.py:train", "quick.py:with_test_split")
    path = write_study(f"{study}[confirm]\nreplicates = 100\n")
    terminal = Terminal("launch", path, "--workers", 1)
    terminal.wait_for(lambda now: "confirmation: " in now.text)
    terminal.press_ctrl_c()
    lines = check_interrupted(terminal)
    counts = api.open_study("quick").progress()
    assert f"confirmation: {counts.confirmed} of {counts.confirming} runs have ended" in lines
    assert counts.confirmed < counts.confirming


# ---- paths -------------------------------------------------------------------------------

NEEDED: Final = {
    "launch": ["quick.toml"],
    "verify": ["best.json"],
    "replay": ["quick", "0"],
    **{name: ["quick"] for name in ("confirm", "retry", "report", "export")},
}
PATHS: Final = [
    (name, parameter)
    for name, command in COMMANDS.items()
    if name != "token"
    for parameter in command.params
    if "Path" in str(parameter.type_descriptor.annotation)
]


def test_many_parameters_are_paths() -> None:
    assert len(PATHS) > 15
    assert {name for name, _ in PATHS} >= {"launch", "worker", "verify", "backup", "serve"}


@pytest.mark.parametrize(
    ("name", "parameter"), PATHS, ids=lambda value: getattr(value, "name", value)
)
def test_an_empty_path_is_refused(name: str, parameter: Any, write_study: Write) -> None:
    write_study()
    if parameter.param_type_name == "argument":
        done = run(name, "")
    else:
        done = run(name, *NEEDED.get(name, []), parameter.opts[-1], "")
    assert done.status == ExitCode.REFUSED
    assert done.err.startswith("error: Invalid value for ")
    assert "must not be empty; see sweeper " in done.err
    assert done.err.count("\n") == 1


def make(kind: str, path: Path) -> None:
    """Make a pipe, a socket, a directory or a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    match kind:
        case "a pipe":
            os.mkfifo(path)
        case "a socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(path.relative_to(Path.cwd())))
        case "a directory":
            path.mkdir()
        case "a file":
            path.touch()


KINDS: Final = ("a pipe", "a socket", "a directory")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", ["launch", "status", "init"])
def test_a_database_that_is_no_file(
    kind: str, command: str, write_study: Write, tmp_path: Path
) -> None:
    write_study()
    make(kind, tmp_path / "odd")
    done = run(command, *NEEDED.get(command, []), "--storage", "odd")
    assert done.status == ExitCode.REFUSED
    assert done.err == f"error: storage: odd is {kind}; give the name of a file\n"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", [".study.json", "report.html", "best.json"])
def test_a_result_file_of_another_kind_is_refused(
    file: str, kind: str, write_study: Write, tmp_path: Path
) -> None:
    path = write_study()
    make(kind, tmp_path / "results" / "quick" / file)
    done = run("launch", path, "--workers", 0)
    assert done.status == ExitCode.REFUSED
    assert done.err == f"error: results: results/quick/{file} is {kind}; remove it\n"
    assert not Path("sweeper.db").exists()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["a pipe", "a socket", "a file"])
@pytest.mark.parametrize("folder", ["checkpoints", "weights", "logs"])
def test_a_result_folder_of_another_kind_is_refused(
    folder: str, kind: str, write_study: Write, tmp_path: Path
) -> None:
    path = write_study()
    make(kind, tmp_path / "results" / "quick" / folder)
    done = run("launch", path, "--workers", 0)
    assert done.status == ExitCode.REFUSED
    assert done.err == f"error: results: results/quick/{folder} is not a directory; remove it\n"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", KINDS)
def test_a_study_file_of_another_kind_is_refused(kind: str, tmp_path: Path) -> None:
    make(kind, tmp_path / "odd.toml")
    done = run("launch", "odd.toml")
    assert done.status == ExitCode.REFUSED
    assert done.err.startswith(f"error: odd.toml is {kind}, not a study file; example studies: ")
    assert done.err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["a socket", "a directory"])
def test_another_file_of_another_kind_is_refused(kind: str, finished: Path, tmp_path: Path) -> None:
    make(kind, tmp_path / "odd.toml")
    for command in (
        "verify odd.toml",
        "backup odd.toml",
        "export quick -o odd.toml",
        "report quick -o odd.toml",
        "report quick --page odd.toml",
    ):
        done = run(*command.split())
        assert (done.status, done.results) == (ExitCode.REFUSED, ""), command
        assert "odd.toml" in done.err, command
        assert done.err.count("\n") == 1, done.err
