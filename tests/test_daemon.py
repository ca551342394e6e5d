"""Workers that stay, leave and are told to leave; trials that hang, take too long or too much."""

import json
import logging
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from html import unescape
from pathlib import Path

import optuna
import pytest
from sqlalchemy import update

import sweeper
from sweeper import api
from sweeper.api import Study
from sweeper.cli import main
from sweeper.errors import SweeperError
from sweeper.store.database import Store, open_writer
from sweeper.store.schema import studies
from sweeper.store.studies import StudyRecord, get_study
from sweeper.store.tickets import ticket_states
from sweeper.study.registration import register
from sweeper.worker.epoch_durations import EpochDurations
from sweeper.worker.served_studies import EndReason, WorkerOptions
from sweeper.worker.stopping import StopRequest
from sweeper.worker.worker import work
from tests.support.processes import StartSweeper, run
from tests.support.serving import serve
from tests.support.studies import copy_task, read_here, steps

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
    """Start `sweeper worker` with the given arguments, and one slot."""

    def worker(*arguments: str, code: str = "") -> Worker:
        return Worker(start_sweeper("worker", *arguments, "--slots", "1", code=code))

    return worker


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
        register(store, read_here(file))
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


def test_worker_without_study_serves_all_studies_and_exits_when_idle(
    launch: Callable[..., Study], store: Store, tmp_path: Path
) -> None:
    older, newer = launch("older"), launch("newer")
    ended = work(store, WorkerOptions(results=tmp_path / "r", idle=0.0), StopRequest())
    assert ended is EndReason.IDLE
    assert older.finished
    assert newer.finished
    first, last = older.frame()["finished"].max(), newer.frame()["started"].iloc[1:].min()
    assert first <= last


def test_worker_exits_after_trial_limit(
    launch: Callable[..., Study], store: Store, tmp_path: Path
) -> None:
    study = launch(trials=5)
    assert (
        work(store, WorkerOptions("quick", tmp_path / "r", trials=2), StopRequest())
        is EndReason.TRIAL_LIMIT
    )
    assert study.progress().ended == 2


def test_worker_serves_studies_launched_later(
    launch: Callable[..., Study], start: Start, tmp_path: Path
) -> None:
    worker = start("--idle", "20")
    study = launch()
    until(lambda: study.progress().ended == 3, worker)
    worker.tell(signal.SIGTERM)
    code, output = worker.ends()
    assert (code, "asked to stop" in output) == (128 + signal.SIGTERM, True), output


def test_detached_launch_runs_no_trials(write_study: Write, storage: str, tmp_path: Path) -> None:
    study = sweeper.launch(write_study(), storage=storage, detach=True, results=tmp_path / "r")
    assert study.progress().ended == 0
    assert study.state == "unfinished"
    assert not (tmp_path / "r").exists()
    store = open_writer(storage)
    work(store, WorkerOptions("quick", tmp_path / "r"), StopRequest())
    store.close()
    assert study.finished


def test_first_sigterm_releases_the_trial_with_checkpoint(
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
    assert (
        work(store, WorkerOptions("quick", tmp_path / "results"), StopRequest())
        is EndReason.FINISHED
    )
    trained = steps(tmp_path / "trace")
    assert len(trained) == len(set(trained)) == 8
    assert study.progress().retried == 0


def test_trial_is_released_when_grace_period_ends(
    launch: Callable[..., Study], start: Start, store: Store, tmp_path: Path
) -> None:
    study = launch(function="hangs_once", pause=0.01)
    worker = start("quick", "--grace", "0.5")
    until(lambda: at_work(tmp_path, epochs=2), worker)
    worker.tell(signal.SIGTERM)
    code, output = worker.ends(within=30)
    assert code == 128 + signal.SIGTERM, output
    assert "killing its training process" in output
    (state, *_) = ticket_states(store, get_study(store, study.name))
    assert (state.leased, state.attempts) == (False, 0)


def test_the_second_sigterm_ends_at_once(
    launch: Callable[..., Study], start: Start, tmp_path: Path
) -> None:
    launch(function="hangs_once", pause=0.01)
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


def test_hung_trial_is_abandoned_and_counts_as_attempt(
    launch: Callable[..., Study], start: Start, store: Store, tmp_path: Path
) -> None:
    study = launch(function="hangs_once")
    quick = "from sweeper.worker import epoch_durations\nepoch_durations.HUNG_SECONDS = 1.0"
    worker = start("quick", code=quick)
    code, output = worker.ends(within=60)
    assert code == 0, output
    assert "hangs: no report within the time limit" in output
    assert set(study.frame()["state"]) == {"complete"}
    assert study.progress().retried == 1


def test_hang_limit_is_ten_median_epochs() -> None:
    pace = EpochDurations()
    assert pace.hang_seconds == 3600
    for seconds in (1.0, 2.0, 60.0):
        pace.add(seconds)
    assert pace.hang_seconds == 300
    for _ in range(101):
        pace.add(40.0)
    assert pace.hang_seconds == 400


@pytest.mark.slow
@pytest.mark.parametrize("function", ["slowly", "stuck"])
def test_trial_timeout_is_recorded_and_not_retried(
    launch: Callable[..., Study], tmp_path: Path, storage: str, function: str
) -> None:
    # Slowly: the epoch takes a little longer than it may. Stuck: it would never end.
    hang = 3.1 if function == "slowly" else 600.0
    study = launch(function="hangs_once", pause=0.01, rest="trial_timeout = 3", hang=hang)
    study = sweeper.launch(
        tmp_path / "quick.toml", workers=1, storage=storage, results=tmp_path / "results"
    )
    frame = study.frame()
    assert frame["state"].tolist() == ["failed", "complete", "complete"]
    assert frame["cause"].tolist() == ["timeout", "", ""]
    assert frame["failure"][0] == "the trial took longer than 3 s (budget.trial_timeout)"
    assert study.progress().retried == 0
    logs = list((tmp_path / "results" / "quick" / "logs").glob("worker-*.log"))
    assert len(logs) == 1


def test_out_of_memory_failure_reports_requested_and_free_memory(
    launch: Callable[..., Study], store: Store, tmp_path: Path, storage: str
) -> None:
    study = launch(function="allocates_too_much")
    work(store, WorkerOptions("quick", tmp_path / "r"), StopRequest())
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
def test_worker_rejects_different_package_versions(
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
            work(store, WorkerOptions("quick", tmp_path / "r"), StopRequest())
    else:
        work(store, WorkerOptions("quick", tmp_path / "r"), StopRequest())
    assert study.progress().ended == (0 if refused else 1)


def test_worker_skips_rejected_study_and_serves_others(
    launch: Callable[..., Study], store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refused = launch("refused")
    say_launched_with(store, "torch", "1.0")
    served = launch("served")
    with caplog.at_level(logging.WARNING):
        work(store, WorkerOptions(results=tmp_path / "r", idle=1.5), StopRequest())
    assert (refused.progress().ended, served.progress().ended) == (0, 3)
    assert caplog.text.count("'refused' was launched with torch 1.0") == 1


def without_optuna(name: str, storage: str) -> None:
    optuna.delete_study(study_name=name, storage=storage)


@pytest.mark.parametrize("delete", [sweeper.delete, without_optuna])
def test_deleting_a_running_study_does_not_affect_others(
    launch: Callable[..., Study],
    start: Start,
    storage: str,
    tmp_path: Path,
    delete: Callable[[str, str], None],
) -> None:
    hold = tmp_path / "trace.hold"
    hold.touch()
    launch("deleted")
    launch("other", function="train")
    worker = start("--idle", "2")
    until(lambda: at_work(tmp_path), worker)
    delete("deleted", storage)
    hold.unlink()
    status, output = worker.ends(120)
    assert status == 0, output
    assert "Traceback" not in output
    assert "study 'deleted'" in output
    assert Study("other", storage).finished
    listed = run("status", "--storage", storage)
    assert listed.status == 0, listed.err
    if delete is sweeper.delete:
        assert "deleted" not in listed.out
        return
    message = (
        "study 'deleted' cannot be used: its Optuna study was deleted; restore it, or remove it"
    )
    assert f"not served by this worker: {message}" in output
    assert message in listed.out
    assert message in run("status", "deleted", "--storage", storage).err
    site = serve(storage)
    for path in ("/studies", "/studies/deleted"):
        page = site.page(path)
        assert page.status == 200
        assert message in unescape(page.text)
    assert 'sweeper_study_state{study="deleted",state="damaged"} 1' in site.ask("/metrics").text
    assert site.ask("/v1/studies/other").json["state"] == "finished"
    assert run("delete", "deleted", "--yes", "--storage", storage).status == 0
    assert [study.name for study in api.studies(storage)] == ["other"]
    launch("deleted")  # its name is free again


def edited(study: StudyRecord, _: Store) -> None:
    (Path(study.folder) / "quick.py").write_text("# another program\n")


def gone(study: StudyRecord, _: Store) -> None:
    shutil.rmtree(study.folder)


def newer(study: StudyRecord, store: Store) -> None:
    kept = json.loads(study.spec)
    kept["spec"]["budget"]["carbon"] = 3
    new = update(studies).where(studies.c.id == study.id)
    changed = new.values(spec=json.dumps(kept), version="99.0")
    store.transact(lambda connection: connection.execute(changed))


def threads(study: StudyRecord, store: Store) -> None:
    new = update(studies).where(studies.c.id == study.id)
    spec = study.spec.replace('"threads":1', f'"threads":{"9" * 20}')
    assert spec != study.spec
    store.transact(lambda connection: connection.execute(new.values(spec=spec)))


def of_optuna(statement: str) -> Callable[[StudyRecord, Store], None]:
    """Return a function that changes the rows of the study in one of Optuna's tables."""

    def change(study: StudyRecord, store: Store) -> None:
        mine = (
            "trial_id in (select trial_id from trials join studies using (study_id) "
            f"where study_name = '{study.name}')"
        )
        with store.engine.begin() as connection:
            assert connection.exec_driver_sql(f"{statement} and {mine}").rowcount > 0

    return change


_CHOICE = '{"name": "CategoricalDistribution", "attributes": {"choices": ["a"]}}'


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (edited, "quick.py has changed since launch"),
        (gone, "quick.py is not on this machine"),
        (newer, "budget.carbon: unknown key"),
        (newer, "(launched with sweeper 99.0; this is "),
        (threads, "task.threads: must be an integer from 1 to 4,096, got 99999999999999999999"),
        (
            of_optuna("update trial_params set distribution_json = '{' where 1"),
            "its trials in Optuna are damaged: the distribution of epsilon cannot be read",
        ),
        (
            of_optuna("update trial_params set param_name = 'x' where param_name = 'rate'"),
            "its trials in Optuna are damaged: trial 0 has no rate",
        ),
        (
            of_optuna("update trial_params set param_value = 99 where param_name = 'schedule'"),
            "its trials in Optuna cannot be read (IndexError",
        ),
        (
            of_optuna(
                f"update trial_params set distribution_json = '{_CHOICE}' "
                "where param_name = 'epsilon'"
            ),
            "ValueError: could not convert string to float: 'a'",
        ),
    ],
)
def test_unservable_study_does_not_affect_others(
    write_study: Write,
    store: Store,
    tmp_path: Path,
    spoil: Callable[[StudyRecord, Store], None],
    message: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in ("bad", "good"):
        folder = tmp_path / name
        folder.mkdir()
        copy_task(folder)
        text = STUDY.format(
            name=name, function="train", trace="", pause=0, hang=0, trials=2, rest=""
        )
        (folder / f"{name}.toml").write_text(text)
        register(store, read_here(folder / f"{name}.toml"))
    spoil(get_study(store, "bad"), store)
    with caplog.at_level(logging.WARNING):
        assert (
            work(store, WorkerOptions(results=tmp_path / "r", idle=1.5), StopRequest())
            is EndReason.IDLE
        )
    logged = [record.getMessage() for record in caplog.records]
    # Apart from the warning that 'good' has no test split.
    [line] = [text for text in logged if not text.startswith("study 'good', trial 0: the first")]
    assert line.startswith("not served by this worker: ")
    assert "study 'bad'" in line
    assert message in line
    storage = store.url.render_as_string(hide_password=False)
    assert Study("good", storage).finished
    listed = run("status", "--storage", storage)
    assert (listed.status, "good" in listed.out) == (0, True)


def test_worker_finds_task_files_in_the_given_folder(
    launch: Callable[..., Study], store: Store, tmp_path: Path
) -> None:
    study = launch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "quick.py").rename(elsewhere / "quick.py")
    with pytest.raises(SweeperError, match=r"quick\.py is not on this machine.*--folder"):
        work(store, WorkerOptions("quick", tmp_path / "r"), StopRequest())
    work(store, WorkerOptions("quick", tmp_path / "r", folder=elsewhere), StopRequest())
    assert study.finished
