"""Workers that stay, leave and are told to leave; trials that hang, take too long or too much."""

import json
import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

import sweeper
from sweeper.api import Study
from sweeper.cli import main
from sweeper.errors import SweeperError
from sweeper.store.database import Store, open_writer
from sweeper.store.schema import studies
from sweeper.store.studies import get_study
from sweeper.store.tickets import Ticket, ticket_states
from sweeper.study.load import read_study
from sweeper.study.registration import register
from sweeper.worker import leases
from sweeper.worker.leases import GAVE_UP, Pace
from sweeper.worker.stopping import StopRequest
from sweeper.worker.worker import Ended, Terms, work
from tests.support.processes import StartSweeper
from tests.support.studies import steps

Write = Callable[..., Path]
Start = Callable[..., "Worker"]

STUDY = """
[study]
name = "{name}"
[task]
use = "quick.py:{function}"
options = {{ trace = '{trace}', pause = {pause}, hang = {hang} }}
[budget]
trials = {trials}
{rest}
"""


class Worker:
    """A worker as a process of its own, with what it prints."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def tell(self, number: int) -> None:
        self.process.send_signal(number)

    def ends(self, within: float = 60) -> tuple[int, str]:
        output = self.process.communicate(timeout=within)[0]
        return self.process.returncode, output


@pytest.fixture
def start(start_sweeper: StartSweeper) -> Start:
    """Start `sweeper worker` with the given arguments."""

    def worker(*arguments: str, code: str = "") -> Worker:
        return Worker(start_sweeper("worker", *arguments, code=code))

    return worker


@pytest.fixture
def store(storage: str) -> Iterator[Store]:
    opened = open_writer(storage)
    yield opened
    opened.close()


@pytest.fixture
def launch(write_study: Write, store: Store, tmp_path: Path) -> Callable[..., Study]:
    """Register a study whose trials leave a trace, for workers to take up."""

    def registered(
        name: str = "quick",
        function: str = "resumable",
        pause: float = 0.0,
        trials: int = 3,
        rest: str = "",
        hang: float = 600.0,
    ) -> Study:
        trace = tmp_path / "trace"
        text = STUDY.format(**locals())
        file = write_study(text, f"{name}.toml")
        register(store, read_study(file))
        return Study(name, store.url.render_as_string(hide_password=False))

    return registered


def until(condition: Callable[[], bool], worker: Worker) -> None:
    """Look again and again until the condition holds, as long as the worker lives."""
    for _ in range(1500):
        if condition():
            return
        try:
            worker.process.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
        break
    raise AssertionError(f"it did not come to pass; the worker: {worker.process.poll()}")


def at_work(tmp_path: Path, epochs: int = 1) -> bool:
    trace = tmp_path / "trace"
    return trace.exists() and len(trace.read_text().splitlines()) >= epochs


# ---- when workers leave ------------------------------------------------------------------


def test_a_worker_without_a_name_serves_every_study_and_leaves_when_idle(
    launch: Callable[..., Study], store: Store, tmp_path: Path
) -> None:
    older, newer = launch("older"), launch("newer")
    ended = work(store, Terms(results=tmp_path / "r", idle=0.0), StopRequest())
    assert ended is Ended.IDLE
    assert older.finished
    assert newer.finished
    first, last = older.frame()["finished"].max(), newer.frame()["started"].iloc[1:].min()
    assert first <= last


def test_a_worker_leaves_after_the_trials_it_was_given(
    launch: Callable[..., Study], store: Store, tmp_path: Path
) -> None:
    study = launch(trials=5)
    assert work(store, Terms("quick", tmp_path / "r", trials=2), StopRequest()) is Ended.ENOUGH
    assert study.progress().ended == 2


def test_a_study_launched_later_is_taken_up(
    launch: Callable[..., Study], start: Start, tmp_path: Path
) -> None:
    worker = start("--idle", "20")
    study = launch()
    until(lambda: study.progress().ended == 3, worker)
    worker.tell(signal.SIGTERM)
    code, output = worker.ends()
    assert (code, "asked to stop" in output) == (128 + signal.SIGTERM, True), output


def test_detach_leaves_the_work_to_workers(
    write_study: Write, storage: str, tmp_path: Path
) -> None:
    study = sweeper.launch(write_study(), storage=storage, detach=True, results=tmp_path / "r")
    assert study.progress().ended == 0
    assert study.state == "unfinished"
    assert not (tmp_path / "r").exists()
    store = open_writer(storage)
    work(store, Terms("quick", tmp_path / "r"), StopRequest())
    store.close()
    assert study.finished


def test_the_first_sigterm_hands_the_trial_back_with_its_checkpoint(
    launch: Callable[..., Study], start: Start, store: Store, tmp_path: Path
) -> None:
    study = launch(pause=0.3, trials=1)
    worker = start("quick")
    until(lambda: at_work(tmp_path, epochs=2), worker)
    worker.tell(signal.SIGTERM)
    code, output = worker.ends()
    assert (code, output.count("asked to stop")) == (128 + signal.SIGTERM, 1), output
    assert study.progress().running == 0
    assert study.workers() == []
    assert work(store, Terms("quick", tmp_path / "results"), StopRequest()) is Ended.FINISHED
    trained = steps(tmp_path / "trace")
    assert len(trained) == len(set(trained)) == 8
    assert study.progress().retried == 0


def test_a_trial_whose_epoch_outlasts_the_grace_goes_back_too(
    launch: Callable[..., Study], start: Start, store: Store, tmp_path: Path
) -> None:
    study = launch(function="trouble", pause=0.01)
    worker = start("quick", "--grace", "0.5")
    until(lambda: at_work(tmp_path, epochs=2), worker)
    worker.tell(signal.SIGTERM)
    code, output = worker.ends(within=30)
    assert code == GAVE_UP, output
    assert "handed back" in output
    (state, *_) = ticket_states(store, get_study(store, study.name))
    assert (state.leased, state.attempts) == (False, 0)


def test_the_second_sigterm_ends_at_once(
    launch: Callable[..., Study], start: Start, tmp_path: Path
) -> None:
    launch(function="trouble", pause=0.01)
    worker = start("quick")
    until(lambda: at_work(tmp_path, epochs=2), worker)
    worker.tell(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        worker.process.wait(0.5)
    worker.tell(signal.SIGTERM)
    assert worker.process.wait(10) == 128 + signal.SIGTERM


# ---- pause, resume, stop -----------------------------------------------------------------


def test_pause_resume_and_stop_reach_a_running_worker(
    launch: Callable[..., Study],
    start: Start,
    storage: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def say(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["sweeper", *arguments, "--storage", storage])
        with pytest.raises(SystemExit, match=r"^0$"):
            main()
        return capsys.readouterr().out

    study = launch(pause=0.6, trials=2)  # a trial outlasts two looks of its worker
    hold = tmp_path / "trace.hold"  # the trial stays in its first epoch until the pause is said
    hold.touch()
    worker = start("quick")
    until(lambda: at_work(tmp_path), worker)
    assert "paused" in say("pause", "quick")
    hold.unlink()
    until(lambda: study.progress().running == 0, worker)
    assert json.loads(say("status", "quick", "--json"))["state"] == "paused"
    trained = len(steps(tmp_path / "trace"))
    assert study.progress().ended == 0  # it did not wait for the trial's end
    with pytest.raises(subprocess.TimeoutExpired):
        worker.process.wait(2)  # it waits
    assert len(steps(tmp_path / "trace")) == trained
    say("resume", "quick")
    until(lambda: at_work(tmp_path, epochs=trained + 1), worker)
    assert "stopped" in say("stop", "quick")
    code, output = worker.ends()
    assert (code, "the study was stopped" in output) == (0, True), output
    assert study.state == "stopped"
    finished = sweeper.launch(
        tmp_path / "quick.toml", workers=0, storage=storage, results=tmp_path / "results"
    )
    assert finished.state == "finished"
    every = steps(tmp_path / "trace")
    assert len(every) == len(set(every)) == 2 * 8  # handed back with checkpoints, every time


# ---- trials in trouble -------------------------------------------------------------------


def test_a_hung_trial_is_given_up_and_the_attempt_counts(
    launch: Callable[..., Study], start: Start, store: Store, tmp_path: Path
) -> None:
    study = launch(function="trouble")
    quick = "from sweeper.worker import leases\nleases.HUNG_SECONDS = 1.0"
    worker = start("quick", code=quick)
    code, output = worker.ends(within=60)
    assert code == GAVE_UP, output
    assert "hangs: no new epoch" in output
    (state, *_) = ticket_states(store, get_study(store, study.name))
    assert (state.leased, state.attempts) == (False, 1)
    assert work(store, Terms("quick", tmp_path / "results"), StopRequest()) is Ended.FINISHED
    assert set(study.frame()["state"]) == {"complete"}
    assert study.progress().retried == 1


def test_an_epoch_may_take_ten_times_the_median() -> None:
    pace = Pace()
    assert pace.longest == 3600
    for seconds in (1.0, 2.0, 60.0):
        pace.add(seconds)
    assert pace.longest == 300
    for _ in range(101):
        pace.add(40.0)
    assert pace.longest == 400


def test_waiting_for_the_database_is_not_hanging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "FIRST_EPOCH_SECONDS", 0.0)
    monkeypatch.setattr(leases, "HUNG_SECONDS", 0.0)
    monkeypatch.setattr(leases, "HUNG_EPOCHS", 0)
    vigil = leases.Vigil(Ticket(1, "search", 0, None, "w", 1, 1), Pace())
    seen = [vigil.hung]
    for happens in (vigil.epoch_begins, vigil.epoch_ended, vigil.epoch_begins, vigil.rests):
        happens()
        seen.append(vigil.hung)
    assert seen == [False, True, False, True, False]


@pytest.mark.slow
@pytest.mark.parametrize("function", ["slowly", "stuck"])
def test_a_trial_that_takes_too_long_is_recorded_and_not_repeated(
    launch: Callable[..., Study], tmp_path: Path, storage: str, function: str
) -> None:
    # Slowly: it ends itself after an epoch. Stuck: its process is ended, and replaced.
    hang = 3.1 if function == "slowly" else 600.0
    study = launch(function="trouble", pause=0.01, rest="trial_timeout = 3", hang=hang)
    study = sweeper.launch(
        tmp_path / "quick.toml", workers=1, storage=storage, results=tmp_path / "results"
    )
    frame = study.frame()
    assert frame["state"].tolist() == ["failed", "complete", "complete"]
    assert frame["cause"].tolist() == ["timeout", "", ""]
    assert frame["failure"][0] == "it took longer than 3 s (budget.trial_timeout)"
    assert study.progress().retried == 0
    logs = list((tmp_path / "results" / "quick" / "logs").glob("worker-*.log"))
    assert len(logs) == (1 if function == "slowly" else 2)


def test_a_trial_without_memory_says_what_it_asked_for_and_what_there_was(
    launch: Callable[..., Study], store: Store, tmp_path: Path, storage: str
) -> None:
    study = launch(function="greedy")
    work(store, Terms("quick", tmp_path / "r"), StopRequest())
    frame = study.frame()
    assert frame["state"].tolist() == ["failed", "complete", "complete"]
    assert frame["cause"][0] == "memory"
    assert "you tried to allocate 4503599627370496 bytes" in frame["failure"][0]
    assert "GiB free" in frame["failure"][0]
    assert study.progress().retried == 0


# ---- workers that are not like the launch ------------------------------------------------


def say_launched_with(store: Store, package: str, version: str) -> None:
    with store.engine.begin() as connection:
        (spec,) = connection.execute(studies.select().with_only_columns(studies.c.spec)).one()
        kept = json.loads(spec)
        kept["packages"][package] = version
        connection.execute(update(studies).values(spec=json.dumps(kept)))


@pytest.mark.parametrize(
    ("package", "version", "refused"),
    [
        ("torch", "2.12.0+cu130", True),
        ("torch", "2.13.9+cu130", False),
        ("optuna", "4.9.0", True),
        ("optuna", "5.9.0", False),
        ("sweeper", "0.0.9", True),
        ("numpy", "1.0", False),
    ],
)
def test_a_worker_with_other_packages_refuses(
    launch: Callable[..., Study],
    store: Store,
    tmp_path: Path,
    package: str,
    version: str,
    refused: bool,
) -> None:
    study = launch(trials=1)
    say_launched_with(store, package, version)
    if refused:
        with pytest.raises(SweeperError, match=rf"launched with {package} {version[:5]}"):
            work(store, Terms("quick", tmp_path / "r"), StopRequest())
    else:
        work(store, Terms("quick", tmp_path / "r"), StopRequest())
    assert study.progress().ended == (0 if refused else 1)


def test_a_worker_of_all_studies_leaves_the_one_it_refuses_and_serves_the_others(
    launch: Callable[..., Study], store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refused = launch("refused")
    say_launched_with(store, "torch", "1.0")
    served = launch("served")
    with caplog.at_level(logging.WARNING):
        work(store, Terms(results=tmp_path / "r", idle=1.5), StopRequest())
    assert (refused.progress().ended, served.progress().ended) == (0, 3)
    assert caplog.text.count("'refused' was launched with torch 1.0") == 1


def test_a_task_file_that_lies_elsewhere_is_found_in_the_folder_that_is_named(
    launch: Callable[..., Study], store: Store, tmp_path: Path
) -> None:
    study = launch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "quick.py").rename(elsewhere / "quick.py")
    with pytest.raises(SweeperError, match=r"quick\.py is not on this machine.*--folder"):
        work(store, Terms("quick", tmp_path / "r"), StopRequest())
    work(store, Terms("quick", tmp_path / "r", folder=elsewhere), StopRequest())
    assert study.finished
