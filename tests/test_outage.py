"""A database that does not answer: what is done again, and what is not."""

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import psycopg
import pymysql
import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import QueuePool

from sweeper.api import Study
from sweeper.errors import SweeperError
from sweeper.report.optuna_dashboard import write_note
from sweeper.store.database import Store, open_reader, open_writer
from sweeper.store.records import write_epoch
from sweeper.store.retry import is_transient
from sweeper.store.tickets import claim, renew
from sweeper.study.registration import register
from sweeper.worker import search
from sweeper.worker.served_studies import WorkerOptions
from sweeper.worker.stopping import StopRequest
from sweeper.worker.worker import work as run_worker
from tests.support.databases import Server, cut_connections
from tests.support.store_rows import EPOCH
from tests.support.studies import read_here

pytestmark = pytest.mark.slow

Write = Callable[..., Path]


@pytest.fixture(params=["postgresql", "mysql"])
def url(request: pytest.FixtureRequest) -> str:
    """Return the URL of an empty database of a server, of each kind."""
    found: str = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = open_writer(url)
    yield opened
    opened.close()


def test_operation_is_retried_after_lost_connection(store: Store) -> None:
    calls = []

    def work(connection: Connection) -> int:
        calls.append(1)
        if len(calls) == 1:
            cut_connections(store)
        return int(connection.execute(text("select 42")).scalar_one())

    assert store.transact(work) == 42
    assert len(calls) == 2


def test_permanent_errors_are_not_retried(store: Store) -> None:
    calls = []

    def work(connection: Connection) -> None:
        calls.append(1)
        connection.execute(text("select * from nothing"))

    with pytest.raises(SweeperError, match="nothing"):
        store.transact(work)
    assert len(calls) == 1


def test_garbage_collected_study_closes_its_connections(write_study: Write, store: Store) -> None:
    study = Study("quick", store.url.render_as_string(hide_password=False))
    register(store, read_here(write_study()))
    assert len(study.frame()) == 1
    pool = study._store.engine.pool
    assert isinstance(pool, QueuePool)
    assert pool.checkedin() == 1
    del study
    gc.collect()
    assert pool.checkedin() == 0


def test_reader_does_not_retry(url: str) -> None:
    open_writer(url).close()
    reader = open_reader(url)
    calls = []

    def work(connection: Connection) -> None:
        calls.append(1)
        cut_connections(reader)
        connection.execute(text("select 1"))

    with pytest.raises(SweeperError):
        reader.transact(work)
    reader.close()
    assert len(calls) == 1


def test_a_worker_keeps_one_connection(store: Store, write_study: Write) -> None:
    record = register(store, read_here(write_study()))
    ticket = claim(store, record.id, "somebody", below=12)
    assert ticket is not None
    for epoch in (1, 2):
        write_epoch(store, ticket, replace(EPOCH, epoch=epoch))
        with ThreadPoolExecutor(1) as other:
            other.submit(renew, store, [ticket]).result()
        assert claim(store, record.id, "somebody", below=1) is None
    write_epoch(store, ticket, replace(EPOCH, epoch=3))
    of_database = {
        "mysql": "select count(*) from information_schema.processlist where db = database()",
        "postgresql": "select count(*) from pg_stat_activity where datname = current_database()",
    }
    engine = create_engine(store.url)
    with engine.connect() as connection:
        query = text(of_database[engine.dialect.name])
        while connection.execute(query).scalar_one() > 2:  # its own, and one that is being closed
            pass
        assert connection.execute(query).scalar_one() == 2
    engine.dispose()


def losing_the_first_answer(function: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    """Do as the function does, but let its first call end as when the connection is cut."""
    calls = []

    def called(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        calls.append(1)
        if len(calls) == 1:
            raise error
        return result

    return called


def cut_of(store: Store) -> Exception:
    """Return what the store's driver says of a connection that was cut."""
    if store.engine.dialect.name == "mysql":
        return pymysql.err.OperationalError(2013, "Lost connection to server during query")
    return psycopg.OperationalError("server closed the connection unexpectedly")


def lose_the_first_commit_of(name: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the answer to the first commit of a function be lost; return what says that it was."""
    function, commit = getattr(search, name), store.engine.dialect.do_commit
    within: list[int] = []
    lost: list[int] = []

    def called(*args: Any) -> Any:
        within.append(1)
        try:
            return function(*args)
        finally:
            within.clear()

    def commits(connection: Any) -> None:
        commit(connection)
        if within and not lost:
            lost.append(1)
            raise cut_of(store)

    monkeypatch.setattr(search, name, called)
    monkeypatch.setattr(store.engine.dialect, "do_commit", commits)
    return lost


@pytest.mark.parametrize("name", ["write_epoch", "create_optuna_trial", "tell"])
def test_write_with_lost_response_is_stored_once(
    name: str, write_study: Write, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = register(store, read_here(write_study()))
    if name == "write_epoch":
        cut = OperationalError("insert", None, cut_of(store))
        run = losing_the_first_answer(Store._run_on_driver, cut)
        monkeypatch.setattr(Store, "_run_on_driver", run)
    else:
        lost = lose_the_first_commit_of(name, store, monkeypatch)
    run_worker(store, WorkerOptions(record.name, Path(record.folder) / "results"), StopRequest())
    assert name == "write_epoch" or lost
    study = Study("quick", store.url.render_as_string(hide_password=False))
    assert study.frame()["ticket"].tolist() == list(range(12))
    assert set(study.frame()["state"]) <= {"complete", "pruned"}
    assert study.epochs().groupby("number").size().tolist() == study.frame()["epochs"].tolist()
    study.close()


def test_note_is_written_after_lost_connection(
    write_study: Write, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(store, read_here(write_study()))
    commit, cuts = store.engine.dialect.do_commit, list[int]()

    def commits(connection: Any) -> None:
        if not cuts:
            cuts.append(1)
            raise cut_of(store)
        commit(connection)

    monkeypatch.setattr(store.engine.dialect, "do_commit", commits)
    write_note(store, "quick", "what was found", {})
    assert cuts
    study = optuna.load_study(study_name="quick", storage=store.storage)
    assert "what was found" in str(store.storage.get_study_system_attrs(study._study_id))


@pytest.mark.chaos
def test_worker_of_launch_waits_for_unreachable_server(
    own_server: Server, write_study: Write, tmp_path: Path
) -> None:
    store = open_writer(own_server.url)
    register(store, read_here(write_study()))
    store.close()
    own_server.stop()
    launch = {"SWEEPER_STORAGE": own_server.url, "SWEEPER_PARENT": str(os.getpid())}
    command = [sys.executable, "-m", "sweeper", "worker", "quick"]
    with subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, **launch}, stderr=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stderr is not None
        assert "retrying for 600 s" in worker.stderr.readline()
        own_server.start()
        assert worker.wait(60) == 0, worker.stderr.read()
    study = Study("quick", own_server.url)
    assert study.finished
    study.close()


class Numbered(Exception):
    """An error as MySQL's drivers make them."""


@pytest.mark.parametrize(
    ("number", "passes"), [(2006, True), (1213, True), (1045, False), (1146, False)]
)
def test_mysql_errors_are_classified_by_number(number: int, passes: bool) -> None:
    error = DBAPIError("select 1", None, Numbered(number, "said the server"))
    assert is_transient(error) is passes
