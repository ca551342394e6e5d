"""Opening an SQLite file, and detecting that it was removed or replaced while in use."""

import os
import sqlite3
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from sweeper.errors import DatabaseFailed

# "create" creates a missing file. "read" opens read-write if possible, so that the last reader to
# close the database can remove its -wal and -shm files.
Mode = Literal["create", "write", "read"]
_Identity = tuple[int, int] | None
_SUFFIXES = ("", "-wal", "-shm")


class SqliteFile:
    """The file of an SQLite database, with its -wal and -shm files.

    SQLite keeps using a file after it was removed or replaced, and everything that it writes is
    then lost when the process ends. Therefore each transaction first calls `check`.
    """

    def __init__(self, path: Path, timeout_seconds: float) -> None:
        self.path, self._timeout = path, timeout_seconds
        self._opened: _Identity = None
        self._gone: Path | None = None

    def connect(self, mode: Mode) -> sqlite3.Connection:
        """Return a new connection; only mode "create" creates a missing file."""
        if mode == "create":
            return self._connect("rwc")
        self._check_file()
        connection = self._connect("rw")
        if mode == "write":
            return connection
        try:
            connection.execute("PRAGMA schema_version").fetchall()
        except sqlite3.OperationalError:
            connection.close()
            if os.access(self.path.parent, os.W_OK) or not os.access(self.path, os.R_OK):
                raise
            # SQLite needs a -wal and a -shm file for reading, and cannot create them here.
            return self._connect_immutable()
        return connection

    def _connect_immutable(self) -> sqlite3.Connection:
        wal = self._file("-wal")
        if wal.exists() and wal.stat().st_size:
            raise DatabaseFailed(
                f"{self.path}: its folder is read-only, and {wal.name} contains changes that "
                "cannot be read without writing; copy both files to another folder"
            )
        return self._connect("ro&immutable=1")

    def _connect(self, mode: str) -> sqlite3.Connection:
        return sqlite3.connect(
            f"file:{quote(str(self.path))}?mode={mode}",
            timeout=self._timeout,
            isolation_level=None,
            check_same_thread=False,
            uri=True,
        )

    def file_identities(self, connection: Any) -> tuple[_Identity, ...]:
        """Return the identities of the files that a new connection uses, for `check`."""
        connection.execute("PRAGMA schema_version").fetchall()  # SQLite opens the files lazily
        return tuple(_identity(self._file(suffix)) for suffix in _SUFFIXES)

    def check(self, seen: tuple[_Identity, ...]) -> None:
        """Raise `DatabaseFailed` if a file of a connection was removed or replaced.

        SQLite removes the -wal and -shm files only with the last connection.
        """
        for suffix, before in zip(_SUFFIXES, seen, strict=True):
            if before is not None and before != _identity(self._file(suffix)):
                self._gone = self._file(suffix)
        self._check_file()

    @property
    def replaced_or_removed(self) -> bool:
        """Whether the database file, its -wal or its -shm file was removed or replaced."""
        return self._gone is not None or _identity(self.path) != self._opened

    def _check_file(self) -> None:
        self._opened = self._opened or _identity(self.path)
        if self.replaced_or_removed:
            # Permanently: a new connection would continue with new files that lack stored data.
            self._gone = self._gone or self.path
            raise DatabaseFailed(
                f"{self._gone} was removed or replaced while it was in use; the latest results "
                "may be lost; restore the database, or launch the study again"
            )

    def _file(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)


def _identity(path: Path) -> _Identity:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
