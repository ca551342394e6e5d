"""What a study does when its code changes, and when its trials fail."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest

import sweeper
from sweeper import Study, SweeperError, api
from sweeper.errors import Conflict
from sweeper.store.database import open_writer
from sweeper.study.trials import find_trial, open_optuna_study
from tests.support.processes import StartSweeper
from tests.support.processes import run as command
from tests.support.serving import serve
from tests.support.studies import copy_task

STUDY = """
[study]
name = "fixable"
[task]
use = "fixable.py:{loop}"
options = {{ {options} }}
[budget]
trials = {trials}
[pruner]
name = "none"
[confirm]
enabled = {confirm}
replicates = 2
"""

Run = Callable[..., Study]


@pytest.fixture
def study_file(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes the study file, beside its code."""
    copy_task(tmp_path, "fixable.py")
    (tmp_path / "late.py").write_text("QUALITY = 2.0\n")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "late_part.py").write_text("SHARE = 1.0\n")

    def write(loop: str, trials: int = 4, confirm: bool = False, options: str = "") -> Path:
        path = tmp_path / "fixable.toml"
        words = {"options": options, "confirm": str(confirm).lower()}
        path.write_text(STUDY.format(loop=loop, trials=trials, **words))
        return path

    return write


@pytest.fixture
def launch(storage: str, tmp_path: Path) -> Run:
    """Return a function that launches a study in this process."""

    def run(file: Path, **options: Any) -> Study:
        results = tmp_path / "results"
        return sweeper.launch(file, workers=0, storage=storage, results=results, **options)

    return run


# ---- code that changes -------------------------------------------------------------------


@pytest.mark.parametrize("changed", ["fixable.py", "late.py", "parts/late_part.py"])
def test_every_imported_module_is_part_of_the_code(
    changed: str, study_file: Callable[..., Path], launch: Run, tmp_path: Path
) -> None:
    """`late` and `late_part` are imported by the training loop, not with its file."""
    file = study_file("imports_late")
    launch(file)
    edited = tmp_path / changed
    edited.write_text(edited.read_text() + "# edited\n")
    for trials in (4, 6):
        with pytest.raises(Conflict, match=rf"{changed} has changed since .* --accept-code"):
            launch(file, trials=trials)


def test_missing_module_counts_as_change(
    study_file: Callable[..., Path], launch: Run, tmp_path: Path
) -> None:
    file = study_file("imports_late")
    launch(file)
    (tmp_path / "late.py").unlink()
    with pytest.raises(Conflict, match=r"late\.py has changed"):
        launch(file, trials=6)


def test_other_files_of_the_folder_may_change(
    study_file: Callable[..., Path], launch: Run, tmp_path: Path
) -> None:
    (tmp_path / "notes.py").write_text("raise RuntimeError('nobody imports this')\n")
    file = study_file("imports_late")
    launch(file)
    (tmp_path / "notes.py").write_text("# edited\n")
    assert len(launch(file, trials=5).frame()) == 5


def test_changed_code_can_be_accepted(
    study_file: Callable[..., Path], launch: Run, tmp_path: Path
) -> None:
    file = study_file("imports_late", confirm=True)
    before = launch(file)
    first = before.snapshot()
    assert first.health == tuple(line for line in first.health if "Changed code" not in line)
    (tmp_path / "late.py").write_text("QUALITY = 2.5\n")
    after = launch(file, trials=6, accept_code=True)
    frame, snapshot = after.frame(), after.snapshot()
    assert frame["code"].tolist() == [1, 1, 1, 1, 2, 2]
    pd.testing.assert_frame_equal(frame[:4], before.frame()[:4])
    (output,) = [line for line in snapshot.health if "Changed code" in line]
    assert "late.py changed (revision 2). 4 of 6 trials were trained with older code" in output
    assert [set(one.sources) for one in snapshot.code] == [
        {"fixable.py", "late.py", "parts/late_part.py"}
    ] * 2
    # The replicates of the first confirmation were trained with the older code.
    assert first.evidence is not None
    assert snapshot.evidence is not None
    assert (first.evidence.number, snapshot.evidence.number) == (1, 2)
    assert after.document()["code"] == 2
    report = (tmp_path / "results" / "fixable" / "report.html").read_text()
    assert "4 of 6 trials were trained with older code" in report
    assert "older code (revision 1)" in report


def test_a_confirmation_is_repeated_with_changed_code(
    study_file: Callable[..., Path], launch: Run, tmp_path: Path
) -> None:
    file = study_file("imports_late", confirm=True)
    first = launch(file).evidence()
    (tmp_path / "late.py").write_text("QUALITY = 2.5\n")
    launch(file, accept_code=True, confirm=False)
    study = Study("fixable", launch(file, confirm=False).storage)
    assert any(
        "The confirmation was trained with older code" in line for line in study.snapshot().health
    )
    second = launch(file).evidence()
    assert first is not None
    assert second is not None
    assert (first.number, second.number) == (1, 2)
    assert not any(
        "The confirmation was trained with older code" in line for line in study.snapshot().health
    )


def test_result_of_older_code_is_not_copied(
    study_file: Callable[..., Path], launch: Run, tmp_path: Path
) -> None:
    file = study_file("imports_late", trials=2)
    launch(file)
    file.write_text(file.read_text().replace("trials = 2", "trials = 3"))
    # The third trial repeats the configuration of ε = 0.
    text = '\n[[first]]\nepsilon = 0.1\nschedule = "fixed"\n[[first]]\nepsilon = 0.0\n'
    other = tmp_path / "other.toml"
    other.write_text(file.read_text().replace('"fixable"', '"other"') + text)
    same = launch(other).frame()
    assert same["copied_from"].tolist()[2] == 0
    third = tmp_path / "third.toml"
    third.write_text(other.read_text().replace('"other"', '"third"'))
    launch(third, trials=2)
    (tmp_path / "late.py").write_text("QUALITY = 2.5\n")
    frame = launch(third, accept_code=True).frame()
    assert pd.isna(frame["copied_from"].tolist()[2])
    assert frame["nll"][2] < frame["nll"][0]


def test_a_trial_of_older_code_can_be_replayed_with_its_files(
    study_file: Callable[..., Path], launch: Run, tmp_path: Path
) -> None:
    file = study_file("imports_late", trials=2)
    storage = launch(file).storage
    (tmp_path / "late.py").write_text("QUALITY = 2.5\n")
    launch(file, accept_code=True, trials=3)
    assert sweeper.replay("fixable", 2, storage).same
    with pytest.raises(SweeperError, match=r"revision 1 of the study's code, and .*late\.py"):
        sweeper.replay("fixable", 1, storage)
    (tmp_path / "late.py").write_text("QUALITY = 2.0\n")
    assert sweeper.replay("fixable", 1, storage).same


@pytest.mark.slow
def test_a_file_that_changes_before_it_is_imported_stops_the_study(
    study_file: Callable[..., Path], start_sweeper: StartSweeper, storage: str, tmp_path: Path
) -> None:
    """The server of the trainers has imported `fixable` before, and each trainer imports `late`."""
    file = study_file("imports_late", trials=50)
    process = start_sweeper("launch", file, "--workers", 1)
    while process.poll() is None:
        try:
            if Study("fixable", storage).progress().ended >= 2:
                break
        except SweeperError:
            pass
    (tmp_path / "late.py").write_text("QUALITY = 2.5\n")
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 2, output
    assert "late.py has changed since launch" in output
    frame = Study("fixable", storage).frame()
    assert frame["nll"].nunique() == frame[frame["state"] == "complete"]["epsilon"].nunique()
    assert not (frame["state"] == "failed").any()


# ---- trials that fail --------------------------------------------------------------------


def missing(tmp_path: Path, more: str = "") -> str:
    return f"file = '{tmp_path / 'data'}'{more}"


def test_study_fails_after_identical_failures(
    study_file: Callable[..., Path], launch: Run, tmp_path: Path
) -> None:
    study = launch(study_file("needs_a_file", trials=40, options=missing(tmp_path)))
    assert study.frame()["state"].tolist() == ["failed"] * 5
    assert study.state == "failed"
    assert not study.finished
    assert study.progress().waiting == 35


def test_study_with_finished_trial_does_not_fail(
    study_file: Callable[..., Path], launch: Run, tmp_path: Path
) -> None:
    options = missing(tmp_path, ", above = 0.001")
    study = launch(study_file("needs_a_file", trials=8, options=options))
    assert study.frame()["state"].tolist() == ["complete"] + ["failed"] * 7
    assert study.state == "finished"


def test_different_failures_do_not_fail_the_study(
    study_file: Callable[..., Path], launch: Run, tmp_path: Path
) -> None:
    (tmp_path / "late.py").write_text("import random\nraise KeyError\n")
    lines = "\n".join(
        f"    if n % 3 == {n}: raise {name}('x')"
        for n, name in enumerate(["OSError", "ValueError", "KeyError"])
    )
    task = tmp_path / "fixable.py"
    task.write_text(
        f"def fails(run):\n    n = int(run.smoothing.epsilon * 1e6)\n{lines}\n    yield\n"
    )
    study = launch(study_file("fails", trials=9))
    assert len(study.frame()) > 5


def test_a_study_whose_trials_all_failed_is_failed(
    study_file: Callable[..., Path], launch: Run, tmp_path: Path
) -> None:
    study = launch(study_file("needs_a_file", trials=3, options=missing(tmp_path)))
    assert study.finished
    assert study.state == "failed"


def test_failures_of_older_code_do_not_count(
    study_file: Callable[..., Path], launch: Run, tmp_path: Path
) -> None:
    file = study_file("needs_a_file", trials=40, options=missing(tmp_path))
    launch(file)
    task = tmp_path / "fixable.py"
    task.write_text(task.read_text() + "# the same fault in another edition\n")
    study = launch(file, accept_code=True)
    assert study.frame()["code"].tolist() == [1] * 5 + [2] * 5
    (tmp_path / "data").touch()
    assert launch(file, trials=12).state == "finished"


# ---- trials that are run again -----------------------------------------------------------


def points(frame: pd.DataFrame) -> list[tuple[object, ...]]:
    return list(
        zip(frame["number"], frame["ticket"], frame["epsilon"], frame["schedule"], strict=True)
    )


def test_failed_trials_are_run_again(
    study_file: Callable[..., Path], launch: Run, storage: str, tmp_path: Path
) -> None:
    file = study_file("needs_a_file", trials=3, confirm=True, options=missing(tmp_path))
    failed = launch(file)
    assert "ε = 0 has not finished" in failed.snapshot().unconfirmed
    before = failed.frame()
    (tmp_path / "data").touch()
    study = sweeper.retry("fixable", storage=storage, workers=0, results=tmp_path / "results")
    after, snapshot = study.frame(), study.snapshot()
    assert after["state"].tolist() == ["complete"] * 3
    assert points(after) == points(before)
    assert after["failure"].tolist() == [""] * 3
    assert (snapshot.state, snapshot.progress.ended, snapshot.progress.trials) == ("finished", 3, 3)
    assert snapshot.verdict is not None
    # Numbers, parameters and seeds are those that a study without the failure has.
    twin = tmp_path / "twin.toml"
    twin.write_text(file.read_text().replace('"fixable"', '"twin"'))
    same = launch(twin).frame()
    assert points(same) == points(after)
    assert same["nll"].tolist() == after["nll"].tolist()
    trials = optuna.load_study(study_name="fixable", storage=storage).get_trials()
    assert [trial.number for trial in trials] == [0, 1, 2]
    with pytest.raises(Conflict, match="no failed or lost trial"):
        api.reopen("fixable", storage)


def test_missing_code_revision_is_a_one_line_error(
    study_file: Callable[..., Path], launch: Run, storage: str
) -> None:
    file = study_file("imports_late")
    launch(file).close()
    with closing(sqlite3.connect(storage.removeprefix("sqlite:///"))) as database, database:
        database.execute("delete from sweeper_code")
    for arguments in (("launch", file, "--workers", 0), ("report", "fixable", "-o", "r.html")):
        done = command(*arguments, "--storage", storage)
        assert done.status == 2
        assert "study 'fixable' cannot be used: sweeper_code does not hold each" in done.err
        assert len(done.err.splitlines()) == 1


def test_a_failed_study_is_retried_and_not_resumed(
    study_file: Callable[..., Path], launch: Run, storage: str
) -> None:
    study = launch(study_file("needs_a_file", trials=8, options='file = "/none"'))
    assert study.state == "failed"
    for change in (api.pause, api.resume, api.stop):
        with pytest.raises(Conflict, match="has failed; remove the cause, then: sweeper retry"):
            change("fixable", storage)
    assert study.state == "failed"


def test_only_failed_trials_are_run_again(
    study_file: Callable[..., Path], launch: Run, storage: str, tmp_path: Path
) -> None:
    options = missing(tmp_path, ", above = 0.2")
    before = launch(study_file("needs_a_file", trials=12, options=options)).frame()
    failed = before["state"] == "failed"
    assert 0 < failed.sum() < 12
    (tmp_path / "data").touch()
    after = sweeper.retry("fixable", storage=storage, workers=0, results=tmp_path).frame()
    assert set(after["state"]) == {"complete"}
    assert points(after) == points(before)
    pd.testing.assert_frame_equal(after[~failed], before[~failed])


def test_failed_replicates_are_run_again(
    study_file: Callable[..., Path], launch: Run, storage: str, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.touch()
    file = study_file("needs_a_file", confirm=True, options=missing(tmp_path))
    launch(file, confirm=False)
    data.unlink()
    failed = launch(file).snapshot()
    assert failed.evidence is not None
    assert failed.verdict is None
    data.touch()
    study = sweeper.retry("fixable", storage=storage, workers=0, results=tmp_path / "results")
    snapshot = study.snapshot()
    assert snapshot.evidence is not None
    assert snapshot.evidence.number == failed.evidence.number
    assert snapshot.verdict is not None


def test_nothing_is_run_again_with_changed_code(
    study_file: Callable[..., Path], launch: Run, storage: str, tmp_path: Path
) -> None:
    file = study_file("needs_a_file", trials=2, options=missing(tmp_path))
    before = launch(file).frame()
    task = tmp_path / "fixable.py"
    task.write_text(task.read_text() + "# edited\n")
    with pytest.raises(Conflict, match="--accept-code"):
        sweeper.retry("fixable", storage=storage, workers=0, results=tmp_path)
    pd.testing.assert_frame_equal(Study("fixable", storage).frame(), before)


class Reopened:
    """One test, a subclass a database."""

    @pytest.fixture
    def url(self) -> str:
        raise NotImplementedError

    def test_running_worker_sees_reopened_trial(
        self, url: str, study_file: Callable[..., Path], tmp_path: Path
    ) -> None:
        """Optuna keeps what has ended in memory; a worker that serves all studies lives long."""
        file = study_file("needs_a_file", trials=2, options=missing(tmp_path))
        options = sweeper.RunOptions(workers=0, storage=url, results=tmp_path)
        plan = api.plan_launch(file, api.LaunchOptions(**vars(options)))
        api.run_plan(plan)
        store = open_writer(url)
        known = open_optuna_study(store, plan.spec)
        for ticket in (0, 1):
            trial = find_trial(known, ticket)
            assert trial is not None
            assert trial.finished
        assert api.reopen("fixable", url) == 2
        for ticket in (0, 1):
            again = find_trial(known, ticket)
            assert again is not None
            assert not again.finished
        assert [trial.number for trial in known.get_trials()] == [0, 1]
        store.close()
        (tmp_path / "data").touch()
        after = api.run_plan(api.plan_launch(file, plan.options))
        assert after.frame["state"].tolist() == ["complete"] * 2


class TestSqlite(Reopened):
    @pytest.fixture
    def url(self, storage: str) -> str:
        return storage


class TestPostgresql(Reopened):
    @pytest.fixture
    def url(self, postgresql: str) -> str:
        return postgresql


class TestMysql(Reopened):
    @pytest.fixture
    def url(self, mysql: str) -> str:
        return mysql


def test_the_service_runs_failed_trials_again(
    study_file: Callable[..., Path], launch: Run, storage: str, tmp_path: Path
) -> None:
    file = study_file("needs_a_file", trials=40, options=missing(tmp_path))
    launch(file)
    site = serve(storage)
    path = "/v1/studies/fixable"
    assert site.ask(path).json["state"] == "failed"
    page = site.page("/studies/fixable").text
    assert 'class="state failed"' in page
    assert "Retry failed trials" in page
    again = site.ask(f"{path}/retry", method="POST")
    assert again.status == 200
    assert (again.json["state"], again.json["failed"]) == ("unfinished", 0)
    assert site.ask(f"{path}/retry", method="POST").status == 409
    assert "Retry failed trials" not in site.page("/studies/fixable").text


@pytest.mark.slow
def test_the_commands_say_what_failed_and_run_it_again(
    study_file: Callable[..., Path], start_sweeper: StartSweeper, tmp_path: Path
) -> None:
    file = study_file("needs_a_file", trials=40, options=missing(tmp_path))
    process = start_sweeper("launch", file, "--workers", 2)
    output = " ".join(process.communicate(timeout=120)[0].split())
    assert process.returncode == 1
    assert "Fix the cause, then run them again: sweeper retry fixable" in output
    assert "study fixable has failed: its trials fail with the same error" in output
    (tmp_path / "data").touch()
    process = start_sweeper("retry", "fixable", "--workers", 2, "--json")
    out = process.communicate(timeout=120)[0]
    assert process.returncode == 0
    found = json.loads(out[out.index("{") :])
    assert (found["state"], found["complete"], found["failed"]) == ("finished", 40, 0)
