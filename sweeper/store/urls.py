"""Database URLs: what a person may write, what SQLAlchemy needs, what may be printed."""

from pathlib import Path
from typing import Final

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from sweeper.errors import SweeperError

DEFAULT_STORAGE: Final = "sqlite:///sweeper.db"

# Always with a driver: a bare name means another driver from one SQLAlchemy to the next.
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


def parse_url(text: str) -> URL:
    """Return the URL of a database given as an URL or as the path of an SQLite file.

    Raises `SweeperError` for anything else, without ever repeating a password.
    """
    try:
        url = make_url(text if "://" in text else f"sqlite:///{text}")
    except (ArgumentError, ValueError):
        raise SweeperError(
            "the storage is not a database URL; allowed: a file path, sqlite:///FILE, "
            "postgresql://USER@HOST/DATABASE or mysql://USER@HOST/DATABASE"
        ) from None
    if "@" in (url.host or ""):
        raise SweeperError("storage: a password with an @ in it is written with %40 in its place")
    if url.drivername not in DRIVERS:
        raise SweeperError(
            f"storage: {url.drivername!r} databases are not served; "
            "allowed: sqlite, postgresql, mysql"
        )
    if url.drivername == "sqlite" and url.database in (None, "", ":memory:"):
        raise SweeperError(
            "storage: an SQLite database in memory cannot be shared by workers; "
            "give a file: sqlite:///sweeper.db"
        )
    return url.set(drivername=DRIVERS[url.drivername])


def with_password(text: str, password: str) -> str:
    """Return the URL of a server in full, with the password that was kept apart from it.

    Raises `SweeperError` where the URL has one already or cannot take one.
    """
    url = parse_url(text)
    if sqlite_path(url) is not None:
        raise SweeperError(
            "storage: an SQLite file takes no password; leave SWEEPER_PASSWORD_FILE out, or name "
            "a server: postgresql://USER@HOST/DATABASE"
        )
    if url.password or "password" in url.query:
        raise SweeperError(
            "storage: the URL has a password already; leave that one out, or SWEEPER_PASSWORD_FILE"
        )
    if not url.username:
        raise SweeperError(
            f"storage: {masked(url)} names no user, whose password SWEEPER_PASSWORD_FILE would "
            "hold; write postgresql://USER@HOST/DATABASE"
        )
    return url.set(password=password).render_as_string(hide_password=False)


def masked(url: URL) -> str:
    """Return the URL as it may be printed: without its password or its query."""
    return url.set(query={}).render_as_string(hide_password=True)


def is_mysql(url: URL) -> bool:
    """Return whether the URL is of MySQL or MariaDB."""
    return url.get_backend_name() == "mysql"


def sqlite_path(url: URL) -> Path | None:
    """Return the file of an SQLite URL, or None for a server."""
    if url.get_backend_name() != "sqlite" or url.database is None:
        return None
    return Path(url.database)


def check_place(storage: str) -> None:
    """Raise `SweeperError` where the storage is a file that could not be made."""
    path = sqlite_path(parse_url(storage))
    if path is None:
        return
    if path.is_dir():
        raise SweeperError(f"storage: {path} is a folder; name a file in it")
    if not path.absolute().parent.is_dir():
        raise SweeperError(f"storage: {path}: there is no folder {path.parent}; make it first")


def absolute(text: str) -> str:
    """Return the URL in full, password included, to hand to another process."""
    url = parse_url(text)
    path = sqlite_path(url)
    if path is not None:
        url = url.set(database=str(path.resolve()))
    return url.render_as_string(hide_password=False)
