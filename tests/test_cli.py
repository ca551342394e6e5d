"""The command line: what scripts read from it, what a terminal sees, and how soon it answers."""

import contextlib
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import optuna
import pytest

from sweeper import api
from sweeper.cli import options
from sweeper.cli.progress import Clock, words
from sweeper.store.urls import DEFAULT_STORAGE
from sweeper.study.progress import Progress
from sweeper.worker import watched
from tests.support.processes import process, run, run_module
from tests.support.studies import STUDY

Write = Callable[..., Path]
ANSI = re.compile(r"\x1b\[")
COLOUR = re.compile(r"\x1b\[(\d+;)*[349]\d(;\d+)*m")


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each test stand in a folder of its own, with no setting from outside."""
    monkeypatch.chdir(tmp_path)
    for name in ("SWEEPER_STORAGE", "NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def finished(write_study: Write) -> Path:
    """Return the file of a study that is finished in ./sweeper.db."""
    path = write_study()
    assert run("launch", path, "--workers", 0).status == 0
    return path


def files() -> dict[str, bytes]:
    """Return every file below the current folder."""
    found = [p for p in Path().rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    return {str(path): path.read_bytes() for path in found}


# ---- launch ------------------------------------------------------------------------------


def test_a_launch_shows_plain_lines_a_table_and_its_files(write_study: Write) -> None:
    done = run("launch", write_study(), "--workers", 0)
    assert done.status == 0
    assert "12/12" in done.out
    assert "│ none " in done.out
    assert done.out.rstrip().endswith("results/quick/report.html\nresults/quick/best.json")
    assert Path("results/quick/report.html").is_file()
    assert json.loads(Path("results/quick/best.json").read_text())["study"] == "quick"
    assert done.err == ""


@pytest.mark.slow
def test_a_second_launch_says_it_is_finished_and_trains_nothing(finished: Path) -> None:
    before = api.open_study("quick").frame()
    with patch.object(watched, "followed", side_effect=AssertionError("trained again")):
        done = run("launch", finished, "--workers", 0)
    assert done.status == 0
    assert "is finished: all 12 trials were done before" in done.out
    assert api.open_study("quick").frame().equals(before)


@pytest.mark.slow
def test_more_trials_continue_a_study(finished: Path) -> None:
    before = api.open_study("quick").frame()
    done = run("launch", finished, "--workers", 0, "--trials", 15)
    after = api.open_study("quick").frame()
    assert done.status == 0
    assert after["number"].tolist() == list(range(15))
    assert after.head(12).equals(before)
    assert run("status", "quick", "--json").json["trials"] == 15


def test_json_of_a_launch_is_all_of_stdout(write_study: Write) -> None:
    done = run("launch", write_study(), "--workers", 0, "--json")
    assert done.json["state"] == "finished"
    assert done.json["complete"] + done.json["pruned"] == 12
    assert done.json["trial_numbers"] == list(range(12))
    assert "12/12" in done.err


def test_a_dry_run_writes_nothing(write_study: Write) -> None:
    path = write_study()
    before = files()
    done = run("launch", path, "--dry-run")
    assert done.status == 0
    assert "12 trials, 0 ended" in done.out
    assert "Nothing was written" in done.out
    assert files() == before


def test_a_dry_run_on_a_study_changes_none_of_its_bytes(finished: Path) -> None:
    run("status")  # whatever SQLite leaves when the last reader goes is there now
    before = files()
    done = run("launch", finished, "--dry-run", "--json", "--trials", 20)
    assert done.json["trials"] == 20
    assert done.json["ended"] == 12
    assert len(done.json["points"]) == 20
    assert done.json["points"][0]["epsilon"] == 0
    assert len(done.json["spec_hash"]) == 64
    after = files()
    assert {name for name in after if not name.endswith(("-shm", "-wal"))} == {
        name for name in before if not name.endswith(("-shm", "-wal"))
    }
    assert after["sweeper.db"] == before["sweeper.db"]


def test_a_dry_run_on_a_fresh_postgresql_finds_nothing_there(
    write_study: Write, postgresql: str
) -> None:
    done = run("launch", write_study(), "--dry-run", "--storage", postgresql)
    assert done.status == 0
    assert "0 ended" in done.out


def test_a_timeout_stops_a_launch_that_goes_on_later(write_study: Write) -> None:
    text = STUDY.replace("quick.py:train", "quick.py:slow") + (
        "[task.options]\ntrace = 'trace'\npause = 0.1\n"
    )
    path = write_study(text)
    done = run("launch", path, "--workers", 0, "--timeout", 1.5)
    assert done.status == 0
    assert "launch it again to go on" in done.out
    assert run("status", "quick", "--json").json["state"] == "unfinished"


def test_a_study_without_a_finished_trial_says_why(write_study: Write) -> None:
    path = write_study(STUDY.replace("quick.py:train", "quick.py:broken"))
    done = run("launch", path, "--workers", 0)
    assert done.status == 1
    assert "12 failed; trial 0: RuntimeError: no such luck (sweeper logs quick 0)" in done.out
    assert "Traceback" in run("logs", "quick", 0).out


def test_the_note_says_what_was_found(finished: Path) -> None:
    storage = optuna.storages.RDBStorage(DEFAULT_STORAGE)
    attrs = storage.get_study_system_attrs(storage.get_study_id_from_name("quick"))
    storage.remove_session()
    storage.engine.dispose()
    [note] = [value for key, value in attrs.items() if key.startswith("dashboard:note_str")]
    assert note.startswith("### Best so far: ε = 0.1")
    assert "NLL" in note
    assert "at ε = 0" in note


# ---- the other commands ------------------------------------------------------------------


def test_status_lists_studies(finished: Path) -> None:
    assert "12/12" in run("status").out
    listed = run("status", "--json").json
    assert [study["study"] for study in listed] == ["quick"]
    one = run("status", "quick", "--json").json
    assert one == listed[0]
    assert one["best_trial"] == api.open_study("quick").frame()["value"].argmin()


def test_status_json_is_parseable_without_a_single_result(write_study: Write) -> None:
    text = STUDY.replace("quick.py:train", "quick.py:diverge").replace("trials = 12", "trials = 1")
    run("launch", write_study(text), "--workers", 0)
    assert run("status", "--json").json[0]["trials"] == 1


def test_report_writes_where_it_is_told(finished: Path) -> None:
    done = run("report", "quick", "-o", "a/b [bold] :tram:.html")
    assert done.out == "a/b [bold] :tram:.html\n"
    assert Path("a/b [bold] :tram:.html").read_text().startswith("<!")


def test_report_writes_the_page_it_is_told(finished: Path, tmp_path: Path) -> None:
    done = run("report", "quick", "--page", "schedules", "-o", "one.html")
    assert "should ε anneal?" in Path(done.out.strip()).read_text()
    mine = '[[panels]]\nfigure = "history"\nheading = "Mine <b>"\noptions = { height = 333 }\n'
    Path("mine.toml").write_text('title = "My page"\n' + mine)
    run("report", "quick", "--page", "mine.toml", "-o", "two.html")
    written = Path("two.html").read_text()
    assert "Mine &lt;b&gt;" in written
    assert "min-height: 333px" in written
    for page, said in (("schedule", "did you mean 'schedules'"), ("no.toml", "No such file")):
        done = run("report", "quick", "--page", page)
        assert (done.status, said in done.err) == (2, True)


def test_export_goes_to_stdout_or_to_a_file(finished: Path) -> None:
    printed = run("export", "quick")
    assert run("export", "quick", "-o", "x/best.json").out == "x/best.json\n"
    written = json.loads(Path("x/best.json").read_text())
    of_their_second = {"created": "", "digest": ""}  # the digest is of the moment too
    assert {**printed.json, **of_their_second} == {**written, **of_their_second}


def test_logs_tell_what_a_trial_did(finished: Path) -> None:
    said = run("logs", "quick", 0).out
    assert said.startswith("trial 0: complete, epsilon 0, fixed\n")
    assert "epoch   8" in said
    assert "quick training begins" in said


def test_delete_asks_first(finished: Path) -> None:
    with patch("builtins.input", return_value="n"), patch("sys.stdin", io.StringIO("n\n")):
        refused = run("delete", "quick")
    assert refused.status == 1
    assert "12 trials" in refused.out + refused.err
    assert run("status", "quick").status == 0
    assert run("delete", "quick", "--yes").out == "deleted quick\n"
    assert run("status", "quick").status == 2
    assert run("status", "--json").json == []


@pytest.mark.slow
def test_a_study_can_be_launched_again_after_it_was_deleted(finished: Path) -> None:
    run("delete", "quick", "--yes")
    again = run("launch", finished, "--workers", 0, "--json")
    assert again.json["trial_numbers"] == list(range(12))


def test_schema_and_studies_are_json(finished: Path) -> None:
    assert run("schema").json["title"] == "StudySpec"
    found = run("studies", "--json").json
    assert "digits" in found
    assert all(found.values())
    assert run("studies").out.startswith("digits ")


def test_the_storage_comes_from_the_environment(
    write_study: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWEEPER_STORAGE", "sqlite:///elsewhere.db")
    run("launch", write_study(), "--workers", 0)
    assert Path("elsewhere.db").is_file()
    assert not Path("sweeper.db").exists()
    assert run("status", "--storage", "sweeper.db").status == 2


def test_the_default_storage_is_the_stores() -> None:
    assert options.DEFAULT_STORAGE == DEFAULT_STORAGE


def test_a_worker_makes_no_database(tmp_path: Path) -> None:
    done = run("worker", "quick", "--storage", "none/sweeper.db")
    assert done.status == 2
    assert "there is no such file" in done.err
    assert list(tmp_path.iterdir()) == []


# ---- terminals ---------------------------------------------------------------------------


def test_wide_unicode_passes_through(write_study: Write) -> None:
    folder = Path("研究 ünï 🎯")
    folder.mkdir()
    path = write_study()
    for name in ("quick.py", path.name):
        Path(name).rename(folder / name)
    done = run("launch", folder / path.name, "--workers", 0, "--results", folder / "結果")
    assert done.status == 0
    assert f"{folder}/結果/quick/best.json" in done.out


@pytest.fixture
def in_terminal(finished: Path) -> Callable[..., str]:
    """Return a function that runs a command on a pseudo-terminal and returns what it showed."""

    def shown(*arguments: str, **environment: str) -> str:
        ours, theirs = pty.openpty()
        child = subprocess.Popen(
            [sys.executable, "-m", "sweeper", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm-256color", **environment},
        )
        os.close(theirs)
        text = b""
        with contextlib.suppress(OSError):  # Linux's end of file on a pseudo-terminal
            while part := os.read(ours, 65536):
                text += part
        os.close(ours)
        assert child.wait(timeout=60) == 0
        return text.decode()

    return shown


@pytest.mark.slow
def test_colour_is_for_terminals_that_want_it(in_terminal: Callable[..., str]) -> None:
    assert COLOUR.search(in_terminal("launch", "--help"))
    assert not COLOUR.search(in_terminal("launch", "--help", NO_COLOR="1"))
    assert not COLOUR.search(in_terminal("status", "quick", NO_COLOR="1"))


@pytest.mark.slow
def test_a_terminal_gets_a_live_bar(in_terminal: Callable[..., str]) -> None:
    said = in_terminal("launch", "quick.toml", "--workers", "1", "--trials", "13")
    assert "━" in said
    assert "13/13" in said
    assert COLOUR.search(said)


@pytest.mark.slow
def test_nothing_but_text_without_a_terminal(finished: Path) -> None:
    done = process("status", "quick")
    assert done.returncode == 0
    assert not ANSI.search(done.stdout + done.stderr)
    help_text = process("launch", "--help").stdout
    assert not ANSI.search(help_text)
    assert "--dry-run" in help_text


@pytest.mark.slow
def test_workers_of_a_real_launch_finish_the_study(write_study: Write) -> None:
    done = process("launch", write_study(), "--workers", 2, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["trial_numbers"] == list(range(12))
    assert not ANSI.search(done.stderr)


def test_shell_completion_is_offered() -> None:
    assert "--install-completion" in run("--help").out
    environment = {**os.environ, "_SWEEPER_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    offered = process(env={**environment, "COMP_WORDS": "sweeper la"}).stdout
    assert offered.split() == ["launch"]


# ---- how soon it answers -----------------------------------------------------------------

SMALL = {"--help": 0, "launch --help": 0, "studies": 0, "launch digts": 2, "status --jsn": 2}


def test_small_questions_load_nothing_heavy() -> None:
    done = run_module("heavy_imports", *SMALL)
    assert json.loads(done.stdout) == {command: [status, []] for command, status in SMALL.items()}


@pytest.mark.slow
def test_what_is_seldom_used_is_loaded_late() -> None:
    done = run_module("worker_imports")
    assert (done.stdout, done.stderr) == ("[]\n", "")


# ---- progress ----------------------------------------------------------------------------


def counts(complete: int, **others: Any) -> Progress:
    none: dict[str, Any] = {"pruned": 0, "failed": 0, "waiting": 0, "retried": 0}
    known = {"trials": 10, "complete": complete, "running": 2, "best": None, "baseline": None}
    return Progress(**{**none, **known, **others})


def test_a_line_of_progress_leaves_out_what_is_not_known() -> None:
    assert words(counts(0), "") == "0/10  0 done · 2 running · 0 pruned · 0 failed"
    assert words(counts(3, pruned=1, best=0.12345), "9 s left") == (
        "4/10  3 done · 2 running · 1 pruned · 0 failed · best NLL 0.1235 · 9 s left"
    )


def test_the_time_left_counts_only_what_this_launch_did() -> None:
    clock = Clock()
    with patch("sweeper.cli.progress.time.monotonic", side_effect=[100.0, 102.0, 700.0, 701.0]):
        assert clock.left(counts(6)) == ""
        assert clock.left(counts(7)) == "6 s left"
        assert clock.left(counts(8)) == "10 min left"
        assert clock.left(counts(10)) == ""


@pytest.mark.slow
def test_the_first_ctrl_c_ends_a_launch_that_can_go_on(write_study: Write) -> None:
    text = STUDY.replace("quick.py:train", "quick.py:slow") + (
        "[task.options]\ntrace = 'trace'\npause = 0.2\n"
    )
    path = write_study(text)
    command = [sys.executable, "-m", "sweeper", "launch", str(path), "--workers", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        while not Path("trace").is_file():
            assert child.poll() is None
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert b"launch it again to go on" in out
    assert err == b""
