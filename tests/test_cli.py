"""The command line: what scripts read from it, what a terminal sees, and how soon it answers."""

import contextlib
import io
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import optuna
import pandas as pd
import pytest

from sweeper import api
from sweeper.cli import options
from sweeper.cli.tables import without_result
from sweeper.executors import JobSpec
from sweeper.executors.base import Traits
from sweeper.executors.local import LocalExecutor, LocalJob
from sweeper.report.report_input import prepare
from sweeper.report.summary import summarize
from sweeper.report.trial_table import trials_table
from sweeper.store.urls import DEFAULT_STORAGE
from sweeper.study.progress import Progress
from sweeper.study.progress_text import RemainingTime, line
from sweeper.training.trainer import FunctionTrainer
from tests.support.processes import process, run, run_module
from tests.support.studies import STUDY

Write = Callable[..., Path]
ANSI = re.compile(r"\x1b\[")
COLOR = re.compile(r"\x1b\[(\d+;)*[349]\d(;\d+)*m")


pytestmark = pytest.mark.usefixtures("own_folder")


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


def test_launch_prints_progress_table_and_files(write_study: Write) -> None:
    done = run("launch", write_study(), "--workers", 0)
    assert done.status == 0
    assert "12/12" in done.out
    assert "│ none " in done.out
    assert done.out.rstrip().endswith("results/quick/report.html\nresults/quick/best.json")
    assert Path("results/quick/report.html").is_file()
    assert json.loads(Path("results/quick/best.json").read_text())["study"] == "quick"
    assert done.err == ""


@pytest.mark.slow
def test_second_launch_reports_finished_and_trains_nothing(finished: Path) -> None:
    before = api.open_study("quick").frame()
    with patch.object(FunctionTrainer, "train", side_effect=AssertionError("trained again")):
        done = run("launch", finished, "--workers", 0)
    assert done.status == 0
    assert done.out.splitlines()[1].startswith("study quick is already finished: all 12 trials")
    assert done.out.count("is already finished") == 1
    assert api.open_study("quick").frame().equals(before)


class Never(LocalExecutor):
    """A queue that is to be given no job."""

    traits: ClassVar[Traits] = Traits("never", max_jobs=2, outlives_parent=True)

    def start(self, spec: JobSpec, count: int) -> Sequence[LocalJob]:
        raise AssertionError("a job was started")


def test_finished_study_submits_no_job(finished: Path) -> None:
    api.launch(finished, executor=Never(), detach=True)
    with pytest.raises(AssertionError, match="was started"):
        api.launch(finished, executor=Never(), detach=True, trials=13)


@pytest.mark.slow
def test_more_trials_continue_a_study(finished: Path) -> None:
    before = api.open_study("quick").frame()
    done = run("launch", finished, "--workers", 0, "--trials", 15)
    after = api.open_study("quick").frame()
    assert done.status == 0
    assert after["number"].tolist() == list(range(15))
    assert after.head(12).equals(before)
    assert run("status", "quick", "--json").json["trials"] == 15


def test_launch_json_is_the_only_stdout(write_study: Write) -> None:
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


def test_dry_run_does_not_change_the_database_file(finished: Path) -> None:
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


def test_dry_run_on_empty_postgresql(write_study: Write, postgresql: str) -> None:
    done = run("launch", write_study(), "--dry-run", "--storage", postgresql)
    assert done.status == 0
    assert "0 ended" in done.out


def test_launch_timeout_can_be_resumed(write_study: Write) -> None:
    text = STUDY.replace("quick.py:train", "quick.py:slow") + (
        "[task.options]\ntrace = 'trace'\npause = 0.1\n"
    )
    path = write_study(text)
    done = run("launch", path, "--workers", 0, "--timeout", 1.5)
    assert done.status == 0
    assert "\nto continue: sweeper launch " in done.out
    assert run("status", "quick", "--json").json["state"] == "unfinished"


def test_study_without_finished_trial_reports_the_cause(write_study: Write) -> None:
    path = write_study(STUDY.replace("quick.py:train", "quick.py:broken"))
    done = run("launch", path, "--workers", 0)
    assert done.status == 1
    assert "5 failed; trial 0: RuntimeError: broken on purpose (sweeper logs quick 0)" in done.out
    assert "study quick has failed" in done.out
    assert "Traceback" in run("logs", "quick", 0).out


def test_dashboard_note_contains_the_result(finished: Path) -> None:
    storage = optuna.storages.RDBStorage(DEFAULT_STORAGE)
    attrs = storage.get_study_system_attrs(storage.get_study_id_from_name("quick"))
    storage.remove_session()
    storage.engine.dispose()
    [note] = [value for key, value in attrs.items() if key.startswith("dashboard:note_str")]
    assert note.startswith("### No recommendation yet\n\nLowest in the search: validation NLL ")
    assert "This value is optimistic" in note


TUNED = """
[study]
name = "tuned"
[task]
use = "tuned.py:train"
[space]
quality = [1.0, 2.0, 3.0]
[budget]
trials = 4
[confirm]
enabled = false
[[first]]
from = "best.json"
[[first]]
epsilon = 0.1
quality = 2.0
"""
LOOP = """
from sweeper import Evaluation
from quick import one_hot, torch

def train(run):
    labels = torch.arange(120) % 12
    quality = run.hparams["quality"] - run.smoothing.epsilon
    yield Evaluation(quality * one_hot(labels, 12), labels, 1.0)
"""


def test_the_best_trial_at_zero_is_the_baseline_that_is_shown(write_study: Write) -> None:
    path = write_study(TUNED, "tuned.toml")
    Path("tuned.py").write_text(LOOP)
    best = {"convention": "others", "epsilon": 0, "schedule": "fixed", "rate": None}
    Path("best.json").write_text(json.dumps({**best, "hparams": {"quality": 3.0}}))
    done = run("launch", path, "--workers", 0)
    assert done.status == 0, done.err
    study = api.open_study("tuned")
    base, frame = study.baseline, study.frame()
    assert base is not None
    assert (base["number"], frame["epsilon"].tolist()[:3]) == (1, [0.0, 0.0, 0.1])
    assert base["value"] == frame["value"].min()
    progress = study.progress()
    assert progress.baseline == progress.best == pytest.approx(base["value"])
    shown = re.search(r"none +│ 0 .*│ +(\d+) │", done.out)
    assert shown is not None
    assert shown[1] == "1"
    exported = json.loads(Path("results/tuned/best.json").read_text())
    assert (exported["trial"], exported["scores"]) == (1, exported["baseline"])
    found = study.report_input()
    assert summarize(found).headline == "Lowest in the search: ε = 0"
    marks = [row.mark for row in trials_table(prepare(found).trials, {"lowest": 1}).rows]
    assert marks[:3] == ["baseline", "lowest, baseline", ""]
    figures = study.figures()
    for name in ("history", "calibrated"):
        assert figures[name].layout.shapes[0].y0 == pytest.approx(base["nll"])


def test_the_results_of_another_database_are_not_overwritten(write_study: Write) -> None:
    path = write_study(STUDY.replace("12", "2"))
    assert run("launch", path, "--workers", 0).status == 0
    before = files()
    other = ("--storage", "other.db", "--workers", 0)
    for arguments in ((), ("--dry-run",), ("--detach",)):
        done = run("launch", path, *other[: -2 if arguments else None], *arguments)
        assert (done.status, done.results) == (2, "")
        assert re.fullmatch(
            r"error: results: results/quick already contains .* --results FOLDER .*\n", done.err
        )
    assert files() == before
    assert run("launch", path, *other, "--results", "elsewhere").status == 0
    for command in ("report", "confirm", "retry", "worker"):
        refused = run(command, "quick", "--storage", "other.db")
        assert refused.status == 2, command
    assert run("report", "quick", "--storage", "other.db", "-o", "one.html").status == 0
    assert Path("results/quick/best.json").read_bytes() == before["results/quick/best.json"]


def test_a_copy_of_a_database_does_not_overwrite_the_results(write_study: Write) -> None:
    path = write_study(STUDY.replace("12", "2"))
    assert run("launch", path, "--workers", 0).status == 0
    assert run("backup", "copy.db").status == 0
    before = Path("results/quick/best.json").read_bytes()
    done = run("launch", path, "--workers", 0, "--trials", 3, "--storage", "copy.db")
    assert done.status == 2
    assert "results: results/quick already contains the results of study" in done.err
    assert Path("results/quick/best.json").read_bytes() == before


def test_a_project_folder_can_be_copied_and_continued(write_study: Write, tmp_path: Path) -> None:
    path = write_study(STUDY.replace("12", "2"))
    assert run("launch", path, "--workers", 0).status == 0
    shutil.copytree(Path.cwd(), tmp_path / "copy")
    os.chdir(tmp_path / "copy")
    assert run("launch", path.name, "--workers", 0, "--trials", 3).status == 0
    assert run("status", "quick", "--json").json["trials"] == 3


@pytest.mark.parametrize(
    ("at", "folder", "message"),
    [
        ("results/quick", False, "results/quick is not a directory"),
        ("results/quick/report.html", True, "results/quick/report.html is a directory; remove it"),
        ("results/quick/best.json", True, "results/quick/best.json is a directory; remove it"),
    ],
)
def test_results_that_cannot_be_written_are_refused_before_training(
    at: str, folder: bool, message: str, write_study: Write
) -> None:
    path = Path(at)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir() if folder else path.write_text("")
    done = run("launch", write_study(STUDY), "--workers", 0)
    assert (done.status, done.results) == (2, "")
    assert done.err == f"error: results: {message}\n"


def test_paths_that_are_too_long_are_one_line(write_study: Write) -> None:
    for arguments in (("x" * 300,), (write_study(STUDY), "--results", "x" * 300)):
        done = run("launch", *arguments, "--workers", 0)
        assert done.status == 2
        assert len(done.err.splitlines()) == 1
        assert "unexpected" not in done.err


def test_an_export_goes_through_links_and_into_pipes(write_study: Write) -> None:
    assert run("launch", write_study(STUDY.replace("12", "2")), "--workers", 0).status == 0
    Path("target").mkdir()
    Path("target/best.json").write_text("old")
    Path("link.json").symlink_to("target/best.json")
    os.mkfifo("pipe")
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit(Path("pipe").read_text)
        assert run("export", "quick", "-o", "pipe").status == 0
        assert json.loads(read.result(30))["study"] == "quick"
    assert run("export", "quick", "-o", "link.json").status == 0
    assert Path("pipe").is_fifo()
    assert Path("link.json").is_symlink()
    assert json.loads(Path("target/best.json").read_text())["study"] == "quick"


def test_results_folder_survives_moved_database_and_relaunch(
    write_study: Write,
) -> None:
    path = write_study(STUDY.replace("12", "2"))
    assert run("launch", path, "--workers", 0).status == 0
    Path("sweeper.db").rename("moved.db")
    assert run("launch", path, "--workers", 0, "--trials", 3, "--storage", "moved.db").status == 0
    assert run("delete", "quick", "--yes", "--storage", "moved.db").status == 0
    done = run("launch", path, "--workers", 0, "--storage", "moved.db")
    assert done.status == 0
    assert "results/quick/best.json" in done.out


def test_chdir_in_a_loop_has_no_effect_outside(write_study: Write) -> None:
    path = write_study(STUDY.replace("12", "3").replace(":train", ":wander"))
    with Path("quick.py").open("a") as file:
        file.write(
            "\ndef wander(run):\n    os.makedirs('away', exist_ok=True)\n    os.chdir('away')\n"
            "    yield from train(run)\n"
        )
    here = Path.cwd()
    done = run("launch", path, "--workers", 0, "--results", "out")
    assert done.status == 0, done.err
    assert Path.cwd() == here
    assert done.out.endswith("out/quick/report.html\nout/quick/best.json\n")
    assert Path("out/quick/best.json").is_file()
    assert {file.name for file in here.glob("away/**/*") if file.is_file()} == set()
    assert run("status", "quick", "--json").json["complete"] >= 1


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


def test_report_writes_to_output_path(finished: Path) -> None:
    done = run("report", "quick", "-o", "a/b [bold] :tram:.html")
    assert done.out == "a/b [bold] :tram:.html\n"
    assert Path("a/b [bold] :tram:.html").read_text().startswith("<!")


def test_report_writes_the_selected_page(finished: Path, tmp_path: Path) -> None:
    done = run("report", "quick", "--page", "schedules", "-o", "one.html")
    assert "should ε be annealed?" in Path(done.out.strip()).read_text()
    mine = '[[panels]]\nfigure = "history"\nheading = "Mine <b>"\noptions = { height = 333 }\n'
    Path("mine.toml").write_text('title = "My page"\n' + mine)
    run("report", "quick", "--page", "mine.toml", "-o", "two.html")
    written = Path("two.html").read_text()
    assert "Mine &lt;b&gt;" in written
    assert "min-height: 333px" in written
    for page, output in (("schedule", "did you mean 'schedules'"), ("no.toml", "No such file")):
        done = run("report", "quick", "--page", page)
        assert (done.status, output in done.err) == (2, True)


def test_export_goes_to_stdout_or_to_a_file(finished: Path) -> None:
    printed = run("export", "quick")
    assert run("export", "quick", "-o", "x/best.json").out == "x/best.json\n"
    written = json.loads(Path("x/best.json").read_text())
    of_their_second = {"created": "", "digest": ""}  # the digest is of the moment too
    assert {**printed.json, **of_their_second} == {**written, **of_their_second}


def test_logs_show_epochs_and_output(finished: Path) -> None:
    output = run("logs", "quick", 0).out
    assert output.startswith("trial 0: complete, ε = 0\n")
    assert "epoch   8" in output
    assert "quick training begins" in output


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


def test_cli_and_store_have_the_same_default_storage() -> None:
    assert options.DEFAULT_STORAGE == DEFAULT_STORAGE


def test_worker_does_not_create_a_database(tmp_path: Path) -> None:
    done = run("worker", "quick", "--storage", "none/sweeper.db")
    assert done.status == 2
    assert "file not found" in done.err
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


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_unencodable_characters_are_replaced(encoding: str, write_study: Write) -> None:
    # A worker prints in the same encoding, and so does the code that it trains.
    path = write_study(STUDY.replace("12", "2"), "ε.toml")
    Path("quick.py").write_text(Path("quick.py").read_text().replace("print(", 'print("é ε",'))
    environment = {**os.environ, "PYTHONIOENCODING": encoding}

    def printed(*arguments: object) -> str:
        done = process(*arguments, env=environment, encoding=encoding)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert "| none" in printed("launch", path, "--workers", 1)
    assert "| study" in printed("status")
    assert "é ε" in Path("results/quick/logs/trials/trial-0.1.log").read_text("utf-8")
    assert ("é ?" if encoding == "latin-1" else "? ?") in printed("logs", "quick", 0)
    best = json.loads(Path("results/quick/best.json").read_text("utf-8"))
    assert json.loads(printed("export", "quick"))["trial"] == best["trial"]
    assert "é" not in printed("schema")


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
def test_color_only_on_color_terminals(in_terminal: Callable[..., str]) -> None:
    assert COLOR.search(in_terminal("launch", "--help"))
    assert not COLOR.search(in_terminal("launch", "--help", NO_COLOR="1"))
    assert not COLOR.search(in_terminal("status", "quick", NO_COLOR="1"))


@pytest.mark.slow
def test_a_terminal_gets_a_live_bar(in_terminal: Callable[..., str]) -> None:
    output = in_terminal("launch", "quick.toml", "--workers", "1", "--trials", "13")
    assert "━" in output
    assert "13/13" in output
    assert COLOR.search(output)


@pytest.mark.slow
def test_no_escape_codes_without_terminal(finished: Path) -> None:
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


def test_light_commands_import_no_heavy_packages() -> None:
    done = run_module("heavy_imports", *SMALL)
    assert json.loads(done.stdout) == {command: [status, []] for command, status in SMALL.items()}


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("sweeper.api.launching", set()),
        ("sweeper.worker.worker", set()),
        ("sweeper.snapshot", {"pandas", "scipy"}),
        ("sweeper.api.write_results", {"pandas", "scipy", "plotly"}),
    ],
)
def test_a_process_imports_only_what_its_work_needs(module: str, heavy: set[str]) -> None:
    command = f"import {module}"
    _, found = json.loads(run_module("heavy_imports", command).stdout)[command]
    assert set(found) == {"optuna", "sqlalchemy", "alembic", *heavy}


@pytest.mark.slow
def test_rarely_used_modules_are_imported_lazily() -> None:
    done = run_module("worker_imports")
    assert (done.stdout, done.stderr) == ("[]\n", "")


# ---- progress ----------------------------------------------------------------------------


def counts(complete: int, **others: Any) -> Progress:
    none: dict[str, Any] = {"pruned": 0, "failed": 0, "waiting": 0, "retried": 0}
    known: dict[str, Any] = {
        "trials": 10,
        "complete": complete,
        "running": 2,
        "best": None,
        "baseline": None,
    }
    return Progress(**{**none, **known, **others})


def test_schedules_without_a_finished_trial_are_listed() -> None:
    states = [(0.0, "fixed", "complete"), (0.1, "fixed", "pruned"), (0.1, "linear", "complete")]
    states += [(0.1, "cosine", "pruned"), (0.2, "cosine", "pruned"), (0.3, "cosine", "failed")]
    trials = pd.DataFrame(states, columns=["epsilon", "schedule", "state"])
    assert list(without_result(trials)) == [
        "cosine: no finished trial (2 pruned, 1 failed)",
        "fixed: no finished trial (1 pruned)",
    ]


def test_progress_line_omits_unknown_values() -> None:
    assert line(counts(0), "", "nll") == "0/10  0 done · 2 running · 0 pruned · 0 failed"
    assert line(counts(3, pruned=1, best=0.12345), "9 s left", "nll") == (
        "4/10  3 done · 2 running · 1 pruned · 0 failed · best NLL 0.123 · 9 s left"
    )
    packed = line(counts(0, running=17, slots=2), "", "nll")
    assert packed == "0/10  0 done · 17 running in packs · 0 pruned · 0 failed"
    assert "packs" not in line(counts(0, running=2, slots=2), "", "nll")
    scaled = line(counts(3, best=0.12345), "", "nll_calibrated")
    assert scaled.endswith("· best NLL scaled 0.123")


def test_remaining_time_uses_only_trials_of_this_launch() -> None:
    clock = RemainingTime()
    with patch(
        "sweeper.study.progress_text.time.monotonic", side_effect=[100.0, 102.0, 700.0, 701.0]
    ):
        assert clock.left(counts(6)) == ""
        assert clock.left(counts(7)) == "6 s left"
        assert clock.left(counts(8)) == "10 min left"
        assert clock.left(counts(10)) == ""


def test_remaining_time_does_not_increase_between_trials() -> None:
    clock = RemainingTime()
    times = [0.0, 10.0, 50.0, 99.5, 1000.0, 1010.0]
    with patch("sweeper.study.progress_text.time.monotonic", side_effect=times):
        found = [clock.left(counts(ended)) for ended in (0, 1, 1, 1, 1, 2)]
    assert found == ["", "90 s left", "50 s left", "", "", "67 min left"]


@pytest.mark.slow
def test_first_ctrl_c_ends_launch_resumably(write_study: Write) -> None:
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
    assert b"\nto continue: sweeper launch " in out
    assert err == b""
