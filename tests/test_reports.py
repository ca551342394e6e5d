"""Unusual values in the reports of a training run: accepted, noted, or named in the failure."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

import sweeper
from sweeper import Study
from tests.support.processes import run as command
from tests.support.serving import serve
from tests.support.studies import copy_task

STUDY = """
[study]
name = "x"
[task]
use = "reports.py:{function}"
[budget]
trials = 2
[sampler]
name = "random"
[pruner]
name = "none"
[confirm]
enabled = {confirm}
shortlist = 1
replicates = 2
"""
Launch = Callable[[str], Study]


class Reports:
    """One test for each kind of value; a subclass for each database."""

    @pytest.fixture
    def url(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    def launch(self, url: str, tmp_path: Path) -> Launch:
        """Return a function that runs two trials of a loop of tests/tasks/reports.py."""
        copy_task(tmp_path, "reports.py")

        def launched(function: str) -> Study:
            file = tmp_path / "x.toml"
            file.write_text(STUDY.format(function=function, confirm="false"))
            return sweeper.launch(file, workers=0, storage=url, results=tmp_path / "results")

        return launched

    def test_numbers_of_torch_and_numpy_are_accepted(self, launch: Launch) -> None:
        study = launch("tensors")
        frame, epochs = study.frame(), study.epochs()
        assert frame["state"].tolist() == ["complete"] * 2
        found = {name: frame[f"extra_{name}"].tolist() for name in ("f1", "one", "half", "count")}
        assert found == {"f1": [0.5] * 2, "one": [1.0] * 2, "half": [0.5] * 2, "count": [3.0] * 2}
        assert frame["extra_array"].tolist() == [2.0] * 2
        assert epochs["train_loss"].map(math.isfinite).all()
        assert set(epochs["mean_epsilon"]) == {0.1}
        assert study.document()["scores"]["f1"] == 0.5
        study.close()

    def test_characters_that_cannot_be_stored_are_replaced(self, launch: Launch) -> None:
        study = launch("odd_text")
        assert study.frame()["state"].tolist() == ["complete"] * 2
        log = study.log(0)
        assert "before \\udce9 between a\ufffdb after" in log
        log.encode()
        study.close()

    def test_characters_in_an_exception_are_replaced(self, launch: Launch) -> None:
        study = launch("odd_error")
        failures = set(study.frame()["failure"])
        assert failures == {"RuntimeError: bad file name \\udce9 and a\ufffdb"}
        assert failures.pop() in study.log(0)
        study.close()


class TestSqlite(Reports):
    @pytest.fixture
    def url(self, storage: str) -> str:
        return storage

    @pytest.mark.parametrize(
        ("function", "failure"),
        [
            (
                "bad_extra",
                "Evaluation.extra['per_class'] is a list of length 2; it must be a number",
            ),
            ("bad_name", "Evaluation.extra has the name 3; names must be strings"),
            ("bad_loss", "Evaluation.train_loss is a Tensor of shape (30,); it must be a number"),
            ("bad_progress", "Evaluation.progress is 25.0; it must be in (0, 1]"),
            ("bad_labels", "Evaluation.labels is a list of length 30; it must be a tensor or"),
            ("list_state", "Evaluation.state returned a list of length 2; it must return a dict"),
            ("raising_state", "Evaluation.state raised RuntimeError: no state today"),
            ("set_state", "Evaluation.state: state['model']['seen'] is a set of length 2; allowed"),
            ("array_state", "Evaluation.state: state['rng'] is an ndarray of shape (3,); allowed"),
            ("nothing", "the training loop returned None; it must yield Evaluation, or return an"),
            ("uncallable_state", "Evaluation.state is a dict of length 1; it must be a function"),
        ],
    )
    def test_a_value_that_cannot_be_stored_fails_its_trial_at_the_first_report(
        self, launch: Launch, function: str, failure: str
    ) -> None:
        study = launch(function)
        frame = study.frame()
        assert frame["state"].tolist() == ["failed"] * 2
        assert frame["cause"].tolist() == ["raised"] * 2
        assert all(failure in text for text in frame["failure"]), frame["failure"].tolist()
        assert (study.epochs().groupby("number").size() <= 1).all()
        study.close()

    def test_states_of_torch_are_saved_and_restored(
        self, launch: Launch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from sweeper.worker import trial_files

        monkeypatch.setattr(trial_files, "SECONDS", 0.0)
        monkeypatch.setattr(trial_files, "TIMES", 0)
        assert launch("scheduler_state").frame()["state"].tolist() == ["complete"] * 2

    @pytest.mark.parametrize(
        ("function", "notes"),
        [
            ("arrays", ""),
            ("iterator", ""),
            ("summed", ""),
            ("repeated", "progress 0.5 was reported after 0.5; it must increase"),
            ("short", "the training loop ended at progress 0.5; its last report counts as"),
            ("probabilities", "the logits look like probabilities: no value is negative and each"),
        ],
    )
    def test_unusual_reports_are_noted(self, launch: Launch, function: str, notes: str) -> None:
        study = launch(function)
        frame = study.frame()
        assert frame["state"].tolist() == ["complete"] * 2
        assert all(text.startswith(notes) and bool(text) == bool(notes) for text in frame["notes"])
        found = [text for text in study.health() if text.startswith("Reports: 2 of 2 trials")]
        assert len(found) == bool(notes)
        assert ("\nnotes:\n" in study.log(1)) == bool(notes)
        assert frame["notes"][1] in study.log(1)
        study.close()

    def test_notes_are_on_the_page_of_the_trial_and_in_the_api(
        self, launch: Launch, url: str
    ) -> None:
        launch("short").close()
        site = serve(url)
        words = "the training loop ended at progress 0.5; its last report counts as the final one"
        assert words in site.page("/studies/x/trials/1").text
        assert site.ask("/v1/studies/x/trials/1").json["trial"]["notes"] == words

    def test_progress_that_ends_at_1_by_rounding_is_1(self, launch: Launch) -> None:
        assert launch("summed").epochs()["progress"].max() == 1.0

    @pytest.mark.parametrize(
        ("function", "reason"),
        [
            ("raising_split", "Evaluation.splits['test'] raised FileNotFoundError: test.csv"),
            ("empty_split", "Evaluation.splits['test'] gave no examples"),
            ("shapeless_split", "Evaluation.splits['test']: labels have shape (4,)"),
            ("single_split", "Evaluation.splits['test'] returned a Tensor of shape (30, 3); it"),
            ("one_example", "the test split has 1 example; an interval needs at least 2"),
            ("array_split", ""),
        ],
    )
    def test_a_confirmation_without_a_verdict_says_why(
        self, url: str, tmp_path: Path, function: str, reason: str
    ) -> None:
        file, results = tmp_path / "x.toml", tmp_path / "results"
        copy_task(tmp_path, "reports.py")
        file.write_text(STUDY.format(function=function, confirm="true"))
        done = command("launch", file, "--workers", 0, "--storage", url, "--results", results)
        assert done.status == 0, done.err
        assert ("no verdict: " in done.out) == bool(reason)
        assert reason in " ".join(done.out.split())
        assert command("status", "x", "--storage", url).status == 0
        assert (results / "x" / "report.html").is_file()
        assert (results / "x" / "best.json").is_file()


class TestPostgresql(Reports):
    @pytest.fixture
    def url(self, postgresql: str) -> str:
        return postgresql


class TestMysql(Reports):
    @pytest.fixture
    def url(self, mysql: str) -> str:
        return mysql
