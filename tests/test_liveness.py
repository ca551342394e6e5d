"""Which workers are taken for dead: in containers, on machines of one name, after clock steps."""

import os
import select
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd
import psutil
import pytest

from sweeper import api
from sweeper.store.database import open_writer
from sweeper.store.worker_names import parse_worker_name
from sweeper.study.load import read_study
from sweeper.study.registration import register
from sweeper.worker.identity import is_dead, worker_name
from tests.support.launches import SLOW, check_exact
from tests.support.processes import StartSweeper, run_module
from tests.support.soak import SOAK
from tests.support.studies import copy_task

PRINT = "from sweeper.worker.identity import worker_name; print(worker_name(3), flush=True)"
ASK = "import sys; from sweeper.worker.identity import is_dead; print(is_dead(sys.argv[1]))"
CONTAINER = ("unshare", "--pid", "--fork", "--mount-proc")
OTHER_BOOT = ("unshare", "--time", "--boottime", "100000")


def can(command: Sequence[str]) -> bool:
    """Return whether a command works here; namespaces need rights."""
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0


needs_namespaces = pytest.mark.skipif(not can(CONTAINER), reason="namespaces cannot be made here")


def python(code: str, *arguments: str, within: Sequence[str] = ()) -> str:
    """Run code in a process of its own; return what it prints."""
    command = [*within, sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_worker_is_dead_when_its_process_has_ended() -> None:
    assert not is_dead(worker_name())
    assert is_dead(python(PRINT))
    assert parse_worker_name(python(PRINT))._replace(pid=0) == (socket.gethostname(), 0, 3)


def test_zombie_process_is_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", PRINT], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    name = child.stdout.readline().strip()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert is_dead(name)
    child.communicate()


def test_reused_process_id_is_not_the_worker() -> None:
    host, _, identity, rest = python(PRINT).rsplit(":", 3)
    assert is_dead(f"{host}:{os.getpid()}:{identity}:{rest}")


@pytest.mark.parametrize("part", [0, 1, 2])
def test_worker_on_another_host_counts_as_alive(part: int) -> None:
    """Of another boot or machine, or in another namespace; as names of older versions are."""
    host, pid, identity, rest = python(PRINT).rsplit(":", 3)
    parts = identity.split(".")
    parts[part] += "1"
    assert not is_dead(f"{host}:{pid}:{'.'.join(parts)}:{rest}")
    assert not is_dead(f"other{host}:{pid}:{identity}:{rest}")
    assert not is_dead(f"{host}:{pid}:1763991.25:{rest}")


@needs_namespaces
@pytest.mark.parametrize("within", [CONTAINER, OTHER_BOOT])
def test_worker_in_a_container_counts_as_alive_outside(within: Sequence[str]) -> None:
    if not can(within):
        pytest.skip(f"{' '.join(within)} does not work here")
    inside = python(PRINT, within=within)
    assert not is_dead(inside)
    assert python(ASK, worker_name(), within=within) == "False"


@pytest.mark.skipif(shutil.which("faketime") is None, reason="faketime is not installed")
def test_clock_step_does_not_mark_workers_dead() -> None:
    for step in ("+1 hour", "-1 hour"):
        assert python(ASK, worker_name(), within=("faketime", "-f", step)) == "False"


@needs_namespaces
@pytest.mark.chaos
def test_containers_with_equal_host_names_lose_no_trial(storage: str, tmp_path: Path) -> None:
    copy_task(tmp_path)
    file = tmp_path / "slow.toml"
    file.write_text(SLOW.format(trace=tmp_path / "trace"))
    store = open_writer(storage)
    register(store, read_study(file))
    store.close()
    work = (sys.executable, "-m", "sweeper", "worker", "slow", "--slots", "1")
    options = ("--storage", storage, "--results", str(tmp_path / "results"))
    workers = [
        subprocess.Popen([*CONTAINER, *work, *options], stdout=subprocess.DEVNULL) for _ in range(3)
    ]
    assert [worker.wait(120) for worker in workers] == [0] * 3
    study = api.open_study("slow", storage)
    check_exact(study, tmp_path, again=0)
    assert study.progress().retried == 0
    study.close()


FROZEN = """
[study]
name = "quick"
[task]
use = "quick.py:resumable"
options = { trace = "", epochs = 2 }
[budget]
trials = 2
[sampler]
startup = 1
[pruner]
name = "median"
startup = 100
warmup = 0.0
"""


@pytest.mark.chaos
def test_frozen_worker_does_not_overwrite_results(
    write_study: Callable[..., Path], storage: str, tmp_path: Path
) -> None:
    """After each of its commits. It notices, stores nothing more of that trial, and goes on."""
    file = write_study(FROZEN)
    step = 1 if SOAK else 3
    done = run_module("freeze_after_commit", file, tmp_path / "r", tmp_path / "t", storage, step)
    assert done.returncode == 0, done.stderr
    ends = [line.split() for line in done.stdout.splitlines()]
    assert {tuple(statuses) for _, *statuses in ends} == {("0", "0")}
    assert len(ends) > 25 / step
    different = ["seconds", "core_hours", "peak_memory", "started", "finished"]
    undisturbed = api.Study("killed-never", storage)
    for name, *_ in ends:
        study = api.Study(name, storage)
        frame = study.frame().drop(columns=different)
        pd.testing.assert_frame_equal(frame, undisturbed.frame().drop(columns=different))
        pd.testing.assert_frame_equal(study.epochs(), undisturbed.epochs())
        assert study.finished
        study.close()
    undisturbed.close()


# So that a test need not wait for leases of thirty seconds.
SHORT_LEASES = """
from sweeper.store import tickets
from sweeper.worker import leases
tickets.LEASE_SECONDS, leases.RENEW_SECONDS, leases.LOOK_SECONDS = 3.0, 0.5, 0.2
"""


# In the soak leases have their own length, and all is frozen for three times as long: also for
# longer than a trial may train.
TRIALS, FROZEN_SECONDS, LIMIT = (200, 90.0, 60) if SOAK else (24, 3.5, 600)


class Frozen:
    """Two workers of a study; processes of the first one are frozen and thawed."""

    def __init__(self, storage: str, start: StartSweeper, folder: Path) -> None:
        copy_task(folder)
        file = folder / "slow.toml"
        text = SLOW.format(trace=folder / "trace").replace("pause = 0.06", "pause = 0.2")
        file.write_text(text.replace("trials = 24", f"trials = {TRIALS}\ntrial_timeout = {LIMIT}"))
        self.store = open_writer(storage)
        self.record = register(self.store, read_study(file))
        self.study = api.Study("slow", storage)
        given = ("worker", "slow", "--slots", "1", "--results", folder / "results")
        code = "" if SOAK else SHORT_LEASES
        self.workers = [start(*given, code=code) for _ in range(2)]

    def until(self, condition: Callable[[], bool]) -> None:
        """Look again and again until the condition holds."""
        for _ in range(6000):
            if condition():
                return
            select.select([], [], [], 0.05)
        raise AssertionError("it did not come to pass")

    def until_ended(self, more: int) -> None:
        """Wait until so many more trials have ended."""
        ended = self.study.progress().ended + more
        self.until(lambda: self.study.progress().ended >= ended)

    def below(self, worker: int) -> list[psutil.Process]:
        """Return a worker, its zygote, its server, its keeper and its trainer, as far as there."""
        found = [psutil.Process(self.workers[worker].pid)]
        with suppress(psutil.NoSuchProcess):  # a trainer that has just ended
            while children := found[-1].children():
                found.append(children[0])
        return found

    def holders(self) -> set[int]:
        """Return the processes of the workers that hold a ticket with a lease that runs."""
        return {worker.pid for worker in self.study.workers() if not worker.stale}


@pytest.mark.chaos
def test_frozen_processes_lose_no_trial_and_keep_the_budget(
    storage: str, start_sweeper: StartSweeper, tmp_path: Path
) -> None:
    """A trainer, keeper, server and worker one at a time, and all at once, beyond their leases."""
    at = Frozen(storage, start_sweeper, tmp_path)
    first, second = (worker.pid for worker in at.workers)
    at.until(lambda: at.holders() == {first, second})
    for place in (4, 3, 2, 0):
        at.until(lambda: first in at.holders() and len(at.below(0)) == 5)
        frozen = at.below(0)[place]
        frozen.suspend()
        if place == 0:
            at.until(lambda: first not in at.holders())  # its lease has run out
        at.until_ended(2)
        frozen.resume()
    everything = [process for worker in (0, 1) for process in at.below(worker)]
    for process in everything:
        with suppress(psutil.NoSuchProcess):  # a trainer that has just ended
            process.suspend()
    at.until(lambda: all(worker.unseen > FROZEN_SECONDS for worker in at.study.workers()))
    for process in reversed(everything):
        with suppress(psutil.NoSuchProcess):
            process.resume()
    ends = [worker.communicate(timeout=900 if SOAK else 300)[0] for worker in at.workers]
    assert [worker.returncode for worker in at.workers] == [0, 0], ends
    frame = at.study.frame()
    assert frame["number"].tolist() == list(range(TRIALS))
    assert sorted(frame["ticket"]) == list(range(TRIALS))
    assert set(frame["state"]) <= {"complete", "pruned"}
    assert at.study.finished
    assert "Traceback" not in "".join(ends)
    assert at.study.epochs().groupby("number").size().tolist() == frame["epochs"].tolist()
    at.study.close()
    at.store.close()
