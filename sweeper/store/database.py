"""Opening databases: writers for workers and launches, readers for everything else."""

import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial, wraps
from hashlib import sha256
from operator import methodcaller
from typing import Any, Concatenate, Final, Literal, ParamSpec, TypeVar

import optuna
from filelock import FileLock, Timeout
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages._rdb import models
from sqlalchemy import Connection, Engine, create_engine, event, func, inspect, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, SQLAlchemyError

from sweeper.errors import DatabaseFailed, DataRefused, SweeperError
from sweeper.extras import Extra, pip_install, require
from sweeper.store.interrupts import delayed_interrupts
from sweeper.store.migrate import Age, schema_age, upgrade
from sweeper.store.retry import is_about_data, is_transient, reason, retry_transient
from sweeper.store.sqlite_file import Mode, SqliteFile
from sweeper.store.urls import is_mysql, location_of, masked_url, parse_url, sqlite_path

Role = Literal["writer", "reader"]
T = TypeVar("T")
P = ParamSpec("P")

# Longer than any transaction of sweeper or Optuna.
LOCK_TIMEOUT_SECONDS: Final = 30
# Connections that a worker keeps open to a server. More are opened briefly when needed, for example
# by the thread that renews leases.
CONNECTIONS: Final = 1
# Long enough for a server to be restarted or moved. A worker that gives up must be restarted.
OUTAGE_SECONDS: Final = 600
# "swpr" in ASCII. All sweeper processes on a server use this lock to create the schema.
_ADVISORY_LOCK: Final = 0x73777072


class SchemaMissing(SweeperError):
    """The database does not exist, or has no sweeper tables."""


@dataclass(frozen=True)
class Store:
    """An open database: Optuna's storage and the SQLAlchemy engine that it shares with our tables.

    Trials are read through `optuna_reader`, which caches finished trials. On SQLite it takes no
    write lock, unlike a writer's transactions, so workers that read thousands of trials do not
    block each other.
    """

    url: URL
    role: Role
    storage: optuna.storages.RDBStorage
    optuna_reader: _CachedStorage = field(repr=False, compare=False)
    file: SqliteFile | None = field(repr=False, compare=False)
    # How long operations are retried while the database is unreachable.
    outage_seconds: float = 0.0
    # The connection that `execute_on_driver` keeps open in each thread.
    _thread: threading.local = field(default_factory=threading.local, repr=False, compare=False)

    @property
    def engine(self) -> Engine:
        """SQLAlchemy engine for Optuna's tables and ours."""
        return self.storage.engine

    def __post_init__(self) -> None:
        _open.add(self)

    def __str__(self) -> str:
        return masked_url(self.url)

    @property
    def location(self) -> str:
        """Location of the database, without user and password."""
        return location_of(self.url)

    def optuna_writer(self) -> _CachedStorage:
        """Return a caching Optuna storage that can write, for pruners."""
        return _CachedStorage(self.storage)

    def transact(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on our tables in one transaction, retried like `retry`.

        `work` must not call Optuna: on SQLite, Optuna would wait for the lock held here.
        """

        def attempt() -> T:
            with self.engine.begin() as connection:
                return work(connection)

        return self.retry(attempt)

    def execute_on_driver(self, statement: str, parameters: Any) -> int:
        """Run one statement in its own transaction, directly on the driver; return its row count.

        For statements that run every epoch: SQLAlchemy and its connection pool cost twice as much
        as the database itself. A retried statement that turns out to be committed already returns
        1.
        """
        try:
            return self._run_on_driver(statement, parameters)
        except SQLAlchemyError as error:
            with readable_errors(self.url):
                if not is_transient(error):
                    raise
        return self.retry(lambda: self._retry_on_driver(statement, parameters))

    def _retry_on_driver(self, statement: str, parameters: Any) -> int:
        try:
            return self._run_on_driver(statement, parameters)
        except IntegrityError:
            return 1  # committed by the first call, whose response was lost

    @delayed_interrupts()
    def _run_on_driver(self, statement: str, parameters: Any) -> int:
        raw = vars(self._thread).pop("raw", None)
        try:
            raw = raw or self.engine.raw_connection()
            if self.file is not None:
                self.file.check(raw.info["files"])
            cursor = raw.cursor()
            cursor.execute(statement, parameters)
            raw.commit()
        except BaseException as error:
            if raw is not None:
                raw.invalidate()
            if isinstance(error, self._driver.Error):
                raise DBAPIError.instance(statement, None, error, self._driver.Error) from error
            raise
        self._thread.raw = raw
        return int(cursor.rowcount)

    def retry(self, work: Callable[[], T]) -> T:
        """Run `work` on the database; retry it after transient errors.

        `work` may use Optuna or our tables. Errors are retried for `outage_seconds`; see
        `sweeper.store.retry.retry_transient`.
        """

        def attempt() -> T:
            self._release_thread_connection()
            try:
                with delayed_interrupts():
                    return work()
            except (SQLAlchemyError, optuna.exceptions.StorageInternalError):
                # Optuna leaves its session in a failed transaction.
                self.storage.remove_session()
                self.optuna_reader.remove_session()
                raise

        with readable_errors(self.url):
            return retry_transient(attempt, seconds=self.outage_seconds, database=str(self))

    def _release_thread_connection(self) -> None:
        """Return the connection of `execute_on_driver` to the pool: servers limit connections."""
        if sqlite_path(self.url) is None:
            raw = vars(self._thread).pop("raw", None)
            if raw is not None:
                raw.close()

    @property
    def _driver(self) -> Any:
        return self.engine.dialect.loaded_dbapi

    @contextmanager
    def exclusive_lock(self) -> Iterator[None]:
        """Lock out all other launches on this database; Optuna may be called inside."""
        with readable_errors(self.url), _lock(self.url):
            yield

    def close(self) -> None:
        raw = vars(self._thread).pop("raw", None)
        if raw is not None:
            raw.close()
        for storage in (self.storage, self.optuna_reader):
            storage.remove_session()
        for engine in self._engines():
            engine.dispose()

    def drop_inherited_connections(self) -> None:
        """In a forked process, such as a data loader, stop using the parent's connections."""
        _inherited.append(vars(self._thread).pop("raw", None))
        for engine in self._engines():
            _inherited.append(engine.pool)
            engine.dispose(close=False)

    def _engines(self) -> list[Engine]:
        reader = self.optuna_reader._backend.engine
        # The writer must close an SQLite file last, because it can remove the -wal and -shm files.
        return [self.engine] if reader is self.engine else [reader, self.engine]


_open: Final[weakref.WeakSet[Store]] = weakref.WeakSet()
# Connections of the parent process. They are kept here so that they are never closed: closing one
# would also end it for the parent.
_inherited: Final[list[Any]] = []


def _drop_all_inherited_connections() -> None:
    for store in _open:
        store.drop_inherited_connections()


os.register_at_fork(after_in_child=_drop_all_inherited_connections)


def transaction(
    work: Callable[Concatenate[Connection, P], T],
) -> Callable[Concatenate[Store, P], T]:
    """Decorate a function of a connection to take a `Store` and run in its own transaction."""

    @wraps(work)
    def run(store: Store, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return store.transact(lambda connection: work(connection, *args, **kwargs))

    return run


def open_writer(storage: str, wait_seconds: float = 0.0) -> Store:
    """Open a database for a worker or a launch; create or upgrade the schema if necessary.

    An unreachable server is retried for up to `wait_seconds` here, and for up to `OUTAGE_SECONDS`
    in later operations.
    """
    url = parse_url(storage)

    def attempt() -> Store:
        ensure_schema(url)
        return _store(url, "writer", OUTAGE_SECONDS)

    with readable_errors(url):
        return retry_transient(attempt, seconds=wait_seconds, database=masked_url(url))


def open_reader(storage: str, wait_seconds: float = 0.0) -> Store:
    """Open a database read-only.

    An unreachable server is retried for up to `wait_seconds`. Raises `SchemaMissing` if the
    database does not exist or has no sweeper tables, and `DatabaseFailed` if an older or newer
    sweeper created them.
    """
    url = parse_url(storage)
    with readable_errors(url):
        return retry_transient(lambda: _reader(url), seconds=wait_seconds, database=masked_url(url))


def _reader(url: URL) -> Store:
    if _existing_schema_age(url) == "older":
        raise DatabaseFailed(
            f"{masked_url(url)} was created by an older version of sweeper; upgrade its tables "
            "with "
            "sweeper init, or launch a study"
        )
    return _store(url, "reader")


@contextmanager
def driver_connection(url: URL) -> Iterator[Any]:
    """Open a raw, read-only driver connection; the schema may be older than this version.

    Raises `SchemaMissing` if the database does not exist or has no sweeper tables.
    """
    with readable_errors(url):
        _existing_schema_age(url)
        engine = _engine(url, "reader")
        try:
            with closing(engine.raw_connection()) as connection:
                yield connection.driver_connection
        finally:
            engine.dispose()


def _existing_schema_age(url: URL) -> Age:
    """Return the age of the schema; raises `SchemaMissing` if there is none."""
    path = sqlite_path(url)
    if path is not None and not path.is_file():
        raise SchemaMissing(
            f"{masked_url(url)}: file not found; launch a study first, or give another --storage"
        )
    age = _schema_age(url)
    if age == "none":
        raise SchemaMissing(
            f"{masked_url(url)} contains no sweeper studies; launch one first, or give another "
            "--storage"
        )
    return age


def is_older(storage: str) -> bool:
    """Return whether the schema was created by an older version of sweeper.

    Raises `NewerSchema` if a newer version created it.
    """
    url = parse_url(storage)
    with readable_errors(url):
        return _schema_age(url) == "older"


def _store(url: URL, role: Role, outage_seconds: float = 0.0) -> Store:
    file = _file(url)
    storage = _storage(url, role, file)
    locks = role == "writer" and file is not None
    reader = _CachedStorage(_storage(url, "reader", file) if locks else storage)
    return Store(url, role, storage, reader, file, outage_seconds)


def _file(url: URL) -> SqliteFile | None:
    path = sqlite_path(url)
    return None if path is None else SqliteFile(path, LOCK_TIMEOUT_SECONDS)


def ensure_schema(url: URL) -> None:
    """Create or upgrade Optuna's tables and ours, under a lock.

    Without the lock, table creation in Optuna can fail when several workers start on an empty
    database.
    """
    if _schema_age(url) == "current":
        return
    with _lock(url):
        _use_wal(url)
        # Optuna's constructor creates the tables before listeners can be added to its engine.
        _optuna_storage(url, _engine_kwargs(url, "writer", _file(url))).engine.dispose()
        engine = _engine(url)
        try:
            upgrade(engine)
            _compare_exactly(engine)
        finally:
            engine.dispose()


def _compare_exactly(engine: Engine) -> None:
    """Set a binary collation for Optuna's tables in MySQL; see the end of schema.py."""
    if engine.dialect.name != "mysql":
        return
    with engine.connect() as connection:
        for table in models.BaseModel.metadata.tables:
            connection.exec_driver_sql(
                f"alter table {table} convert to character set utf8mb4 collate utf8mb4_bin"
            )


def _use_wal(url: URL) -> None:
    """Enable the write-ahead log of an SQLite file.

    This is not done per connection: two connections that change the journal mode at the same time
    fail immediately, regardless of their timeout.
    """
    file = _file(url)
    if file is not None:
        with closing(file.connect("create")) as connection:
            connection.execute("PRAGMA journal_mode=WAL")


@contextmanager
def readable_errors(url: URL) -> Iterator[None]:
    """Turn exceptions of a database driver into one-line errors that name the database."""
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        if is_about_data(error):
            raise DataRefused(f"{masked_url(url)}: {reason(error)}") from error
        raise DatabaseFailed(f"{masked_url(url)}: {reason(error, LOCK_TIMEOUT_SECONDS)}") from error
    except ImportError as error:
        if sqlite_path(url) is not None:
            raise
        driver: Extra = "mysql" if is_mysql(url) else "postgresql"
        require(driver, f"{driver}:// storage")
        raise DatabaseFailed(
            f"{masked_url(url)} cannot be opened: {error}; run: {pip_install(driver)}"
        ) from error
    except (OSError, sqlite3.Error) as error:
        raise DatabaseFailed(f"{masked_url(url)} cannot be opened: {error}") from error


def _schema_age(url: URL) -> Age:
    path = sqlite_path(url)
    if path is not None and not path.exists():
        return "none"
    with _readable_url_errors(url):
        engine = _engine(url, "reader")
        try:
            with engine.connect() as connection:
                if not inspect(connection).has_table("version_info"):
                    return "none"
                return schema_age(connection)
        finally:
            engine.dispose()


@contextmanager
def _readable_url_errors(url: URL) -> Iterator[None]:
    """Turn exceptions that a driver raises for an invalid URL into one-line errors.

    Drivers validate hosts, ports and options differently, and some not at all.
    """
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        options = f" and its options ({', '.join(url.query)})" if url.query else ""
        raise DatabaseFailed(
            f"{masked_url(url)} cannot be opened: {error}; check the URL{options}"
        ) from error


@contextmanager
def _lock(url: URL) -> Iterator[None]:
    path = sqlite_path(url)
    if path is not None:
        try:
            lock = FileLock(f"{path}.lock", timeout=LOCK_TIMEOUT_SECONDS).acquire()
        except Timeout:
            raise _lock_timeout(url, f"{path}.lock") from None
        with lock:
            yield
        return
    engine = _engine(url)
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            locked = _mysql_lock if is_mysql(url) else _postgresql_lock
            with locked(connection, url):
                yield
    finally:
        engine.dispose()


@contextmanager
def _mysql_lock(connection: Connection, url: URL) -> Iterator[None]:
    # MySQL's locks belong to the server, so the name must identify the database.
    key = f"sweeper-{sha256(str(url.database).encode()).hexdigest()[:32]}"
    if not connection.execute(select(func.get_lock(key, LOCK_TIMEOUT_SECONDS))).scalar_one():
        raise _lock_timeout(url, "its launch lock")
    try:
        yield
    finally:
        connection.execute(select(func.release_lock(key)))


@contextmanager
def _postgresql_lock(connection: Connection, url: URL) -> Iterator[None]:
    _take_advisory_lock(connection, url)
    try:
        yield
    finally:
        connection.execute(text("select pg_advisory_unlock(:key)"), {"key": _ADVISORY_LOCK})


def _take_advisory_lock(connection: Connection, url: URL) -> None:
    connection.execute(text(f"set lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'"))
    try:
        connection.execute(text("select pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) != "55P03":  # lock_not_available
            raise
        raise _lock_timeout(url, "its launch lock") from None


def _lock_timeout(url: URL, what: str) -> SweeperError:
    return DatabaseFailed(
        f"{masked_url(url)}: {what} was held by another launch for more than "
        f"{LOCK_TIMEOUT_SECONDS} s; end that process, or try again"
    )


def _engine_kwargs(url: URL, role: Role, file: SqliteFile | None) -> dict[str, Any]:
    if file is not None:
        return {"creator": partial(file.connect, _MODES[role])}
    mysql = is_mysql(url)
    read_only = (
        {"init_command": "set session transaction read only"}
        if mysql
        else {"options": "-c default_transaction_read_only=on"}
    )
    return {
        "pool_pre_ping": True,  # reconnect after a server restart instead of failing
        "pool_size": CONNECTIONS,
        "max_overflow": 4,
        "pool_recycle": 1800,
        "connect_args": read_only if role == "reader" else {},
        # PostgreSQL's default. MySQL's default is REPEATABLE READ, which can return stale rows.
        **({"isolation_level": "READ COMMITTED"} if mysql else {}),
    }


_MODES: Final[dict[Role, Mode]] = {"writer": "write", "reader": "read"}


def _engine(url: URL, role: Role = "writer") -> Engine:
    """Return a short-lived engine for schema work."""
    file = _file(url)
    engine = create_engine(url, **_engine_kwargs(url, role, file))
    if file is not None:
        _listen_sqlite(engine, role, file, begin="BEGIN")
    return engine


def _storage(url: URL, role: Role, file: SqliteFile | None) -> optuna.storages.RDBStorage:
    kwargs = _engine_kwargs(url, role, file)
    storage = _optuna_storage(url, kwargs, skip_table_creation=True)
    if file is not None:
        begin = "BEGIN IMMEDIATE" if role == "writer" else "BEGIN"
        _listen_sqlite(storage.engine, role, file, begin)
        storage.engine.dispose()  # connections made before we listened
    return storage


def _optuna_storage(
    url: URL, engine_kwargs: dict[str, Any], *, skip_table_creation: bool = False
) -> optuna.storages.RDBStorage:
    try:
        return optuna.storages.RDBStorage(
            url.render_as_string(hide_password=False),
            engine_kwargs=engine_kwargs,
            skip_table_creation=skip_table_creation,
        )
    except RuntimeError as error:  # the tables are of another Optuna version; the text has advice
        raise DatabaseFailed(f"{masked_url(url)}: {error}") from error


def _listen_sqlite(engine: Engine, role: Role, file: SqliteFile, begin: str) -> None:
    # A deferred transaction that starts to write later fails immediately instead of waiting for
    # the lock. Writers therefore take the lock at the start (BEGIN IMMEDIATE).
    setup = (
        ["PRAGMA synchronous=NORMAL", "PRAGMA foreign_keys=ON"]
        if role == "writer"
        else ["PRAGMA query_only=ON"]
    )

    def on_connect(connection: Any, record: Any) -> None:
        # Otherwise one text that is not UTF-8 would break every query that reads it.
        connection.text_factory = methodcaller("decode", errors="backslashreplace")
        for pragma in setup:
            connection.execute(pragma)
        record.info["files"] = file.file_identities(connection)

    def on_begin(connection: Connection) -> None:
        file.check(connection.info["files"])
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)


def storable_text(text: str) -> str:
    """Return text that every database can store.

    Characters that UTF-8 cannot encode are replaced, as is NUL, which PostgreSQL rejects.
    """
    return text.encode(errors="backslashreplace").decode().replace("\0", "\ufffd")
