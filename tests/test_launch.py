"""Launches for real: worker processes that are killed, interrupted and launched again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import psutil
import pytest

import sweeper
from sweeper.api import Study
from sweeper.errors import SweeperError
from sweeper.executors import JobSpec
from sweeper.executors.base import Traits
from sweeper.executors.local import LocalExecutor, LocalJob
from sweeper.study.progress import Progress
from sweeper.worker import launcher
from tests.support.launches import SLOW, check_exact, wait_until
from tests.support.processes import StartSweeper

Write = Callable[..., Path]
Start = Callable[..., subprocess.Popen[str]]
pytestmark = pytest.mark.chaos


@pytest.fixture
def slow(write_study: Write, tmp_path: Path) -> Path:
    return write_study(SLOW.format(trace=tmp_path / "trace"), "slow.toml")


@pytest.fixture
def start(slow: Path, start_sweeper: StartSweeper) -> Start:
    """Start `sweeper launch` as a process."""
    return partial(start_sweeper, "launch", slow, "--workers", 2)


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children()
    return [child for child in children if "worker" in child.cmdline()]


def test_killed_launcher_leaves_no_process_and_study_resumes(
    start: Start, storage: str, tmp_path: Path
) -> None:
    first = start()
    study = wait_until(first, storage, 6)
    workers = workers_of(first)
    assert len(workers) == 1
    first.send_signal(signal.SIGKILL)
    first.wait()
    second = start()
    output = second.communicate(timeout=120)[0]
    assert second.returncode == 0, output
    assert not any(worker.is_running() for worker in workers)
    assert study.finished
    check_exact(study, tmp_path, again=2)
    assert (tmp_path / "results" / "slow" / "report.html").is_file()


def test_relaunch_after_total_kill_does_not_wait_for_leases(
    start: Start, storage: str, tmp_path: Path
) -> None:
    first = start()
    study = wait_until(first, storage, 6)
    processes = [psutil.Process(first.pid), *workers_of(first)]
    while True:  # all slots may have been between two trials
        for process in processes:
            process.suspend()  # so that no worker hands back what the launcher's death tells it to
        if study.progress().running:
            break
        for process in processes:
            process.resume()
    for process in processes:
        process.kill()
    first.communicate()
    second = start()
    output = second.communicate(timeout=120)[0]
    assert second.returncode == 0, output
    check_exact(study, tmp_path, again=2)


def test_killed_worker_is_replaced_and_its_trial_resumes(
    start: Start, storage: str, tmp_path: Path
) -> None:
    process = start()
    study = wait_until(process, storage, 4)
    workers_of(process)[0].kill()
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    check_exact(study, tmp_path, again=2)


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [("own_server", 0), ("own_server", 60), ("own_mysql_server", 20)],
)
def test_server_restart_loses_no_result(
    start: Start, request: pytest.FixtureRequest, tmp_path: Path, kind: str, seconds: float
) -> None:
    own_server = request.getfixturevalue(kind)
    process = start(url=own_server.url)
    study = wait_until(process, own_server.url, 5)
    while len(study.workers()) < 2:  # trials that run
        assert process.poll() is None
    own_server.stop()
    time.sleep(seconds)  # the outage
    own_server.start()
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    assert len(list((tmp_path / "results" / "slow" / "logs").glob("worker-*.log"))) == 1
    check_exact(study, tmp_path, again=2)
    study.close()


def test_ctrl_c_releases_trials_and_launch_resumes(
    start: Start, storage: str, tmp_path: Path
) -> None:
    first = start()
    study = wait_until(first, storage, 5)
    first.send_signal(signal.SIGINT)
    output = first.communicate(timeout=60)[0]
    assert first.returncode == 130, output
    assert "\nto continue: sweeper launch " in output
    counts = study.progress()
    assert counts.running == 0
    assert counts.ended < 24
    assert counts.retried == 0
    second = start()
    assert second.wait(120) == 0
    check_exact(study, tmp_path, again=2)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupt_in_a_notebook_is_raised_when_trials_are_released(
    workers: int, write_study: Write, storage: str, tmp_path: Path
) -> None:
    # As a notebook's stop button does. Without workers the loop is in this process.
    path = write_study(SLOW.format(trace=tmp_path / "trace"), "slow.toml")
    if workers == 0:
        with (tmp_path / "quick.py").open("a") as file:
            file.write(INTERRUPTED)
        path.write_text(path.read_text().replace("quick.py:slow", "quick.py:interrupted"))
    asked: list[Progress] = []

    def interrupt(counts: Progress) -> None:
        if workers and counts.ended and not asked:
            asked.append(counts)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        sweeper.launch(
            path, workers=workers, storage=storage, results=tmp_path, on_progress=interrupt
        )
    found = Study("slow", storage).progress()
    assert (found.running, found.failed) == (0, 0)
    assert found.ended < 24
    assert (tmp_path / "slow" / "report.html").is_file()
    assert own_workers() == []


INTERRUPTED = """

def interrupted(run):
    import signal
    for number, evaluation in enumerate(slow(run)):
        if number == 2 and run.smoothing.epsilon > 0:
            os.kill(os.getpid(), signal.SIGINT)
        yield evaluation
"""


def test_sigterm_to_a_launch_acts_as_ctrl_c(start: Start, storage: str, tmp_path: Path) -> None:
    first = start()
    study = wait_until(first, storage, 3)
    first.send_signal(signal.SIGTERM)
    output = first.communicate(timeout=60)[0]
    assert first.returncode == 128 + signal.SIGTERM, output
    assert "\nto continue: sweeper launch " in output
    assert (study.progress().running, study.progress().retried) == (0, 0)
    assert (tmp_path / "results" / "slow" / "report.html").is_file()
    study.close()


def test_two_launches_at_once_share_one_exact_study(
    start: Start, storage: str, tmp_path: Path
) -> None:
    both = [start(), start()]
    outputs = [process.communicate(timeout=180)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    check_exact(Study("slow", storage), tmp_path, again=0)


def running(study: Study, workers: list[psutil.Process]) -> bool:
    """Stop the workers where they are; return whether one is at a trial."""
    for worker in workers:
        worker.suspend()
    return study.progress().running > 0


def test_status_of_a_running_study(start: Start, storage: str, tmp_path: Path) -> None:
    process = start()
    study = wait_until(process, storage, 3)
    workers = workers_of(process)
    # A quick machine is done before another process has started to look; both workers may be
    # between two trials.
    while not running(study, workers):
        for worker in workers:
            worker.resume()
    command = [sys.executable, "-m", "sweeper", "status", "slow", "--json", "--storage", storage]
    found = json.loads(subprocess.check_output(command, cwd=tmp_path))
    for worker in workers:
        worker.resume()
    assert found["state"] == "running"
    assert found["trials"] == 24
    assert found["complete"] + found["pruned"] >= 3
    assert 1 <= found["running"] <= 2
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


def test_rejecting_workers_end_the_launch_with_reason(
    slow: Path, storage: str, tmp_path: Path
) -> None:
    def break_task(counts: Progress) -> None:
        (tmp_path / "quick.py").write_text("def slow(run):\n    yield\n")

    with pytest.raises(SweeperError, match=r"quick\.py has changed since launch"):
        sweeper.launch(
            slow, workers=1, storage=storage, results=tmp_path / "r", on_progress=break_task
        )
    assert Study("slow", storage).progress().running == 0


def own_workers() -> list[psutil.Process]:
    """Return the workers that this process has started, and nothing else that it has."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # it has just ended
            if "worker" in child.cmdline():
                found.append(child)
    return found


class Refusing(LocalExecutor):
    """Takes no job the second time. Its workers have one slot each."""

    traits: ClassVar[Traits] = Traits("refusing", max_jobs=2)
    asked = 0

    def start(self, spec: JobSpec, count: int) -> Sequence[LocalJob]:
        type(self).asked += 1
        if self.asked == 2:
            raise SweeperError("no room for another")
        return super().start(spec, count)


def test_failed_worker_replacement_is_retried(
    slow: Path, storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "LONGEST_PAUSE", 0.3)
    monkeypatch.setattr(Refusing, "asked", 0)
    killed: list[int] = []

    def kill_one(progress: Progress) -> None:
        workers = own_workers()
        if progress.ended > 2 and not killed and workers:
            workers[0].kill()
            killed.append(workers[0].pid)

    study = sweeper.launch(
        slow,
        executor=Refusing(),
        storage=storage,
        results=tmp_path / "results",
        on_progress=kill_one,
    )
    assert Refusing.asked == 3
    assert killed
    check_exact(study, tmp_path, again=1)


def test_a_launch_whose_workers_cannot_be_replaced_ends(
    slow: Path, storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Refusing, "asked", 0)

    def kill(_: Progress) -> None:
        for worker in own_workers():
            with suppress(psutil.Error):
                worker.kill()

    with pytest.raises(SweeperError, match="no room for another"):
        sweeper.launch(
            slow,
            workers=1,
            executor=Refusing(),
            storage=storage,
            results=tmp_path / "results",
            on_progress=kill,
        )


def test_workers_that_keep_dying_end_the_launch(
    slow: Path, storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dying(LocalExecutor):
        def start(self, spec: JobSpec, count: int) -> Sequence[LocalJob]:
            command = (sys.executable, "-c", "import os; os._exit(9)")
            return super().start(replace(spec, command=command), count)

    monkeypatch.setattr(launcher, "MAX_DEATHS", 1)
    with pytest.raises(SweeperError, match="2 workers died in a row and no trial ended"):
        sweeper.launch(slow, executor=Dying(), storage=storage, results=tmp_path / "r")


def test_workers_may_be_killed_again_and_again_while_trials_keep_finishing(
    slow: Path, storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow.write_text(slow.read_text().replace("trials = 24", "trials = 5"))
    killed: list[int] = []

    def kill_after_each_trial(progress: Progress) -> None:
        workers = [worker for worker in own_workers() if worker.pid not in killed]
        if progress.running and progress.ended > len(killed) and len(killed) < 3 and workers:
            workers[0].kill()
            killed.append(workers[0].pid)

    monkeypatch.setattr(launcher, "MAX_DEATHS", 1)
    study = sweeper.launch(
        slow,
        workers=1,
        storage=storage,
        results=tmp_path / "r",
        on_progress=kill_after_each_trial,
    )
    assert len(killed) == 3  # more than MAX_DEATHS
    assert study.finished
    assert study.frame()["number"].tolist() == list(range(5))
    assert set(study.frame()["state"]) <= {"complete", "pruned"}


def test_a_trial_that_ends_its_process_does_not_end_the_launch(
    slow: Path, storage: str, tmp_path: Path
) -> None:
    slow.write_text(slow.read_text().replace("quick.py:slow", "quick.py:exits_at_epsilon_0"))
    study = sweeper.launch(slow, workers=2, storage=storage, results=tmp_path / "r")
    frame = study.frame()
    assert frame["number"].tolist() == list(range(study.spec.budget.trials))
    assert frame["state"].tolist().count("failed") == 1
    assert "exited with status 9" in frame.iloc[0]["failure"]
    assert study.progress().retried == 0
