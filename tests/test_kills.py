"""Random workers killed again and again through a whole study of real training."""

import os
import random
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest

import sweeper
from sweeper.api import Study
from sweeper.confirmation.evidence import Evidence
from sweeper.errors import SweeperError
from sweeper.store.database import open_reader
from sweeper.store.records import read_epochs
from sweeper.store.studies import get_study
from sweeper.study.results import SCORES
from tests.support.processes import StartSweeper
from tests.support.soak import repeats
from tests.support.studies import copy_task

pytestmark = pytest.mark.chaos

STUDY = """
[study]
name = "killed"
[task]
use = "digits_variants.py:paced"
[budget]
trials = 6
pack = {pack}
[sampler]
name = "random"
[pruner]
name = "none"
[confirm]
shortlist = 1
replicates = 2
"""
# Some fall into the search, 72 epochs, and some into the confirmation, 72.
TRIALS, EPOCHS = 6, 12
KILLS = repeats(4, soak=12)
EPOCHS_BETWEEN = 144 // (KILLS + 1)
Launch = Callable[[str], subprocess.Popen[str]]


class Watched:
    """The epochs that a study has stored, looked at again and again: none may disappear."""

    def __init__(self, storage: str) -> None:
        self.study = Study("killed", storage)
        self.seen: dict[Any, int] = {}

    def look(self) -> int:
        """Return how many epochs there are."""
        try:
            epochs = self.study.epochs()
        except SweeperError:
            return 0  # the launch has not made the database yet
        last: dict[Any, int] = epochs.groupby("number")["epoch"].max().to_dict()
        for number, epoch in self.seen.items():
            assert last[number] >= epoch, f"trial {number} went back from {epoch}"
        assert epochs.groupby("number").size().to_dict() == last  # and none is left out
        self.seen = last
        return len(epochs) + self._epochs_of_the_confirmation()

    def _epochs_of_the_confirmation(self) -> int:
        reader = open_reader(self.study.storage)
        try:
            return len(read_epochs(reader, get_study(reader, "killed"), "confirm-1"))
        finally:
            reader.close()


def kill_again_and_again(process: subprocess.Popen[str], watched: Watched) -> int:
    """Kill a worker at a trial whenever so many more epochs are stored; return how many."""
    choice, killed = random.Random(0), 0
    while process.poll() is None:
        if watched.look() >= EPOCHS_BETWEEN * (killed + 1) and killed < KILLS:
            at_a_trial = [worker.pid for worker in watched.study.workers() if not worker.stale]
            with suppress(ProcessLookupError, IndexError):  # nobody, or gone by now
                os.kill(choice.choice(at_a_trial), signal.SIGKILL)
                killed += 1
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
    return killed


def scores_of(evidence: Evidence | None) -> dict[tuple[int, int], Any]:
    """Return what a finished confirmation found, whoever found it."""
    assert evidence is not None
    assert evidence.complete
    return {(one.candidate, one.number): one.scores for one in evidence.replicates}


class Kills:
    """One test, a subclass a backend: one trains one by one, one in packs."""

    pack: ClassVar[str]

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        copy_task(tmp_path, "digits_variants.py")
        path = tmp_path / "killed.toml"
        path.write_text(STUDY.format(pack=self.pack))
        return path

    @pytest.fixture
    def launch(
        self, file: Path, start_sweeper: StartSweeper, monkeypatch: pytest.MonkeyPatch
    ) -> Launch:
        # Trials last for seconds, so that a killed one has a checkpoint to go on from.
        monkeypatch.setenv("DIGITS_STEP", "0.03")
        return lambda url: start_sweeper("launch", file, "--workers", 3, url=url)

    @pytest.fixture
    def url(self) -> str:
        raise NotImplementedError

    @pytest.mark.usefixtures("one_thread")
    def test_study_survives_repeated_kills(
        self, url: str, launch: Launch, file: Path, tmp_path: Path
    ) -> None:
        process, watched = launch(url), Watched(url)
        killed = kill_again_and_again(process, watched)
        output = process.communicate()[0]
        assert process.returncode == 0, output
        # On a quick machine the study is over before the last of them.
        assert KILLS / 2 <= killed <= KILLS
        frame = watched.study.frame()
        assert frame["number"].tolist() == list(range(TRIALS))
        # Two workers may bear the trials of neighboring tickets in either order.
        assert sorted(frame["ticket"]) == list(range(TRIALS))
        assert set(frame["state"]) == {"complete"}
        assert (frame["epochs"] == EPOCHS).all()
        assert not frame.duplicated(["epsilon", "schedule", "rate"]).any()
        assert watched.study.progress().retried > killed / 2
        print(f"{killed} kills, {watched.study.progress().retried} trials tried again")
        self.check_undisturbed(frame, watched.study.evidence(), file, tmp_path)
        watched.study.close()

    def check_undisturbed(
        self, frame: pd.DataFrame, confirmed: Evidence | None, file: Path, tmp_path: Path
    ) -> None:
        os.environ.pop("DIGITS_STEP")
        undisturbed = sweeper.launch(
            file, workers=0, storage=f"sqlite:///{tmp_path}/calm.db", results=tmp_path / "calm"
        )
        columns = ["epsilon", "schedule", "rate", *SCORES]
        killed, calm = (
            found.sort_values("ticket", ignore_index=True)[columns]
            for found in (frame, undisturbed.frame())
        )
        pd.testing.assert_frame_equal(killed, calm)
        assert scores_of(confirmed) == scores_of(undisturbed.evidence())


class TestSqlite(Kills):
    pack = "3"

    @pytest.fixture
    def url(self, storage: str) -> str:
        return storage


class TestPostgresql(Kills):
    pack = '"off"'

    @pytest.fixture
    def url(self, postgresql: str) -> str:
        return postgresql


class TestMysql(Kills):
    pack = "3"

    @pytest.fixture
    def url(self, mysql: str) -> str:
        return mysql
