"""A worker killed between every two of its writes: made by fault points, not by luck.

One process imports everything once and forks a child for each fault point: the child works on a
study of its own and is gone before its n-th commit. Another child then finishes the study.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import optuna
import pandas as pd
import pytest

from sweeper.api import Study
from tests.test_checkpoints import steps

Write = Callable[..., Path]
pytestmark = pytest.mark.chaos

# The pruner reads reports and never prunes: what is killed must come out as if nothing had been.
STUDY = """
[study]
name = "quick"
[task]
use = "quick.py:resumable"
options = {{ trace = '{trace}' }}
[budget]
trials = 2
[sampler]
startup = 1
[pruner]
name = "median"
startup = 100
warmup = 0.0
"""

KILLER = """
import os, sys, threading
from dataclasses import replace
from pathlib import Path
from sweeper.execution import files
from sweeper.worker.presence import free_dead
from sweeper.worker.stopping import StopRequest
from sweeper.worker.worker import Terms, work
from sweeper.store.database import Store, open_writer
from sweeper.study.load import read_study
from sweeper.study.registration import register
from sweeper.study.spec import StudySection

files.SECONDS, files.TIMES = 0.0, 0  # a checkpoint after every epoch
file, results, trace, storage = map(str, sys.argv[1:])


class Fault:
    def __init__(self, fatal):
        self.left = fatal

    def __call__(self):
        if threading.current_thread() is threading.main_thread():
            if self.left == 0:
                os._exit(9)
            self.left -= 1


def before_each_commit(store, fault):
    dialect, run = store.engine.dialect, Store._run_on_own
    commit = dialect.do_commit

    def commits(connection):
        fault()
        commit(connection)

    def runs(store, *args):
        fault()
        return run(store, *args)

    dialect.do_commit, Store._run_on_own = commits, runs


def in_a_child(study, fatal):
    child = os.fork()
    if child == 0:
        store = open_writer(storage)
        if fatal is None:
            free_dead(store, register(store, study))  # as a launch does
        else:
            before_each_commit(store, Fault(fatal))
        work(store, Terms(study.name, Path(results)), StopRequest())
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


for fatal in range(500):
    options = {"trace": f"{trace}-{fatal}"}
    study = read_study(file)
    spec = study.spec.model_copy(update={"study": StudySection(name=f"killed-{fatal}")})
    task = spec.task.model_copy(update={"options": options})
    study = replace(study, spec=spec.model_copy(update={"task": task}))
    store = open_writer(storage)
    register(store, study)
    store.close()
    killed = in_a_child(study, fatal)
    assert killed in (0, 9), killed
    assert in_a_child(study, None) == 0
    print(killed, flush=True)
    if killed == 0:
        break
"""
DIFFERENT = ["seconds", "started", "finished"]


class Killed:
    """One test, a subclass a backend."""

    @pytest.fixture
    def url(self) -> str:
        raise NotImplementedError

    def test_a_kill_between_any_two_writes_changes_no_result(
        self, url: str, write_study: Write, tmp_path: Path
    ) -> None:
        file, results, trace = write_study(STUDY.format(trace="")), tmp_path / "r", tmp_path / "t"
        command = [sys.executable, "-c", KILLER, str(file), str(results), str(trace), url]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        ends = [int(line) for line in done.stdout.split()]
        assert set(ends[:-1]) == {9}
        assert ends[-1] == 0  # no commit was left to be killed before
        assert len(ends) > 40
        undisturbed = Study(f"killed-{len(ends) - 1}", url)
        for fatal in range(len(ends) - 1):
            self.check(Study(f"killed-{fatal}", url), undisturbed, Path(f"{trace}-{fatal}"))
        undisturbed._store.close()

    def check(self, killed: Study, undisturbed: Study, trace: Path) -> None:
        frame, wanted = (s.frame().drop(columns=DIFFERENT) for s in (killed, undisturbed))
        pd.testing.assert_frame_equal(frame, wanted, obj=killed.name)
        pd.testing.assert_frame_equal(killed.epochs(), undisturbed.epochs(), obj=killed.name)
        assert self.reports(killed) == self.reports(undisturbed)
        trained = steps(trace)
        assert len(set(trained)) == 16
        assert len(trained) <= 17, killed.name  # the epoch that was killed, once more
        assert killed.finished
        killed._store.close()

    def reports(self, study: Study) -> list[dict[int, float]]:
        loaded = optuna.load_study(study_name=study.name, storage=study._store.storage)
        return [trial.intermediate_values for trial in loaded.get_trials()]


class TestSqlite(Killed):
    @pytest.fixture
    def url(self, storage: str) -> str:
        return storage


class TestPostgresql(Killed):
    @pytest.fixture
    def url(self, postgresql: str) -> str:
        return postgresql


class TestMysql(Killed):
    @pytest.fixture
    def url(self, mysql: str) -> str:
        return mysql
