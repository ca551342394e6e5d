"""Fixtures that all tests share."""

import os

# Before torch is imported, here and in all processes that tests start. Tests run side by side: with
# two threads each, the linear algebra of small models costs three times the CPU time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Most tests launch training functions and count what they train; tests/test_check*.py check them.
os.environ.setdefault("SWEEPER_CHECK", "0")

import signal
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path
from textwrap import dedent
from typing import Final

import pytest
import torch

from sweeper.api.checking import checked_before_launch
from sweeper.store.database import Store, open_writer
from sweeper.store.urls import parse_url
from sweeper.trainers.client import shared_zygote
from tests.support.clusters import running_slurm
from tests.support.databases import (
    MysqlServer,
    Server,
    empty_database,
    running_mysql,
    running_postgresql,
)
from tests.support.processes import StartSweeper, started_processes
from tests.support.service_world import World, world
from tests.support.serving import stopped_after
from tests.support.studies import STUDY, copy_task

Write = Callable[..., Path]

# A shell starts background jobs with SIGINT ignored, and all processes of the tests inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests with one of these are left out of `make test FAST=1`.
SLOW_MARKERS: Final = ("chaos", "browser")
SLOW_FIXTURES: Final = frozenset(
    {
        *("postgresql", "postgresql_server", "own_server"),
        *("mysql", "mysql_server", "own_mysql_server"),
        *("slurm", "start_sweeper"),
    }
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests that start database servers, processes or a browser as slow.

    Each worker of pytest-xdist begins with its share of the longest tests, so that none of them is
    left at the end, when the other workers have nothing to do.
    """
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if SLOW_FIXTURES.intersection(fixtures) or any(map(item.get_closest_marker, SLOW_MARKERS)):
            item.add_marker(pytest.mark.slow)
    workers = getattr(config, "workerinput", {"workercount": 1})["workercount"]
    longest = [item for item in items if item.get_closest_marker("chaos")]
    others = [item for item in items if not item.get_closest_marker("chaos")]
    bounds = [len(others) * number // workers for number in range(workers + 1)]
    items[:] = [
        item
        for number in range(workers)
        for item in (*longest[number::workers], *others[bounds[number] : bounds[number + 1]])
    ]


@pytest.fixture(autouse=True)
def no_server_left() -> Iterator[None]:
    """Stop the services that a test started. Those of longer fixtures stay."""
    with stopped_after():
        yield


@pytest.fixture(scope="session", autouse=True)
def one_zygote() -> Iterator[None]:
    """Fork all servers of trainers that tests start in this process from one that has torch."""
    with shared_zygote():
        yield


@pytest.fixture(scope="session", autouse=True)
def unchecked_launches() -> Iterator[None]:
    """Launch without a check: it would be the longest part of many tests, which count runs too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sweeper.api.launching.checked_before_launch", attrgetter("file"))
        yield


@pytest.fixture
def checked_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Launch with a check, as users do."""
    monkeypatch.setattr("sweeper.api.launching.checked_before_launch", checked_before_launch)
    monkeypatch.setenv("SWEEPER_CHECK", "1")


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test of the command line in its own folder, without settings from outside."""
    monkeypatch.chdir(tmp_path)
    for name in ("SWEEPER_STORAGE", "NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def write_study(tmp_path: Path) -> Write:
    """Return a function that writes a study file, with its task beside it."""

    def write(content: str = STUDY, name: str = "quick.toml") -> Path:
        copy_task(tmp_path)
        path = tmp_path / name
        path.write_text(dedent(content))
        return path

    return write


@pytest.fixture
def storage(tmp_path: Path) -> str:
    """Return the URL of an SQLite file that is not there yet."""
    return f"sqlite:///{tmp_path}/sweeper.db"


@pytest.fixture
def store(storage: str) -> Iterator[Store]:
    """Open the test's own SQLite database to write."""
    opened = open_writer(storage)
    yield opened
    opened.close()


@pytest.fixture
def start_sweeper(storage: str, tmp_path: Path) -> Iterator[StartSweeper]:
    """Return a function that starts `sweeper ARGUMENTS` as a process; what is left is killed.

    `url` is its database, `code` what its process runs first.
    """
    with started_processes(storage, tmp_path) as start:
        yield start


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Train on one thread: two on a busy machine are many times slower for tiny models."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """Yield the URL of a server that all tests of this process share."""
    with running_postgresql() as server:
        yield server.url


@pytest.fixture
def own_server() -> Iterator[Server]:
    """Yield a server for one test alone, which may stop it."""
    with running_postgresql() as server:
        yield server


@pytest.fixture
def postgresql(postgresql_server: str) -> Iterator[str]:
    """Yield the URL of an empty database on the tests' PostgreSQL."""
    with empty_database(postgresql_server, "drop database {} with (force)") as url:
        yield url


@pytest.fixture(scope="session")
def mysql_server() -> Iterator[str]:
    """Yield the URL of a server that all tests of this process share, or the one that is named."""
    named = os.environ.get("SWEEPER_TEST_MYSQL_URL")
    if named:
        yield parse_url(named).render_as_string(hide_password=False)
        return
    with running_mysql() as server:
        yield server.url


@pytest.fixture
def own_mysql_server() -> Iterator[MysqlServer]:
    """Yield a server for one test alone, which may stop it."""
    with running_mysql() as server:
        yield server


@pytest.fixture
def mysql(mysql_server: str) -> Iterator[str]:
    """Yield the URL of an empty database on the tests' MariaDB or MySQL."""
    with empty_database(mysql_server) as url:
        yield url


@pytest.fixture(scope="session")
def slurm_environment() -> Iterator[dict[str, str]]:
    with running_slurm() as env:
        yield env


@pytest.fixture
def slurm(slurm_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Slurm's commands find a cluster of this machine, which the tests share."""
    for name, value in slurm_environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return a service with a finished study. Tests do not change it."""
    return world(tmp_path_factory.mktemp("service"))
