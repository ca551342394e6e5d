"""Database URLs: parsing, masking of passwords, and conversion for SQLAlchemy."""

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from sweeper.errors import SweeperError
from sweeper.files import kind_of

DEFAULT_STORAGE: Final = "sqlite:///sweeper.db"

# The driver is explicit because SQLAlchemy's default driver may change between versions.
DRIVERS: Final = {
    "sqlite": "sqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mysql+pymysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
    "mariadb+pymysql": "mysql+pymysql",
}


_ALLOWED: Final = (
    "allowed: a file path, sqlite:///FILE, postgresql://USER@HOST/DATABASE or "
    "mysql://USER@HOST/DATABASE"
)
_NOT_A_URL: Final = f"the storage is not a database URL; {_ALLOWED}"


def parse_url(text: str) -> URL:
    """Parse a database URL, or the path of an SQLite file.

    File paths are made absolute; the characters %, # and ? in them are literal. Raises
    `SweeperError` for anything else; its message never contains a password.
    """
    if not text:
        raise SweeperError(f"storage: must not be empty; {_ALLOWED}")
    scheme, separator, rest = text.partition("://")
    if not separator:
        return _sqlite_url(text)
    if scheme.lower() == "sqlite":
        if re.search(r"\?\w+=", rest):
            raise SweeperError(
                "storage: the URL of an SQLite file cannot have options; remove the ? and the text "
                "after it, or give the path without sqlite:/// if they are part of the file name"
            )
        return _sqlite_url(rest.removeprefix("/"))
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise SweeperError(_NOT_A_URL) from None
    if "@" in (url.host or ""):
        raise SweeperError("storage: write an @ in a user name or password as %40")
    if url.drivername not in DRIVERS:
        raise SweeperError(
            f"storage: {url.drivername!r} databases are not supported; "
            "allowed: sqlite, postgresql, mysql"
        )
    url = url.set(drivername=DRIVERS[url.drivername])
    if is_mysql(url) and not url.database:
        raise SweeperError(
            f"storage: {masked_url(url)} has no database name; write mysql://USER@HOST/DATABASE"
        )
    return url


def _sqlite_url(path: str) -> URL:
    if path in ("", ":memory:") or path.startswith("file:"):
        raise SweeperError(
            "storage: an in-memory SQLite database cannot be shared by workers, and SQLite's "
            "file: URIs are not supported; give a file: sqlite:///sweeper.db"
        )
    file = Path(path).absolute()
    if re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", str(file)):
        raise SweeperError(
            f"storage: {str(file)!r} contains characters that are not allowed in a URL; allowed: "
            "a path of UTF-8 text on one line"
        )
    try:
        # SQLite puts its other files next to the target of a link.
        file = Path(os.path.realpath(file))
        # `exists` raises if the name is invalid or the folder is not accessible.
        if file.exists() and not file.is_file():
            raise SweeperError(
                f"storage: {_short(file)} is {kind_of(file)}; give the name of a file"
            )
    except OSError as error:
        raise SweeperError(
            f"storage: {path!r} is not a valid file path: {error.strerror}"
        ) from None
    return URL.create("sqlite", database=str(file))


def with_password(text: str, password: str) -> str:
    """Add a separately stored password to the URL of a server.

    Raises `SweeperError` if the URL has a password, has no user, or is an SQLite file.
    """
    url = parse_url(text)
    if sqlite_path(url) is not None:
        raise SweeperError(
            "storage: an SQLite file has no password; unset SWEEPER_PASSWORD_FILE, or give the "
            "URL of a server: postgresql://USER@HOST/DATABASE"
        )
    if url.password or "password" in url.query:
        raise SweeperError(
            "storage: the URL already has a password; remove it, or unset SWEEPER_PASSWORD_FILE"
        )
    if not url.username:
        raise SweeperError(
            f"storage: {masked_url(url)} has no user, but SWEEPER_PASSWORD_FILE gives a password; "
            "write postgresql://USER@HOST/DATABASE"
        )
    return url.set(password=password).render_as_string(hide_password=False)


def masked_url(url: URL) -> str:
    """Return the URL for display: the password is masked, and the query is left out."""
    path = sqlite_path(url)
    if path is not None:
        return f"sqlite:///{_short(path)}"
    return url.set(query={}).render_as_string(hide_password=True)


def location_of(url: URL) -> str:
    """Return the location of a database, without user, password and query."""
    path = sqlite_path(url)
    if path is not None:
        return f"sqlite:///{path.resolve()}"
    return url.set(username=None, password=None, query={}).render_as_string()


def _short(path: Path) -> Path:
    """Return a path relative to the current folder if it is inside it."""
    with suppress(OSError, ValueError):
        return path.relative_to(Path.cwd())
    return path


def is_mysql(url: URL) -> bool:
    """Return whether the database is MySQL or MariaDB."""
    return url.get_backend_name() == "mysql"


def sqlite_path(url: URL) -> Path | None:
    """Return the path of an SQLite file, or None for a server."""
    if url.get_backend_name() != "sqlite" or url.database is None:
        return None
    return Path(url.database)


def check_sqlite_path(storage: str) -> None:
    """Raise `SweeperError` if the storage is an SQLite file that cannot be created."""
    path = sqlite_path(parse_url(storage))
    if path is None:
        return
    short = _short(path)
    if not path.parent.is_dir():
        raise SweeperError(
            f"storage: {short}: folder {short.parent} does not exist; create it first"
        )


def absolute(text: str) -> str:
    """Return the full URL, including its password, for use in another process."""
    url = parse_url(text)
    path = sqlite_path(url)
    return url.render_as_string(hide_password=False) if path is None else f"sqlite:///{path}"
