"""A database that goes away in mid-sweep and comes back."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from sweeper.api import Study
from sweeper.errors import SweeperError
from sweeper.store.database import Store, open_reader, open_writer
from sweeper.store.retry import is_transient
from tests.conftest import Server

Write = Callable[..., Path]

SLOW = """
[study]
name = "slow"
[task]
use = "quick.py:slow"
options = {{ trace = '{trace}', pause = 0.05 }}
[budget]
trials = 24
"""


def wait_for(study: Study, ended: int, launch: subprocess.Popen[str]) -> None:
    """Look until so many trials have ended, for as long as the launch lives."""
    while launch.poll() is None:
        try:
            if study.progress().ended >= ended:
                return
        except SweeperError:
            pass  # not made yet
        time.sleep(0.02)
    raise AssertionError(launch.communicate()[0])


@pytest.mark.chaos
@pytest.mark.parametrize("seconds", [0, 20, 60])
def test_postgresql_stopped_in_mid_sweep_loses_no_worker_and_no_result(
    write_study: Write, own_server: Server, tmp_path: Path, seconds: float
) -> None:
    trace = tmp_path / "trace"
    file = write_study(SLOW.format(trace=trace), "slow.toml")
    launch = subprocess.Popen(
        [sys.executable, "-m", "sweeper", "launch", str(file), "--workers", "2"],
        cwd=tmp_path,
        env={**os.environ, "SWEEPER_STORAGE": own_server.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    study = Study("slow", own_server.url)
    try:
        wait_for(study, 5, launch)
        own_server.stop()
        time.sleep(seconds)  # the outage
        own_server.start()
        output = launch.communicate(timeout=120)[0]
    finally:
        launch.kill()
        launch.communicate()
    assert launch.returncode == 0, output
    frame = study.frame()
    assert frame["number"].tolist() == list(range(24))
    assert sorted(frame["ticket"]) == list(range(24))
    assert set(frame["state"]) <= {"complete", "pruned"}
    # No worker was replaced, and none trained anything again but what it was at.
    assert len(list((tmp_path / "results" / "slow" / "logs").glob("worker-*.log"))) == 2
    assert 24 <= len(trace.read_text().split()) <= 26


@pytest.fixture
def store(postgresql: str) -> Iterator[Store]:
    opened = open_writer(postgresql)
    yield opened
    opened.close()


def cut(store: Store) -> None:
    """End every other connection to the store's database, as a failing network does."""
    engine = create_engine(store.url)
    with engine.connect() as connection:
        connection.execute(
            text(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid()"
            )
        )
    engine.dispose()


def test_work_is_done_again_when_its_connection_is_cut(store: Store) -> None:
    calls = []

    def work(connection: object) -> int:
        calls.append(1)
        if len(calls) == 1:
            cut(store)
        return int(connection.execute(text("select 42")).scalar_one())  # type: ignore[attr-defined]

    assert store.transact(work) == 42
    assert len(calls) == 2


def test_what_does_not_pass_is_not_tried_again(store: Store) -> None:
    calls = []

    def work(connection: object) -> None:
        calls.append(1)
        connection.execute(text("select * from nothing"))  # type: ignore[attr-defined]

    with pytest.raises(SweeperError, match="nothing"):
        store.transact(work)
    assert len(calls) == 1


def test_a_reader_does_not_wait(postgresql: str) -> None:
    open_writer(postgresql).close()
    reader = open_reader(postgresql)
    calls = []

    def work(connection: object) -> None:
        calls.append(1)
        cut(reader)
        connection.execute(text("select 1"))  # type: ignore[attr-defined]

    with pytest.raises(SweeperError):
        reader.transact(work)
    reader.close()
    assert len(calls) == 1


class Numbered(Exception):
    """An error as MySQL's drivers make them."""


@pytest.mark.parametrize(
    ("number", "passes"), [(2006, True), (1213, True), (1045, False), (1146, False)]
)
def test_errors_of_mysql_are_told_apart_by_number(number: int, passes: bool) -> None:
    error = DBAPIError("select 1", None, Numbered(number, "said the server"))
    assert is_transient(error) is passes
