"""Starts at once, clocks apart, full and read-only disks, connections cut at a bad moment."""

import gc
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

import sweeper
from sweeper.api import Study
from sweeper.errors import SweeperError
from sweeper.store import database
from sweeper.store.database import open_writer
from sweeper.store.records import write_epoch
from sweeper.store.tickets import claim
from sweeper.study import trials
from sweeper.study.registration import register
from sweeper.worker import search
from sweeper.worker.served_studies import WorkerOptions
from sweeper.worker.stopping import StopRequest
from sweeper.worker.worker import work
from tests.support.databases import Server, cut_connections, empty_database
from tests.support.processes import ROOT, run_module
from tests.support.soak import repeats
from tests.support.store_rows import EPOCH
from tests.support.studies import RESUMABLE, read_here, steps

Write = Callable[..., Path]
pytestmark = pytest.mark.chaos

ROUNDS, WORKERS = repeats(4, soak=20), 8


class Starts:
    """One test, a subclass a backend."""

    @pytest.fixture
    def urls(self) -> list[str]:
        raise NotImplementedError

    def test_eight_workers_may_start_at_once_on_an_empty_database(
        self, urls: list[str], write_study: Write, tmp_path: Path
    ) -> None:
        file = write_study("[study]\nname='s'\n[task]\nuse='quick.py:train'\n[budget]\ntrials=8")
        done = run_module("simultaneous_starts", file, tmp_path / "r", WORKERS, *urls)
        assert done.returncode == 0, done.stderr
        for url in urls[1:]:
            study = Study("s", url)
            assert study.frame()["number"].tolist() == list(range(WORKERS))
            assert study.finished
            study.close()


class TestStartsOnSqlite(Starts):
    @pytest.fixture
    def urls(self, tmp_path: Path) -> list[str]:
        return [f"sqlite:///{tmp_path}/{number}.db" for number in range(1 + ROUNDS)]


class TestStartsOnPostgresql(Starts):
    @pytest.fixture
    def urls(self, postgresql_server: str) -> Iterator[list[str]]:
        with ExitStack() as stack:
            drop = "drop database {} with (force)"
            yield [
                stack.enter_context(empty_database(postgresql_server, drop))
                for _ in range(1 + ROUNDS)
            ]


class TestStartsOnMysql(Starts):
    @pytest.fixture
    def urls(self, mysql_server: str) -> Iterator[list[str]]:
        with ExitStack() as stack:
            yield [stack.enter_context(empty_database(mysql_server)) for _ in range(1 + ROUNDS)]


# ---- random faults -----------------------------------------------------------------------

needs_soak = pytest.mark.skipif(repeats(0, soak=1) == 0, reason="takes minutes; make soak runs it")


@pytest.mark.parametrize(
    "options",
    [
        ["--quick"],
        pytest.param(["--minutes", "5", "--trials", "40"], marks=needs_soak),
        pytest.param(["--mode", "rounds", "--trials", "40"], marks=needs_soak),
        pytest.param(["--mode", "crowd"], marks=needs_soak),
        pytest.param(["--mode", "crowd", "--database", "postgresql"], marks=needs_soak),
    ],
    ids=" ".join,
)
@pytest.mark.timeout(1800)
def test_budgets_stay_exact_under_random_faults(options: list[str]) -> None:
    command = [sys.executable, "-m", "benchmarks.chaos", *options, "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-10000:] + done.stderr[-2000:]
    assert "PASS  " in done.stdout


# ---- clocks ------------------------------------------------------------------------------

FAKETIME = shutil.which("faketime")


@pytest.mark.skipif(FAKETIME is None, reason="there is no faketime here to set a clock apart")
@pytest.mark.parametrize("ahead", ["first", "second"])
def test_clock_skew_does_not_expire_leases(
    postgresql: str, write_study: Write, tmp_path: Path, ahead: str
) -> None:
    trace = tmp_path / "trace"
    options = (
        f"options = {{ trace = '{trace}', pause = 1.2 }}"  # longer than a worker takes to start
    )
    content = RESUMABLE.format(trace="", trials=1).replace("options = { trace = '' }", options)
    store = open_writer(postgresql)
    record = register(store, read_here(write_study(content)))
    command = [sys.executable, "-m", "sweeper", "worker", "quick"]
    # The clock of the wall alone: with the monotonic one set apart, no wait would end.
    wall = {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
    env = {**os.environ, **wall, "SWEEPER_STORAGE": postgresql}
    processes: list[subprocess.Popen[bytes]] = []
    for which in ("first", "second"):
        apart = [str(FAKETIME), "-f", "+1h"] if which == ahead else []
        processes.append(subprocess.Popen([*apart, *command], cwd=tmp_path, env=env))
        while not trace.exists():  # until the first has claimed the only ticket
            assert processes[0].poll() is None
    assert [process.wait(120) for process in processes] == [0, 0]
    assert steps(trace) == [(0.0, epoch) for epoch in range(1, 9)]
    study = Study(record.name, postgresql)
    assert study.progress().retried == 0
    study.close()
    store.close()


# ---- disks -------------------------------------------------------------------------------


@contextmanager
def small_disk(kilobytes: int) -> Iterator[Path]:
    """Yield a folder on a disk of its own."""
    folder = Path(tempfile.mkdtemp(prefix="sweeper-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        folder.rmdir()
        pytest.skip("a disk of its own can be mounted by root alone")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


def test_full_disk_is_reported_and_study_resumes(write_study: Write, tmp_path: Path) -> None:
    file = write_study()
    with small_disk(kilobytes=4096) as disk:
        storage, ballast = f"sqlite:///{disk}/s.db", disk / "ballast"
        store = open_writer(storage)
        register(store, read_here(file))
        work(store, WorkerOptions("quick", tmp_path / "r", trials=3), StopRequest())
        fill(ballast)
        with pytest.raises(SweeperError, match=r"s\.db: its disk is full; free some space"):
            work(store, WorkerOptions("quick", tmp_path / "r"), StopRequest())
        store.close()
        ballast.unlink()
        study = sweeper.launch(file, workers=0, storage=storage, results=tmp_path / "r")
        assert study.frame()["number"].tolist() == list(range(12))
        assert set(study.frame()["state"]) <= {"complete", "pruned"}
        assert study.epochs().groupby("number").size().tolist() == study.frame()["epochs"].tolist()
        study.close()


def fill(path: Path) -> None:
    """Write until there is no room left."""
    with path.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"\0" * 512)
        except OSError:
            return


def test_read_only_database_is_reported_and_study_resumes(
    write_study: Write, tmp_path: Path
) -> None:
    file = write_study()
    with small_disk(kilobytes=8192) as disk:
        storage = f"sqlite:///{disk}/s.db"
        store = open_writer(storage)
        register(store, read_here(file))
        work(store, WorkerOptions("quick", tmp_path / "r", trials=3), StopRequest())
        store.close()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(
            SweeperError, match=r"s\.db: it .*make the file, its folder and its disk .*writable"
        ):
            sweeper.launch(file, workers=0, storage=storage, results=tmp_path / "r")
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        study = sweeper.launch(file, workers=0, storage=storage, results=tmp_path / "r")
        assert study.finished
        assert study.frame()["number"].tolist() == list(range(12))
        study.close()


# ---- connections -------------------------------------------------------------------------


def test_lost_connection_between_tell_and_close_loses_no_trial(
    postgresql: str, write_study: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "trace"
    store = open_writer(postgresql)
    register(store, read_here(write_study(RESUMABLE.format(trace=trace, trials=3))))
    told, cuts = trials.tell, []

    def tell_and_cut(*args: object) -> None:
        told(*args)  # type: ignore[arg-type]
        cut_connections(store)
        cuts.append(1)

    monkeypatch.setattr(search, "tell", tell_and_cut)
    work(store, WorkerOptions("quick", tmp_path / "r"), StopRequest())
    store.close()
    assert len(cuts) == 3
    trained = steps(trace)
    assert len(trained) == len(set(trained)) == 24
    study = Study("quick", postgresql)
    assert study.finished
    study.close()


def test_forked_process_does_not_close_parent_connections(
    postgresql: str, write_study: Write
) -> None:
    store = open_writer(postgresql)
    record = register(store, read_here(write_study()))
    ticket = claim(store, record.id, "parent", below=12)
    assert ticket is not None
    write_epoch(store, ticket, EPOCH)  # so that both kinds of connection are open
    child = os.fork()
    if child == 0:
        try:
            taken = claim(store, record.id, "child", below=12)
            store.close()
            os._exit(0 if taken is not None and taken.number == 1 else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    pids = text("select count(*) from pg_stat_activity where datname = current_database()")
    with store.engine.connect() as connection:
        before = connection.execute(pids).scalar_one()
    write_epoch(store, ticket, replace(EPOCH, epoch=2))
    with store.engine.connect() as connection:
        assert connection.execute(pids).scalar_one() == before  # none had to be opened again
    store.close()


# Optuna leaves its engine behind where its constructor cannot connect a second time.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_too_many_connections_error_has_advice(
    own_server: Server,
) -> None:
    open_writer(own_server.url).close()
    engine = create_engine(own_server.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("alter system set max_connections = 6"))
        connection.execute(text("alter system set max_wal_senders = 0"))
        connection.execute(text("alter system set superuser_reserved_connections = 0"))
    engine.dispose()
    own_server.stop()
    own_server.start()
    engine = create_engine(own_server.url, pool_size=10)
    taken, output = [], ""
    for _ in range(8):
        try:
            taken.append(engine.connect())
            open_writer(own_server.url).close()
        except SweeperError as error:
            output = str(error)
            break
    for connection in taken:
        connection.close()
    engine.dispose()
    gc.collect()
    assert "accepts no more connections; run fewer workers, or raise its max_connections" in output


def test_held_launch_lock_is_reported(postgresql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_TIMEOUT_SECONDS", 1)
    store = open_writer(postgresql)
    with (
        store.exclusive_lock(),
        pytest.raises(SweeperError, match="its launch lock was held by another"),
        store.exclusive_lock(),
    ):
        raise AssertionError("two were inside")
    store.close()
