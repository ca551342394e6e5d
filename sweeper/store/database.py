"""Opening a database: a writer for workers and launches, a reader for everyone else."""

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from hashlib import sha256
from typing import Any, Concatenate, Final, Literal, ParamSpec, TypeVar

import optuna
from filelock import FileLock, Timeout
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages._rdb import models
from sqlalchemy import Connection, Engine, create_engine, event, func, inspect, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, SQLAlchemyError

from sweeper.errors import DatabaseFailed, SweeperError
from sweeper.store.migrate import Age, schema_age, upgrade
from sweeper.store.retry import is_transient, reason, retried
from sweeper.store.urls import is_mysql, masked, parse_url, sqlite_path

Role = Literal["writer", "reader"]
T = TypeVar("T")
P = ParamSpec("P")

# Longer than any transaction of ours or Optuna's; a lock held longer is somebody else's.
LOCK_TIMEOUT_SECONDS: Final = 30
# What a worker at a trial keeps open; a server's max_connections is to be a little more a worker.
CONNECTIONS: Final = 3
# A server that is restarted or moved is back by then; a worker that gives up has to be replaced.
OUTAGE_SECONDS: Final = 600
# "swpr" as a number: the one lock that makes the schema, for every sweeper on the server.
_ADVISORY_LOCK: Final = 0x73777072


class NothingLaunched(SweeperError):
    """The database is not there yet, or no sweeper has used it."""


@dataclass(frozen=True)
class Store:
    """One process's way into a database: Optuna's storage and the engine beneath it.

    `reading` is where trials are read from. It keeps what has ended, and on SQLite takes no
    lock: a writer's transactions do, and workers that read thousands of trials would keep each
    other out.
    """

    url: URL
    role: Role
    storage: optuna.storages.RDBStorage
    reading: _CachedStorage = field(repr=False, compare=False)
    # How long a database that went away is waited for.
    outage_seconds: float = 0.0
    # A connection of each thread's own for `run_alone`, kept from one statement to the next.
    _own: threading.local = field(default_factory=threading.local, repr=False, compare=False)

    @property
    def engine(self) -> Engine:
        """The engine shared by Optuna's tables and ours."""
        return self.storage.engine

    def __post_init__(self) -> None:
        _open.add(self)

    def __str__(self) -> str:
        return masked(self.url)

    def transact(self, work: Callable[[Connection], T]) -> T:
        """Run work on our tables as one transaction; it must not call Optuna.

        (On SQLite Optuna would wait for the lock that we hold.)
        """

        def once() -> T:
            with self.engine.begin() as connection:
                return work(connection)

        return self.call(once)

    def run_alone(self, statement: str, parameters: Any) -> int:
        """Run one statement of the driver's own as a transaction; return how many rows it met.

        For what runs every epoch: SQLAlchemy's way there, and the pool's, cost twice the
        database's. A statement that was committed though its answer was lost counts as run.
        """
        try:
            return self._run_on_own(statement, parameters)
        except SQLAlchemyError as error:
            with readable_errors(self.url):
                if not is_transient(error):
                    raise
        return self.call(lambda: self._run_again(statement, parameters))

    def _run_again(self, statement: str, parameters: Any) -> int:
        try:
            return self._run_on_own(statement, parameters)
        except IntegrityError:
            return 1  # committed by the call whose answer was lost

    def _run_on_own(self, statement: str, parameters: Any) -> int:
        raw = vars(self._own).pop("raw", None)
        try:
            raw = raw or self.engine.raw_connection()
            cursor = raw.cursor()
            cursor.execute(statement, parameters)
            raw.commit()
        except BaseException as error:
            if raw is not None:
                raw.invalidate()
            if isinstance(error, self._driver.Error):
                raise DBAPIError.instance(statement, None, error, self._driver.Error) from error
            raise
        self._own.raw = raw
        return int(cursor.rowcount)

    def call(self, work: Callable[[], T]) -> T:
        """Run work on the database, Optuna's or ours, again where what fails it passes."""

        def once() -> T:
            try:
                return work()
            except (SQLAlchemyError, optuna.exceptions.StorageInternalError):
                # Optuna leaves its session in a transaction that can only be rolled back.
                self.storage.remove_session()
                self.reading.remove_session()
                raise

        with readable_errors(self.url):
            return retried(once, seconds=self.outage_seconds, database=str(self))

    @property
    def _driver(self) -> Any:
        return self.engine.dialect.loaded_dbapi

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep every other launch on this database out; Optuna may be called inside."""
        with readable_errors(self.url), _lock(self.url):
            yield

    def close(self) -> None:
        """Give the connections back."""
        raw = vars(self._own).pop("raw", None)
        if raw is not None:
            raw.close()
        for storage in (self.storage, self.reading):
            storage.remove_session()
        for engine in self._engines():
            engine.dispose()

    def _engines(self) -> list[Engine]:
        reading = self.reading._backend.engine
        return [self.engine] if reading is self.engine else [self.engine, reading]


_open: Final[weakref.WeakSet[Store]] = weakref.WeakSet()
# Connections of the process that forked this one. Never used here, and never closed: to close
# one would end the other process's.
_inherited: Final[list[Any]] = []


def _leave_to_parent() -> None:
    """Let a forked process, a data loader's for instance, open connections of its own."""
    for store in _open:
        _inherited.append(vars(store._own).pop("raw", None))
        for engine in store._engines():
            _inherited.append(engine.pool)
            engine.dispose(close=False)


os.register_at_fork(after_in_child=_leave_to_parent)


def transaction(
    work: Callable[Concatenate[Connection, P], T],
) -> Callable[Concatenate[Store, P], T]:
    """Make a function of a connection one of a store: each call is a transaction of its own."""

    @wraps(work)
    def run(store: Store, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return store.transact(lambda connection: work(connection, *args, **kwargs))

    return run


def open_writer(storage: str) -> Store:
    """Open a database for a worker or a launch, and make its schema if it has none.

    A database that cannot be reached is an error at once; one that goes away later is waited
    for, `OUTAGE_SECONDS` at most.
    """
    url = parse_url(storage)
    with readable_errors(url):
        ensure_schema(url)
        return _store(url, "writer", OUTAGE_SECONDS)


def open_reader(storage: str, wait_seconds: float = 0.0) -> Store:
    """Open a database to look at; nothing can be written through it.

    A server that does not answer is waited for, `wait_seconds` at most. Raises `SweeperError`
    where there is no database, or one that no sweeper has used.
    """
    url = parse_url(storage)
    path = sqlite_path(url)
    if path is not None and not path.is_file():
        raise NothingLaunched(
            f"{masked(url)}: there is no such file; launch a study first, or name another --storage"
        )
    with readable_errors(url):
        age = retried(lambda: _schema_age(url), seconds=wait_seconds, database=masked(url))
        if age == "older":
            raise DatabaseFailed(
                f"{masked(url)} was made by an older sweeper; sweeper init brings its tables to "
                "this version, and so does a launch"
            )
        if age == "none":
            raise NothingLaunched(
                f"{masked(url)} holds no sweeper studies; launch one first, "
                "or name another --storage"
            )
        return _store(url, "reader")


def _store(url: URL, role: Role, outage_seconds: float = 0.0) -> Store:
    storage = _storage(url, role)
    locks = role == "writer" and sqlite_path(url) is not None
    reading = _CachedStorage(_storage(url, "reader") if locks else storage)
    return Store(url, role, storage, reading, outage_seconds)


def ensure_schema(url: URL) -> None:
    """Make Optuna's tables and ours, once, whoever comes first.

    Optuna's own creation is a race that workers lose when several start on an empty
    database, so it happens under a lock.
    """
    if _schema_age(url) == "current":
        return
    with _lock(url):
        _use_wal(url)
        # Optuna's constructor makes the tables before we can listen on its engine.
        storage = optuna.storages.RDBStorage(
            _render(url), engine_kwargs=_engine_kwargs(url, "writer")
        )
        storage.engine.dispose()
        engine = _engine(url)
        try:
            upgrade(engine)
            _compare_exactly(engine)
        finally:
            engine.dispose()


def _compare_exactly(engine: Engine) -> None:
    """Let MySQL tell Optuna's texts apart as it does ours: see the end of the schema."""
    if engine.dialect.name != "mysql":
        return
    with engine.connect() as connection:
        for table in models.BaseModel.metadata.tables:
            connection.exec_driver_sql(
                f"alter table {table} convert to character set utf8mb4 collate utf8mb4_bin"
            )


def _use_wal(url: URL) -> None:
    """Let an SQLite file have a log beside it, before anybody works on it.

    Not by each connection: two that change it at once fail at once, whatever their timeout.
    """
    if sqlite_path(url) is not None:
        engine = create_engine(url, **_engine_kwargs(url, "writer"))
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        finally:
            engine.dispose()


@contextmanager
def readable_errors(url: URL) -> Iterator[None]:
    """Turn what a database driver raises into one line that names the database."""
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise DatabaseFailed(f"{masked(url)}: {reason(error, LOCK_TIMEOUT_SECONDS)}") from error
    except ImportError as error:
        package = f"sweeper[{url.get_backend_name()}]"
        raise DatabaseFailed(
            f"{masked(url)} cannot be opened: {error}; pip install '{package}' brings its driver"
        ) from error
    except OSError as error:
        raise DatabaseFailed(f"{masked(url)} cannot be opened: {error}") from error


def _render(url: URL) -> str:
    return url.render_as_string(hide_password=False)


def _schema_age(url: URL) -> Age:
    path = sqlite_path(url)
    if path is not None and not path.exists():
        return "none"
    engine = _engine(url, "reader")
    try:
        with engine.connect() as connection:
            if not inspect(connection).has_table("version_info"):
                return "none"
            return schema_age(connection)
    finally:
        engine.dispose()


@contextmanager
def _lock(url: URL) -> Iterator[None]:
    path = sqlite_path(url)
    if path is not None:
        try:
            lock = FileLock(f"{path}.lock", timeout=LOCK_TIMEOUT_SECONDS).acquire()
        except Timeout:
            raise _locked(url, f"{path}.lock") from None
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
    # Its locks are the server's, and not a database's.
    key = f"sweeper-{sha256(str(url.database).encode()).hexdigest()[:32]}"
    if not connection.execute(select(func.get_lock(key, LOCK_TIMEOUT_SECONDS))).scalar_one():
        raise _locked(url, "its lock of launches")
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
        raise _locked(url, "its lock of launches") from None


def _locked(url: URL, what: str) -> SweeperError:
    return DatabaseFailed(
        f"{masked(url)}: {what} was held by another launch for more than "
        f"{LOCK_TIMEOUT_SECONDS} s; end that process, or try again"
    )


def _engine_kwargs(url: URL, role: Role) -> dict[str, Any]:
    if sqlite_path(url) is not None:
        return {"connect_args": {"timeout": LOCK_TIMEOUT_SECONDS, "isolation_level": None}}
    mysql = is_mysql(url)
    read_only = (
        {"init_command": "set session transaction read only"}
        if mysql
        else {"options": "-c default_transaction_read_only=on"}
    )
    return {
        "pool_pre_ping": True,  # a restarted server costs a reconnect, not a worker
        # One for `run_alone`, one for everything else, one for the thread that renews leases.
        "pool_size": CONNECTIONS,
        "max_overflow": 2,
        "pool_recycle": 1800,
        "connect_args": read_only if role == "reader" else {},
        # PostgreSQL's default. MySQL's would show a worker what was there when it began.
        **({"isolation_level": "READ COMMITTED"} if mysql else {}),
    }


def _engine(url: URL, role: Role = "writer") -> Engine:
    """A short-lived engine for the schema alone."""
    engine = create_engine(url, **_engine_kwargs(url, role))
    if sqlite_path(url) is not None:
        _listen_sqlite(engine, role, begin="BEGIN")
    return engine


def _storage(url: URL, role: Role) -> optuna.storages.RDBStorage:
    storage = optuna.storages.RDBStorage(
        _render(url), engine_kwargs=_engine_kwargs(url, role), skip_table_creation=True
    )
    if sqlite_path(url) is not None:
        _listen_sqlite(storage.engine, role, "BEGIN IMMEDIATE" if role == "writer" else "BEGIN")
        storage.engine.dispose()  # connections made before we listened
    return storage


def _listen_sqlite(engine: Engine, role: Role, begin: str) -> None:
    # A deferred transaction that turns writer half-way fails at once instead of waiting:
    # so a queued trial could be handed out twice. A writer therefore takes its lock first.
    setup = (
        ["PRAGMA synchronous=NORMAL", "PRAGMA foreign_keys=ON"]
        if role == "writer"
        else ["PRAGMA query_only=ON"]
    )

    def on_connect(connection: Any, _: Any) -> None:
        for pragma in setup:
            connection.execute(pragma)

    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)
