"""A worker killed before any of its commits loses nothing. See support/kill_before_commit.py."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import optuna
import pandas as pd
import pytest

from sweeper.api import Study
from tests.support.processes import run_module
from tests.support.studies import steps

Write = Callable[..., Path]
pytestmark = pytest.mark.chaos

# The pruner reads reports and never prunes: what is killed must come out as if nothing had been.
STUDY = """
[study]
name = "quick"
[task]
use = "quick.py:resumable"
options = {{ trace = '{trace}', epochs = 2 }}
[budget]
trials = 2
[sampler]
startup = 1
[pruner]
name = "median"
startup = 100
warmup = 0.0
"""

DIFFERENT = ["seconds", "core_hours", "peak_memory", "started", "finished"]


class Found(NamedTuple):
    """What a study has in the database."""

    trials: pd.DataFrame
    epochs: pd.DataFrame
    reports: list[dict[int, float]]
    finished: bool


def found(study: Study, storage: optuna.storages.RDBStorage) -> Found:
    """Read a study and close it."""
    loaded = optuna.load_study(study_name=study.name, storage=storage)
    reports = [trial.intermediate_values for trial in loaded.get_trials()]
    read = Found(study.frame().drop(columns=DIFFERENT), study.epochs(), reports, study.finished)
    study.close()
    return read


class Killed:
    """One test, a subclass a backend."""

    @pytest.fixture
    def url(self) -> str:
        raise NotImplementedError

    def test_a_kill_between_any_two_writes_changes_no_result(
        self, url: str, write_study: Write, tmp_path: Path
    ) -> None:
        file, results, trace = write_study(STUDY.format(trace="")), tmp_path / "r", tmp_path / "t"
        done = run_module("kill_before_commit", file, results, trace, url)
        assert done.returncode == 0, done.stderr
        ends = [int(line) for line in done.stdout.split()]
        assert set(ends[:-1]) == {9}
        assert ends[-1] == 0  # no commit was left to be killed before
        assert len(ends) > 25
        storage = optuna.storages.RDBStorage(url)
        undisturbed = found(Study(f"killed-{len(ends) - 1}", url), storage)
        for fatal in range(len(ends) - 1):
            study = Study(f"killed-{fatal}", url)
            self.check(study, found(study, storage), undisturbed, Path(f"{trace}-{fatal}"))
        storage.remove_session()
        storage.engine.dispose()

    def check(self, study: Study, killed: Found, undisturbed: Found, trace: Path) -> None:
        pd.testing.assert_frame_equal(killed.trials, undisturbed.trials, obj=study.name)
        pd.testing.assert_frame_equal(killed.epochs, undisturbed.epochs, obj=study.name)
        assert killed.reports == undisturbed.reports
        assert killed.finished
        trained = steps(trace)
        assert len(set(trained)) == 4
        assert len(trained) <= 5, study.name  # the epoch that was killed, once more


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
