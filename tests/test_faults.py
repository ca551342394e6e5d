"""A worker killed between every two of its writes: made by fault points, not by luck.

One process imports everything once and forks a child for each fault point: the child works on a
study of its own and is gone before its n-th commit. Another child then finishes the study.
"""

from collections.abc import Callable
from pathlib import Path

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
        done = run_module("kill_before_commit", file, results, trace, url)
        assert done.returncode == 0, done.stderr
        ends = [int(line) for line in done.stdout.split()]
        assert set(ends[:-1]) == {9}
        assert ends[-1] == 0  # no commit was left to be killed before
        assert len(ends) > 40
        undisturbed = Study(f"killed-{len(ends) - 1}", url)
        for fatal in range(len(ends) - 1):
            self.check(Study(f"killed-{fatal}", url), undisturbed, Path(f"{trace}-{fatal}"))
        undisturbed.close()

    def check(self, killed: Study, undisturbed: Study, trace: Path) -> None:
        frame, wanted = (s.frame().drop(columns=DIFFERENT) for s in (killed, undisturbed))
        pd.testing.assert_frame_equal(frame, wanted, obj=killed.name)
        pd.testing.assert_frame_equal(killed.epochs(), undisturbed.epochs(), obj=killed.name)
        assert self.reports(killed) == self.reports(undisturbed)
        trained = steps(trace)
        assert len(set(trained)) == 16
        assert len(trained) <= 17, killed.name  # the epoch that was killed, once more
        assert killed.finished
        killed.close()

    def reports(self, study: Study) -> list[dict[int, float]]:
        loaded = optuna.load_study(study_name=study.name, storage=study.storage)
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
