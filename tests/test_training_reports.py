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
                "Evaluation.extra['per_class'] must be a number, got a list of length 2",
            ),
            ("bad_name", "Evaluation.extra has the key 3; keys must be strings"),
            ("bad_loss", "Evaluation.train_loss must be a number, got a Tensor of shape (30,)"),
            ("bad_progress", "Evaluation.progress must be in (0, 1], got 25.0"),
            ("bad_labels", "Evaluation.labels must be a tensor or an array, got a list of length"),
            ("list_state", "Evaluation.state returned a list of length 2; it must return a dict"),
            ("raising_state", "Evaluation.state raised RuntimeError: no state today"),
            ("set_state", "Evaluation.state: state['model']['seen'] is a set of length 2; allowed"),
            ("array_state", "Evaluation.state: state['rng'] is an ndarray of shape (3,); allowed"),
            ("nothing", "the training function returned None and reported nothing; after each"),
            (
                "uncallable_state",
                "Evaluation.state must be a function that returns a dict, got a dict",
            ),
            ("bad_split", "Evaluation.splits has the key 1; allowed: 'train' and 'test'"),
            (
                "uncallable_split",
                "Evaluation.splits['test'] must be a function that returns logits",
            ),
            ("nested", "run.report was called recursively"),
            ("silent_error", "exception str() failed"),
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

    def test_threads_may_report_and_nothing_is_reported_after_the_end(self, launch: Launch) -> None:
        for function, epochs in (("threads", 21), ("late", 4)):
            study = launch(function)
            assert study.frame()["state"].tolist() == ["complete"] * 2
            assert study.frame()["epochs"].tolist() == [epochs] * 2
            assert study.progress().retried == 0
            sweeper.delete("x", study.storage)
            study.close()

    def test_a_long_text_of_an_exception_is_shortened(self, launch: Launch) -> None:
        study = launch("long_error")
        failure = study.trial(0).result.failure
        assert len(failure) <= 2**16
        assert "characters omitted" in failure
        assert failure.endswith("x end\n")
        assert study.frame()["failure"].str.len().max() <= 301
        study.close()

    def test_states_of_torch_are_saved_and_restored(
        self, launch: Launch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from sweeper.training import checkpoints

        monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
        monkeypatch.setattr(checkpoints, "TIMES", 0)
        assert launch("scheduler_state").frame()["state"].tolist() == ["complete"] * 2

    @pytest.mark.parametrize(
        ("function", "notes"),
        [
            ("arrays", ""),
            ("iterator", ""),
            ("summed", ""),
            ("repeated", "progress 0.5 was reported after 0.5; it must increase"),
            (
                "short",
                "the training function ended at progress 0.5, not 1; its last report is used as",
            ),
            ("probabilities", "the logits look like probabilities: no value is negative and each"),
        ],
    )
    def test_unusual_reports_are_noted(self, launch: Launch, function: str, notes: str) -> None:
        study = launch(function)
        frame = study.frame()
        assert frame["state"].tolist() == ["complete"] * 2
        assert all(text.startswith(notes) and bool(text) == bool(notes) for text in frame["notes"])
        found = [
            text for text in study.snapshot().health if text.startswith("Reports: 2 of 2 trials")
        ]
        assert len(found) == bool(notes)
        assert ("\nnotes:\n" in study.log(1)) == bool(notes)
        assert frame["notes"][1] in study.log(1)
        study.close()

    def test_the_first_report_of_the_first_trial_is_checked_at_once(
        self, url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        copy_task(tmp_path, "reports.py")
        file = tmp_path / "x.toml"
        file.write_text(STUDY.format(function="first_of_many", confirm="true"))
        with pytest.raises(KeyboardInterrupt):
            sweeper.launch(file, workers=0, storage=url, results=tmp_path / "results")
        told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert [text.partition(";")[0] for text in told] == [
            "study 'x', trial 0: the logits look like probabilities: no value is negative and each "
            "row sums to 1",
            "study 'x', trial 0: the first report has no test split",
        ]
        assert "run.report(...)" in told[1]
        page = serve(url).page("/studies/x").text
        assert "Trial 0: the logits look like probabilities" in page
        assert "Trial 0: the first report has no test split" in page

    @pytest.mark.parametrize(
        ("function", "confirm"), [("arrays", "false"), ("array_split", "true")]
    )
    def test_usual_first_report_gives_no_warning(
        self,
        url: str,
        tmp_path: Path,
        function: str,
        confirm: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        copy_task(tmp_path, "reports.py")
        file = tmp_path / "x.toml"
        file.write_text(STUDY.format(function=function, confirm=confirm))
        sweeper.launch(file, workers=0, storage=url, results=tmp_path / "results").close()
        assert "first report" not in caplog.text

    @pytest.mark.parametrize("function", ["constant", "arrays"])
    def test_progress_that_is_never_set_is_noted(
        self, url: str, tmp_path: Path, function: str
    ) -> None:
        copy_task(tmp_path, "reports.py")
        file = tmp_path / "x.toml"
        space = '[space]\nschedule = ["linear"]\n'
        file.write_text(STUDY.format(function=function, confirm="false") + space)
        study = sweeper.launch(file, workers=0, storage=url, results=tmp_path / "results")
        notes = study.frame()["notes"].tolist()
        study.close()
        assert notes[0] == ""  # ε = 0 does not anneal
        assert ("loss.progress was never set" in notes[1]) == (function == "constant")

    def test_notes_are_on_the_page_of_the_trial_and_in_the_api(
        self, launch: Launch, url: str
    ) -> None:
        launch("short").close()
        site = serve(url)
        words = (
            "the training function ended at progress 0.5, not 1; its last report is used as the "
            "result"
        )
        assert words in site.page("/studies/x/trials/1").text
        assert site.ask("/v1/studies/x/trials/1").json["trial"]["notes"] == words

    def test_progress_that_ends_at_1_by_rounding_is_1(self, launch: Launch) -> None:
        assert launch("summed").epochs()["progress"].max() == 1.0

    @pytest.mark.parametrize(
        ("function", "reason"),
        [
            ("raising_split", "Evaluation.splits['test'] raised FileNotFoundError: test.csv"),
            ("empty_split", "Evaluation.splits['test'] returned no examples"),
            ("shapeless_split", "Evaluation.splits['test']: labels have shape (4,)"),
            ("single_split", "Evaluation.splits['test'] returned a Tensor of shape (30, 3); it"),
            ("one_example", "the test split has 1 example; a confidence interval needs at least 2"),
            ("array_split", ""),
            ("short_split", ""),
            ("short_calls", ""),
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
