"""Copies of a database that is in use."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sweeper import api
from sweeper.api import Study
from sweeper.errors import SweeperError
from tests.support.launches import SLOW, check_exact, wait_until
from tests.support.processes import StartSweeper, run
from tests.support.service_world import World
from tests.support.serving import database


def rows(file: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute(query).fetchall()


@pytest.mark.slow
def test_backup_during_writes_is_consistent_and_resumable(
    start_sweeper: StartSweeper, write_study: Any, storage: str, tmp_path: Path
) -> None:
    path = write_study(SLOW.format(trace=tmp_path / "trace"))
    launch = start_sweeper("launch", path, "--workers", 2, "--no-confirm")
    copies = [tmp_path / f"copy-{number}.db" for number in range(6)]
    for number, copy in enumerate(copies):
        wait_until(launch, storage, 2 * number + 1)
        assert run("backup", copy, "--storage", storage) == (0, f"{copy}\n", "")
    assert "24/24" in launch.communicate()[0]
    assert launch.returncode == 0
    check_exact(Study("slow", storage), tmp_path, again=0)
    for number, copy in enumerate(copies):
        assert rows(copy, "PRAGMA integrity_check") == [("ok",)]
        assert rows(copy, "PRAGMA foreign_key_check") == []
        ended = Study("slow", str(copy)).progress().ended
        assert 2 * number < ended < 24
        # A result is stored before Optuna is told of it, and the ticket is closed last.
        [(results,)] = rows(copy, "select count(*) from sweeper_results")
        [(closed,)] = rows(copy, "select count(*) from sweeper_tickets where state = 'closed'")
        assert closed <= ended <= results
    (tmp_path / "trace").unlink()
    place = ("--storage", copies[0], "--results", tmp_path / "elsewhere")
    before = Study("slow", str(copies[0])).progress().ended
    assert run("launch", path, "--workers", 0, "--no-confirm", *place).status == 0
    frame = Study("slow", str(copies[0])).frame()
    assert sorted(frame["ticket"]) == list(range(24))
    assert len((tmp_path / "trace").read_text().split()) == 24 - before


def test_backup_equals_source_and_force_overwrites(template: World, tmp_path: Path) -> None:
    copy = api.backup(tmp_path / "new" / "copy.db", template.study.storage)
    with closing(sqlite3.connect(template.folder / "sweeper.db")) as connection:
        dump = list(connection.iterdump())
    with closing(sqlite3.connect(copy)) as connection:
        assert list(connection.iterdump()) == dump
        assert connection.execute("PRAGMA journal_mode").fetchall() == [("wal",)]
    assert copy.stat().st_mode == (template.folder / "sweeper.db").stat().st_mode
    with closing(Study("quick", str(copy))) as study:
        assert study.frame().equals(template.study.frame())
    copy.write_text("old")
    with pytest.raises(SweeperError, match="already exists; choose another file, or replace it"):
        api.backup(copy, template.study.storage)
    assert copy.read_text() == "old"
    done = run("backup", copy, "--force", "--storage", template.study.storage)
    assert done == (0, f"{copy}\n", "")
    assert rows(copy, "select name from sweeper_studies") == [("quick",)]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (".", "is a folder"),
        ("sweeper.db", "belongs to the database itself"),
        ("linked.db", "belongs to the database itself"),
        ("sweeper.db-wal", "belongs to the database itself"),
        ("other.db", "other.db-wal exists"),
        ("quick.py/copy.db", "cannot be written"),
    ],
)
def test_backup_refuses_to_overwrite_other_files(
    template: World, tmp_path: Path, target: str, message: str
) -> None:
    for file in ("sweeper.db", "quick.py"):
        (tmp_path / file).write_bytes((template.folder / file).read_bytes())
    (tmp_path / "linked.db").symlink_to("sweeper.db")
    (tmp_path / "other.db-wal").write_text("of another database")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    done = run("backup", tmp_path / target, "--force", "--storage", database(tmp_path))
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert message in done.err
    assert {path: path.read_bytes() for path in before} == before
    assert not (tmp_path / "other.db").exists()


def test_backup_of_damaged_database_fails_and_leaves_no_file(
    template: World, tmp_path: Path
) -> None:
    content = bytearray((template.folder / "sweeper.db").read_bytes())
    [(root,)] = rows(
        template.folder / "sweeper.db",
        "select rootpage from sqlite_master where name = 'sweeper_epochs'",
    )
    content[4096 * (root - 1) : 4096 * root] = bytes(4096)
    (tmp_path / "sweeper.db").write_bytes(content)
    with pytest.raises(
        SweeperError, match=r"cannot be copied to .*: .*(damaged|malformed)"
    ) as output:
        api.backup(tmp_path / "copy.db", database(tmp_path))
    assert len(str(output.value).splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir() if "copy" in path.name] == []


@pytest.mark.parametrize(
    ("storage", "tool"),
    [
        ("postgresql://u:sekret@127.0.0.1:1/d", "pg_dump"),
        ("mysql://u:sekret@127.0.0.1:1/d", "mysqldump --single-transaction"),
    ],
)
def test_backup_of_server_names_the_dump_tool(storage: str, tool: str, tmp_path: Path) -> None:
    done = run("backup", tmp_path / "copy.db", "--storage", storage)
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert tool in done.err
    assert "sekret" not in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "status"), [(None, 2), (b"", 2), (b"no database at all" * 100, 3)]
)
def test_backup_of_non_database_file_fails(
    content: bytes | None, status: int, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "sweeper.db").write_bytes(content)
    done = run("backup", tmp_path / "copy.db", "--storage", database(tmp_path))
    assert (done.status, done.out, done.err.count("\n")) == (status, "", 1)
    assert not (tmp_path / "copy.db").exists()
