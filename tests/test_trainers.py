"""Training functions that do unusual things to their process, each in a process of its own."""

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import psutil
import pytest
import torch

import sweeper
from sweeper.api import Study
from sweeper.errors import SweeperError
from sweeper.smoothing import Smoothing
from sweeper.store.database import Store, open_writer
from sweeper.store.studies import get_study
from sweeper.store.tickets import ticket_states
from sweeper.study.load import read_stored, read_study
from sweeper.study.registration import register
from sweeper.trainers.client import Zygote
from sweeper.training.messages import Reply, Report, Start
from sweeper.training.run import TrainingRun
from sweeper.worker import worker
from sweeper.worker.attempt import signal_name
from sweeper.worker.code import loaded_code, train_once
from sweeper.worker.search import SearchTrial
from sweeper.worker.served_studies import EndReason, WorkerOptions
from sweeper.worker.stopping import StopRequest
from sweeper.worker.worker import work
from tests.support.processes import StartSweeper
from tests.support.studies import copy_task

pytestmark = pytest.mark.slow

STUDY = """
[study]
name = "{name}"
[task]
use = "unruly.py:{function}"
options = {{ mark = "{folder}/mark" }}
[budget]
trials = {trials}
{rest}
[sampler]
name = "random"
[pruner]
name = "none"
[confirm]
enabled = false
"""
STUDY_OF_QUICK = """
[study]
name = "quick"
[task]
use = "quick.py:train"
[budget]
trials = 24
[sampler]
name = "random"
[pruner]
name = "none"
[confirm]
enabled = false
"""
MARK = "SWEEPER_TEST_MARK"
Train = Callable[..., pd.DataFrame]
StartWorker = Callable[..., subprocess.Popen[str]]


@pytest.fixture(params=[1, 3])
def slots(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """Mark the programs that the test starts; neither they nor trainers may be left."""
    monkeypatch.setenv(MARK, str(tmp_path))
    yield str(tmp_path)
    assert psutil.wait_procs(left_behind(str(tmp_path)), timeout=5)[1] == []


def left_behind(mark: str) -> list[psutil.Process]:
    """Return the marked programs, and what is below the zygote of this process."""
    zygotes = [child for child in psutil.Process().children() if is_server(child)]
    below = {process for zygote in zygotes for process in zygote.children(recursive=True)}
    return [*below, *(set(marked_processes(mark)) - {psutil.Process(), *zygotes})]


def lives(process: psutil.Process) -> bool:
    """Return whether a process runs: one that has ended, and waits to be reaped, does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_server(process: psutil.Process) -> bool:
    """Return whether it is the zygote of this process, or was forked from it."""
    return "sweeper.trainers.server" in process.cmdline()


def marked_processes(mark: str) -> list[psutil.Process]:
    """Return the processes with the mark in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and lives(process):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def registered(store: Store, tmp_path: Path) -> Callable[..., str]:
    """Return a function that registers a study of a function of tests/tasks/unruly.py."""
    copy_task(tmp_path, "unruly.py")

    def register_one(function: str, trials: int = 4, rest: str = "", name: str = "x") -> str:
        file = tmp_path / f"{name}.toml"
        text = STUDY.format(name=name, function=function, folder=tmp_path, trials=trials, rest=rest)
        file.write_text(text)
        register(store, read_study(file))
        return name

    return register_one


@pytest.fixture
def train(
    registered: Callable[..., str], store: Store, storage: str, tmp_path: Path, slots: int
) -> Train:
    """Return a function that runs a study in trainer processes, and returns its trials."""

    def trained(function: str, trials: int = 4, rest: str = "", grace: float = 5.0) -> pd.DataFrame:
        name = registered(function, trials, rest)
        ended = work(store, options(name, tmp_path, slots), StopRequest(grace=grace))
        assert ended is EndReason.FINISHED
        return Study(name, storage).frame()

    return trained


def options(name: str | None, folder: Path, slots: int) -> WorkerOptions:
    return WorkerOptions(name, folder / "results", slots=slots)


def register_exiting(store: Store, folder: Path, trials: int, rest: str, space: str) -> None:
    """Register study x of the task in tests/tasks/exiting.py."""
    copy_task(folder, "exiting.py")
    text = STUDY.format(name="x", function="task", folder=folder, trials=trials, rest=rest)
    text = text.replace("unruly.py", "exiting.py").replace("options", "# options")
    (folder / "x.toml").write_text(f"{text}[space]\n{space}\n")
    register(store, read_study(folder / "x.toml"))


def log(storage: str, trial: int = 0) -> str:
    study = Study("x", storage)
    try:
        return study.log(trial)
    finally:
        study.close()


# ---- what works as in any program ----------------------------------------------------------


@pytest.mark.usefixtures("marked")
@pytest.mark.parametrize(
    ("function", "printed"),
    [
        (
            "streams",
            ["from a child", "through the buffer", "to stderr", "to the descriptor", "from C"],
        ),
        ("closes_stdout", ["before"]),
        ("pool", [f"{method} [0, 1, 4, 9]" for method in ("fork", "spawn", "forkserver")]),
        ("loader", [f"{method} 6.0" for method in ("fork", "spawn", "forkserver")]),
        ("leaves_processes", []),
        ("changes_folder", []),
        ("handles_signals", []),
        ("pushes", []),
        ("returns_something", []),
    ],
)
def test_training_function_may_fork_exit_and_set_defaults(
    train: Train, storage: str, function: str, printed: list[str]
) -> None:
    frame = train(function, trials=3)
    assert frame["state"].tolist() == ["complete"] * 3, frame["failure"].tolist()
    assert frame["epochs"].tolist() == [4] * 3
    text = log(storage)
    assert [line for line in printed if line not in text] == []


def test_full_disk_loses_output_but_no_trial(store: Store, storage: str, tmp_path: Path) -> None:
    copy_task(tmp_path)
    file = tmp_path / "quick.toml"
    file.write_text(STUDY_OF_QUICK.replace('"quick"', '"x"'))
    register(store, read_study(file, trials=2))
    logs = tmp_path / "results" / "x" / "logs" / "trials"
    logs.mkdir(parents=True)
    (logs / "trial-0.1.log").symlink_to("/dev/full")
    assert work(store, options("x", tmp_path, 1), StopRequest()) is EndReason.FINISHED
    frame = Study("x", storage).frame()
    assert frame["state"].tolist() == ["complete"] * 2, frame["failure"].tolist()
    assert ["training begins" in log(storage, number) for number in (0, 1)] == [False, True]


@pytest.mark.usefixtures("marked")
def test_atexit_functions_are_called(train: Train, tmp_path: Path) -> None:
    train("exits_late", trials=1)
    assert (tmp_path / "mark").read_text() == "called at the end"


def test_trials_do_not_share_process_state(
    registered: Callable[..., str], store: Store, storage: str, tmp_path: Path, slots: int
) -> None:
    """Trials of two studies of one worker are those that each study has alone, to the last bit."""

    def values(name: str) -> list[float]:
        return Study(name, storage).frame()["value"].tolist()

    for name in ("alone", "x"):
        registered("no_gradients", name=name)
    registered("usual", name="y")
    assert work(store, options("alone", tmp_path, 1), StopRequest()) is EndReason.FINISHED
    both = WorkerOptions(None, tmp_path / "results", idle=0.0, slots=slots)
    assert work(store, both, StopRequest()) is EndReason.IDLE
    assert values("x") == values("y") == values("alone")
    assert len(set(values("x"))) == 4


# ---- ends ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("marked")
@pytest.mark.parametrize(
    ("function", "rest", "cause", "failure"),
    [
        ("exits_0", "", "exited", "exited with status 0"),
        ("exits_1", "", "exited", "exited with status 1"),
        ("sys_exits", "", "raised", "SystemExit: no more"),
        ("interrupts", "", "raised", "KeyboardInterrupt"),
        ("crashes", "", "crashed", "crashed 2 times with SIGSEGV"),
        ("is_killed", "", "lost", "died or hung 5 times"),
        ("uses_memory", "[resources]\nmemory = 0.75", "memory", "more than 0.75 GiB of memory"),
        ("never_reports", "trial_timeout = 2.5", "timeout", "longer than 2.5 s"),
        ("bad_loader", "", "raised", "row 0 is not readable"),
    ],
)
def test_crashed_trainer_affects_only_its_trial(
    train: Train, storage: str, function: str, rest: str, cause: str, failure: str
) -> None:
    frame = train(function, rest=rest)
    bad = [0, 1, 2, 3] if function == "bad_loader" else [0]
    assert frame.loc[frame["state"] == "failed", "number"].tolist() == bad
    assert frame["cause"][0] == cause
    assert failure in log(storage)


@pytest.mark.usefixtures("marked")
@pytest.mark.parametrize(
    ("function", "line"),
    [("exits_0", "leaving"), ("crashes", "error: device lost"), ("is_killed", "device lost")],
)
def test_last_output_of_a_trainer_is_stored(
    train: Train, storage: str, function: str, line: str
) -> None:
    train(function, trials=1)
    assert line in log(storage)


@pytest.mark.usefixtures("marked")
def test_external_signal_counts_as_crash_unless_worker_stops(
    train: Train, store: Store, storage: str
) -> None:
    frame = train("is_terminated", trials=2)
    assert frame["state"].tolist() == ["complete"] * 2
    assert Study("x", storage).progress().retried == 1


@pytest.mark.usefixtures("marked")
def test_waiting_for_the_database_is_not_a_hang(
    train: Train, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.worker.epoch_durations.HUNG_SECONDS", 0.7)

    def interrupt() -> float:
        with closing(sqlite3.connect(storage.removeprefix("sqlite:///"))) as database:
            while not database.execute("select count(*) from sweeper_epochs").fetchone()[0]:
                pass
            database.execute("begin exclusive")
            began = time.monotonic()
            time.sleep(2)  # the outage
            database.rollback()
            return time.monotonic() - began

    with ThreadPoolExecutor(1) as threads:
        seconds = threads.submit(interrupt)
        frame = train("slowly", trials=3)
    assert seconds.result() >= 2
    assert frame["state"].tolist() == ["complete"] * 3
    assert Study("x", storage).progress().retried == 0


@pytest.mark.usefixtures("marked")
def test_kill_during_report_counts_as_attempt(train: Train, storage: str) -> None:
    frame = train("killed_in_report", trials=3)
    assert frame["state"].tolist() == ["complete"] * 3
    assert frame["epochs"].tolist() == [4] * 3
    assert Study("x", storage).progress().retried == 3


@pytest.mark.usefixtures("marked")
def test_a_forked_child_of_a_trainer_is_not_the_trial(train: Train, store: Store) -> None:
    frame = train("forks", trials=2)
    assert frame["state"].tolist() == ["complete"] * 2
    assert frame["epochs"].tolist() == [4] * 2


@pytest.mark.usefixtures("marked")
@pytest.mark.parametrize(
    ("what", "rest", "cause"),
    [
        ("exits", "pack = 4", "exited"),
        ("hangs", "pack = 4\ntrial_timeout = 1.5", "timeout"),
        ("hangs", "pack = 'off'\ntrial_timeout = 1.5", "timeout"),
        ("hangs", "trial_timeout = 1.5", "timeout"),
    ],
)
def test_trial_that_ends_its_pack_process_affects_no_other_trial(
    store: Store, storage: str, tmp_path: Path, what: str, rest: str, cause: str
) -> None:
    register_exiting(store, tmp_path, 8, rest, f"{what} = [0, 1]")
    assert work(store, options("x", tmp_path, 1), StopRequest()) is EndReason.FINISHED
    frame = Study("x", storage).frame()
    assert set(frame[f"hp_{what}"]) == {0, 1}
    ended = frame["state"].where(frame["state"] != "failed", frame["cause"])
    assert ended.tolist() == [cause if bad else "complete" for bad in frame[f"hp_{what}"]]


@pytest.mark.timeout(120)
def test_prepared_trial_survives_end_of_trainer(
    store: Store, storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each trial ends its process in its last epoch, when the next one has been prepared."""
    monkeypatch.setattr(worker, "MAX_SAME_FAILURES", 100)
    register_exiting(store, tmp_path, 7, "pack = 'off'", "exits = [2, 3]")
    assert work(store, options("x", tmp_path, 4), StopRequest()) is EndReason.FINISHED
    frame = Study("x", storage).frame()
    assert frame["number"].tolist() == list(range(7))
    assert frame["cause"].tolist() == ["exited"] * 7
    assert Study("x", storage).progress().retried == 0


def test_single_training_run_has_study_limits(
    registered: Callable[..., str], store: Store, tmp_path: Path
) -> None:
    """As `replay` and `verify` do it."""
    record = get_study(store, registered("never_reports", rest="trial_timeout = 1.5"))
    stored = read_stored(record)
    start = Start("once", (0.0, "fixed", None), seed=0, data_seed=0)
    with loaded_code(stored, tmp_path) as code:
        ending = train_once(code, start, lambda _: Reply(), stored.spec)
    assert (ending.state, ending.cause) == ("failed", "timeout")
    assert "longer than 1.5 s" in ending.failure


# ---- output --------------------------------------------------------------------------------


@pytest.mark.usefixtures("marked")
def test_output_of_every_attempt_is_stored(train: Train, storage: str) -> None:
    train("is_killed", trials=1)
    text = log(storage)
    assert [f"attempt {number}:" in text for number in range(1, 7)] == [True] * 5 + [False]
    assert text.count("error: device lost") == 5


def test_long_output_is_truncated_and_its_end_stored(
    train: Train, storage: str, tmp_path: Path
) -> None:
    train("prints_much", trials=1)
    (file,) = (tmp_path / "results" / "x" / "logs" / "trials").glob("trial-0.1.log")
    assert 0 < file.stat().st_size <= 10 * 2**20
    text = log(storage)
    assert "the last line" in text
    assert len(text) < 70_000


@pytest.mark.usefixtures("marked")
@pytest.mark.parametrize("function", ["prints_last", "removes_output"])
def test_final_output_is_stored(train: Train, storage: str, function: str) -> None:
    train(function, trials=1)
    last = "the last line" if function == "prints_last" else "line of epoch 4"
    assert last in log(storage)


@pytest.mark.chaos
def test_unwritable_output_does_not_fail_trials(
    registered: Callable[..., str], start: StartWorker, storage: str, tmp_path: Path
) -> None:
    registered("streams", trials=2)
    logs = tmp_path / "results" / "x" / "logs"
    logs.mkdir(parents=True)
    (logs / "trials").write_text("not a folder")
    message = start().communicate(timeout=60)[0]
    assert "the output of training runs cannot be saved" in message
    assert "through the buffer" in message
    assert Study("x", storage).frame()["state"].tolist() == ["complete"] * 2


def test_a_trial_that_prints_nothing_leaves_no_file(train: Train, tmp_path: Path) -> None:
    train("usual", trials=2)
    assert list((tmp_path / "results" / "x" / "logs" / "trials").iterdir()) == []


@pytest.mark.chaos
def test_the_log_of_a_running_trial_is_followed_to_its_end(
    registered: Callable[..., str], start: StartWorker, storage: str
) -> None:
    registered("prints_and_waits", trials=1)
    process = start()
    study = Study("x", storage)
    while not study.epochs()["epoch"].size:
        assert process.poll() is None
    texts = []
    for text in study.follow_log(0, seconds=0.05):
        texts.append(text)
        if "line of epoch 1" in "".join(texts):
            Path(text_file(study)).touch()
    assert process.wait(60) == 0
    found = "".join(texts)
    assert "line of epoch 1" in texts[0]
    assert [found.count(f"line of epoch {epoch}") for epoch in (1, 2, 3, 4)] == [1] * 4
    study.close()


@pytest.mark.chaos
def test_a_training_run_has_the_threads_of_its_study_and_the_environment_of_its_user(
    registered: Callable[..., str],
    start: StartWorker,
    storage: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A command that another test ran in this process may have left the second one.
    for name in ("OMP_NUM_THREADS", "SWEEPER_THREADS_SET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    registered("prints_threads", trials=1)
    process = start()
    assert process.wait(60) == 0
    assert "[None, '3', None] 1" in log(storage)


def text_file(study: Study) -> str:
    mark: str = study.spec.task.options["mark"]
    return mark


def test_every_signal_has_a_name() -> None:
    """A trainer may be ended by any of them; real-time signals have numbers alone."""
    assert [signal_name(number) for number in (9, 40)] == ["SIGKILL", "signal 40"]


# ---- a fork that is not safe ----------------------------------------------------------------


@pytest.mark.usefixtures("marked")
def test_unsafe_fork_reuses_the_process_until_a_failure(
    registered: Callable[..., str],
    store: Store,
    storage: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    copy_task(tmp_path, "threaded.py")
    file = tmp_path / "x.toml"
    text = STUDY.format(name="x", function="train", folder=tmp_path, trials=5, rest="")
    file.write_text(text.replace("unruly.py", "threaded.py"))
    register(store, read_study(file))
    assert work(store, options("x", tmp_path, 1), StopRequest()) is EndReason.FINISHED
    assert "has started 1 threads, so its training runs cannot be forked" in caplog.text
    states = Study("x", storage).frame()["state"].tolist()
    assert states == ["complete", "complete", "failed", "complete", "complete"]
    lines = [line.split() for line in (tmp_path / "mark").read_text().splitlines()]
    assert [number for _, number, _ in lines] == ["1", "2", "3", "1", "2"]
    assert len({process for process, _, _ in lines}) == 2
    # Their processes have imported the file themselves: its thread runs there.
    assert {threads for _, _, threads in lines} == {"2"}


@pytest.mark.usefixtures("marked")
def test_hanging_run_is_killed_without_fork(store: Store, storage: str, tmp_path: Path) -> None:
    copy_task(tmp_path, "threaded.py")
    file = tmp_path / "x.toml"
    rest = "trial_timeout = 1.5"
    text = STUDY.format(name="x", function="train", folder=tmp_path, trials=2, rest=rest)
    file.write_text(text.replace("unruly.py", "threaded.py").replace("mark =", "hangs = 1, mark ="))
    register(store, read_study(file))
    assert work(store, options("x", tmp_path, 1), StopRequest()) is EndReason.FINISHED
    assert Study("x", storage).frame()["cause"].tolist() == ["timeout"] * 2


# ---- reports -------------------------------------------------------------------------------


@pytest.mark.usefixtures("marked")
@pytest.mark.parametrize("why", ["pruned", "released"])
def test_function_that_ignores_a_stop_is_killed_and_recorded(
    registered: Callable[..., str], store: Store, storage: str, tmp_path: Path, slots: int, why: str
) -> None:
    name = registered("ignores_stop", trials=1)
    mark = tmp_path / "mark"

    class Pruned(SearchTrial):
        def on_report(self, report: Report) -> Reply:
            super().on_report(report)
            return Reply("prune" if report.number == 2 else "continue")

    class StopLater(StopRequest):
        def __bool__(self) -> bool:
            if why == "released" and len(Study(name, storage).epochs()) >= 2:
                self._request()
            return super().__bool__()

    with patch.object(worker, "SearchTrial", Pruned if why == "pruned" else SearchTrial):
        ended = work(store, options(name, tmp_path, slots), StopLater(grace=0.5))
    exceptions = set(mark.read_text().split())
    if why == "pruned":
        assert (ended, exceptions) == (EndReason.FINISHED, {"TrialPruned"})
        assert Study(name, storage).frame()["state"].tolist() == ["pruned"]
    else:
        assert (ended, exceptions) == (EndReason.STOPPED, {"TrialReleased"})
        (state,) = ticket_states(store, get_study(store, name))
        assert (state.closed, state.leased, state.attempts) == (False, False, 0)


def test_report_outside_a_trial_is_an_error() -> None:
    run = TrainingRun(Smoothing(0.1), seed=0, data_seed=0)
    with pytest.raises(SweeperError, match="this TrainingRun was created manually"):
        run.report(torch.eye(3), torch.arange(3), progress=1.0)
    with pytest.raises(SweeperError, match="training functions and scripts that sweeper"):
        sweeper.current_run()


# ---- files beside the study ----------------------------------------------------------------


def test_study_files_do_not_shadow_installed_modules(train: Train, tmp_path: Path) -> None:
    for name in ("types", "sweeper", "random", "torch"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('imported')\n")
    assert train("loader", trials=1)["state"].tolist() == ["complete"]


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("types.py", "", "types.py: the file hides the module 'types'"),
        ("torch.py", "", "torch.py: the file hides the module 'torch'"),
        ("own.py", "from .helper import x", "own.py:1: ImportError: attempted relative import"),
        (
            "own.py",
            "import argparse\np = argparse.ArgumentParser()\np.add_argument('x')\np.parse_args()",
            "own.py:4: SystemExit: 2; the file exits when it is imported",
        ),
        ("own.py", "import os\nos._exit(3)", "the process that imported the code ended"),
    ],
)
def test_import_failure_names_the_file(tmp_path: Path, name: str, code: str, message: str) -> None:
    (tmp_path / name).write_text(code + "\ndef train(run):\n    yield\n")
    file = tmp_path / "own.toml"
    file.write_text(f'[study]\nname = "x"\n[task]\nuse = "{name}:train"\n')
    with pytest.raises(SweeperError) as caught:
        read_study(file)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


# ---- kills ---------------------------------------------------------------------------------


def test_killed_import_is_retried_once(store: Store, tmp_path: Path) -> None:
    """By the launch as by the worker."""
    imports = tmp_path / "imports"
    (tmp_path / "own.py").write_text(
        "import os, signal\n"
        f"with open({str(imports)!r}, 'a') as file:\n"
        "    file.write('x')\n"
        f"if os.stat({str(imports)!r}).st_size % 2:\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "from quick import train\n"
    )
    copy_task(tmp_path)
    file = tmp_path / "own.toml"
    file.write_text(STUDY_OF_QUICK.replace('"quick"', '"x"').replace("quick.py", "own.py"))
    register(store, read_study(file, trials=1))
    assert imports.read_text() == "xx"
    assert work(store, options("x", tmp_path, 1), StopRequest()) is EndReason.FINISHED
    assert imports.read_text() == "xxxx"


def test_a_zygote_that_was_killed_can_be_closed() -> None:
    before = psutil.Process().children()
    zygote = Zygote()
    [process] = set(psutil.Process().children()) - set(before)
    process.kill()
    while zygote.alive:
        pass
    zygote.close()
    assert not process.is_running()


@pytest.fixture
def start(start_sweeper: StartSweeper, slots: int, marked: str) -> StartWorker:
    """Return a function that starts a worker of study x as a process."""
    assert marked
    return partial(start_sweeper, "worker", "x", "--slots", slots, "--grace", 1)


def until_there(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a file is there, as long as a process lives."""
    while not path.exists():
        assert process.poll() is None
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.02)


def family(worker: int) -> dict[str, psutil.Process]:
    """Return a process of each kind below a worker, and the worker."""
    found = {"worker": psutil.Process(worker)}
    for parent, kind in zip(
        ("worker", "zygote", "server", "keeper", "trainer"),
        ("zygote", "server", "keeper", "trainer", "grandchild"),
        strict=True,
    ):
        found[kind] = next(
            child for child in found[parent].children() if kind != "keeper" or child.children()
        )
    return found


@pytest.mark.chaos
@pytest.mark.parametrize(
    "victim", ["worker", "zygote", "server", "keeper", "trainer", "grandchild"]
)
def test_kill_leaves_no_process_and_exact_budget(
    registered: Callable[..., str],
    start: StartWorker,
    storage: str,
    tmp_path: Path,
    victim: str,
) -> None:
    registered("with_child")
    process = start()
    until_there(tmp_path / "mark", process)
    family(process.pid)[victim].kill()
    output = process.communicate(timeout=60)[0]
    if victim == "worker":
        assert psutil.wait_procs(left_behind(str(tmp_path)), timeout=10)[1] == []
        output = start().communicate(timeout=60)[0]
    study = Study("x", storage)
    assert study.finished, output
    frame = study.frame()
    assert frame["number"].tolist() == list(range(4))
    assert frame["state"].tolist() == ["complete"] * 4
    assert study.epochs().groupby("number").size().tolist() == [10] * 4
    assert study.progress().retried <= (0 if victim in ("zygote", "grandchild") else 3)
    study.close()


@pytest.mark.chaos
def test_a_frozen_keeper_is_killed_when_the_worker_stops(
    registered: Callable[..., str],
    start: StartWorker,
    storage: str,
    tmp_path: Path,
) -> None:
    registered("with_child")
    process = start()
    until_there(tmp_path / "mark", process)
    family(process.pid)["keeper"].suspend()
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + signal.SIGTERM, output
    assert psutil.wait_procs(left_behind(str(tmp_path)), timeout=10)[1] == []
    study = Study("x", storage)
    assert study.progress().running == study.progress().retried == 0
    study.close()


@pytest.mark.chaos
def test_a_signal_to_all_processes_at_once_releases_the_trials(
    registered: Callable[..., str],
    start: StartWorker,
    storage: str,
    tmp_path: Path,
) -> None:
    registered("with_child")
    process = start()
    until_there(tmp_path / "mark", process)
    for each in left_behind(str(tmp_path)):
        with suppress(psutil.NoSuchProcess):
            each.terminate()
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + signal.SIGTERM, output
    study = Study("x", storage)
    assert study.progress().running == study.progress().retried == 0
    assert start().wait(60) == 0
    assert study.frame()["state"].tolist() == ["complete"] * 4
    assert study.progress().retried == 0
    study.close()


@pytest.mark.chaos
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_a_loop_waits_for_a_child_releases_its_trial(
    registered: Callable[..., str],
    start: StartWorker,
    storage: str,
    tmp_path: Path,
    number: int,
) -> None:
    registered("waits_for_child", trials=1)
    process = start()
    until_there(tmp_path / "mark", process)
    os.killpg(process.pid, number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + number, output
    study = Study("x", storage)
    assert study.progress().retried == study.progress().running == 0
    assert start().wait(60) == 0
    assert study.frame()["state"].tolist() == ["complete"]
    assert study.progress().retried == 0  # the attempt that was interrupted did not count
    study.close()


@pytest.mark.chaos
@pytest.mark.parametrize("where", ["import", "model"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_worker_ends_though_the_code_of_its_study_hangs(
    store: Store, start: StartWorker, tmp_path: Path, where: str, number: int
) -> None:
    copy_task(tmp_path, "hanging.py")
    file = tmp_path / "x.toml"
    text = STUDY.format(name="x", function="task", folder=tmp_path, trials=8, rest="")
    file.write_text(text.replace("unruly.py", "hanging.py").replace("options", "# options"))
    register(store, read_study(file))
    (tmp_path / "hang").write_text(where)
    process = start()
    until_there(tmp_path / "mark", process)
    process.send_signal(number)
    output = process.communicate(timeout=30)[0]
    assert process.returncode == (128 + number if number == signal.SIGTERM else -number), output
    assert psutil.wait_procs(left_behind(str(tmp_path)), timeout=10)[1] == []


# ---- many slots ----------------------------------------------------------------------------


class EightSlots:
    """One test for each database."""

    @pytest.fixture
    def url(self) -> str:
        raise NotImplementedError

    def test_eight_slots_keep_the_budget_exact(self, url: str, tmp_path: Path) -> None:
        copy_task(tmp_path, "quick.py")
        file = tmp_path / "quick.toml"
        file.write_text(STUDY_OF_QUICK)
        store = open_writer(url)
        record = register(store, read_study(file))
        assert work(store, options("quick", tmp_path, 8), StopRequest()) is EndReason.FINISHED
        states = ticket_states(store, record)
        assert [(s.closed, s.attempts) for s in states] == [(True, 1)] * 24
        study = Study("quick", url)
        frame, epochs = study.frame(), study.epochs()
        assert frame["number"].tolist() == list(range(24))
        assert sorted(frame["ticket"]) == list(range(24))
        assert set(frame["state"]) == {"complete"}
        assert epochs.groupby("number")["epoch"].apply(list).tolist() == [list(range(1, 9))] * 24
        study.close()
        store.close()


class TestEightSlotsOnSqlite(EightSlots):
    @pytest.fixture
    def url(self, storage: str) -> str:
        return storage


class TestEightSlotsOnPostgresql(EightSlots):
    @pytest.fixture
    def url(self, postgresql: str) -> str:
        return postgresql


class TestEightSlotsOnMysql(EightSlots):
    @pytest.fixture
    def url(self, mysql: str) -> str:
        return mysql
