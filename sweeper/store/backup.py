"""Online backup of an SQLite database."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from sweeper.errors import Conflict, DatabaseFailed, SweeperError
from sweeper.files import atomic_write
from sweeper.store.database import driver_connection
from sweeper.store.urls import is_mysql, masked_url, parse_url, sqlite_path


def copy_database(storage: str, target: Path, *, force: bool = False) -> None:
    """Write a consistent copy of an SQLite database without blocking its users.

    The file is written atomically. An existing file is only replaced with `force`. Raises
    `SweeperError` if the target cannot be written, or if the database is on a server.
    """
    url = parse_url(storage)
    source = sqlite_path(url)
    if source is None:
        tool = "mysqldump --single-transaction" if is_mysql(url) else "pg_dump"
        raise SweeperError(
            f"{masked_url(url)}: sweeper backup supports SQLite files only; back up this database "
            f"with {tool}"
        )
    with driver_connection(url) as connection:
        _check_target(target, source, force=force)
        try:
            atomic_write(target, lambda stream: _copy(connection, source, Path(stream.name)))
        except sqlite3.Error as error:
            raise DatabaseFailed(
                f"{masked_url(url)} cannot be copied to {target}: {error}"
            ) from error
        except OSError as error:
            raise SweeperError(f"{target} cannot be written: {error.strerror or error}") from error


def _copy(connection: sqlite3.Connection, source: Path, target: Path) -> None:
    shutil.copymode(source, target)  # the copy must not be readable by more users
    with closing(sqlite3.connect(target)) as copy:
        # All pages in one step. With several steps, the backup would restart at each transaction
        # of a worker.
        connection.backup(copy)
        [(check_result,), *_] = copy.execute("PRAGMA quick_check")
        if check_result != "ok":
            message = " ".join(check_result.split())
            raise sqlite3.DatabaseError(f"the database is damaged: {message}")


def _check_target(target: Path, source: Path, *, force: bool) -> None:
    """Raise `SweeperError` if writing to `target` would overwrite something it should not."""
    if target.is_dir():
        raise SweeperError(f"{target} is a folder; give a file name")
    database = source.resolve()
    if target.resolve() in {Path(f"{database}{end}") for end in ("", "-wal", "-shm", ".lock")}:
        raise SweeperError(f"{target} belongs to the database itself; choose another file")
    if target.exists() and not force:
        raise Conflict(f"{target} already exists; choose another file, or replace it with --force")
    # SQLite would apply such a journal to the copy.
    for journal in (Path(f"{target}-wal"), Path(f"{target}-journal")):
        if journal.exists() and journal.stat().st_size:
            raise Conflict(f"{journal} exists, so {target} is in use; choose another file")
