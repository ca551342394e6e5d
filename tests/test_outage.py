"""A database that does not answer: what is done again, and what is not."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, OperationalError

from sweeper.api import Study
from sweeper.errors import SweeperError
from sweeper.store.database import Store, open_reader, open_writer
from sweeper.store.retry import is_transient
from sweeper.study.load import read_study
from sweeper.study.registration import register
from sweeper.worker import attempt
from sweeper.worker.stopping import StopRequest
from sweeper.worker.worker import Terms
from sweeper.worker.worker import work as run_worker
from tests.support.databases import Server, cut

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


def test_work_is_done_again_when_its_connection_is_cut(store: Store) -> None:
    calls = []

    def work(connection: Connection) -> int:
        calls.append(1)
        if len(calls) == 1:
            cut(store)
        return int(connection.execute(text("select 42")).scalar_one())

    assert store.transact(work) == 42
    assert len(calls) == 2


def test_what_does_not_pass_is_not_tried_again(store: Store) -> None:
    calls = []

    def work(connection: Connection) -> None:
        calls.append(1)
        connection.execute(text("select * from nothing"))

    with pytest.raises(SweeperError, match="nothing"):
        store.transact(work)
    assert len(calls) == 1


def test_a_reader_does_not_wait(url: str) -> None:
    open_writer(url).close()
    reader = open_reader(url)
    calls = []

    def work(connection: Connection) -> None:
        calls.append(1)
        cut(reader)
        connection.execute(text("select 1"))

    with pytest.raises(SweeperError):
        reader.transact(work)
    reader.close()
    assert len(calls) == 1


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
    function, commit = getattr(attempt, name), store.engine.dialect.do_commit
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

    monkeypatch.setattr(attempt, name, called)
    monkeypatch.setattr(store.engine.dialect, "do_commit", commits)
    return lost


@pytest.mark.parametrize("name", ["write_epoch", "bear_trial", "tell"])
def test_a_write_whose_answer_was_lost_is_there_once(
    name: str, write_study: Write, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = register(store, read_study(write_study()))
    if name == "write_epoch":
        cut = OperationalError("insert", None, cut_of(store))
        run = losing_the_first_answer(Store._run_on_own, cut)
        monkeypatch.setattr(Store, "_run_on_own", run)
    else:
        lost = lose_the_first_commit_of(name, store, monkeypatch)
    run_worker(store, Terms(record.name, Path(record.folder) / "results"), StopRequest())
    assert name == "write_epoch" or lost
    study = Study("quick", store.url.render_as_string(hide_password=False))
    assert study.frame()["ticket"].tolist() == list(range(12))
    assert set(study.frame()["state"]) <= {"complete", "pruned"}
    assert study.epochs().groupby("number").size().tolist() == study.frame()["epochs"].tolist()
    study.close()


@pytest.mark.chaos
def test_a_worker_of_a_launch_waits_for_a_server_that_is_away(
    own_server: Server, write_study: Write, tmp_path: Path
) -> None:
    store = open_writer(own_server.url)
    register(store, read_study(write_study()))
    store.close()
    own_server.stop()
    launch = {"SWEEPER_STORAGE": own_server.url, "SWEEPER_PARENT": str(os.getpid())}
    command = [sys.executable, "-m", "sweeper", "worker", "quick"]
    with subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, **launch}, stderr=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stderr is not None
        assert "trying again for 600 s" in worker.stderr.readline()
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
def test_errors_of_mysql_are_told_apart_by_number(number: int, passes: bool) -> None:
    error = DBAPIError("select 1", None, Numbered(number, "said the server"))
    assert is_transient(error) is passes
