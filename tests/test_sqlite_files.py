"""SQLite files: which file a path means, files that go away, and files that can only be read."""

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from sweeper.errors import SweeperError
from sweeper.store.database import Store, open_reader, open_writer
from sweeper.store.studies import all_studies
from sweeper.store.urls import absolute, masked_url, parse_url
from tests.support.launches import SLOW, wait_until
from tests.support.processes import ROOT, StartSweeper, run
from tests.support.studies import STUDY

Write = Callable[..., Path]

NAMES: Final = ("we ird#name?.db", "bar%baz.db", "bar%25.db", "{x}.db", "ünï✓ .db", "a@b:c.db")


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# ---- which file --------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["{}", "sqlite://{}", "sqlite:///{}", "sqlite:///{folder}/{}"])
def test_sqlite_path_is_used_exactly(name: str, form: str, tmp_path: Path) -> None:
    given = form.replace("{folder}", str(tmp_path)).replace("{}", name)
    open_writer(given).close()
    assert {path.name for path in tmp_path.iterdir()} == {name, f"{name}.lock"}
    assert masked_url(parse_url(given)) == f"sqlite:///{name}"
    assert parse_url(absolute(given)) == parse_url(given)
    with closing(open_reader(absolute(given))) as reader:
        assert all_studies(reader) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "must not be empty"),
        (":memory:", "in-memory"),
        ("sqlite://", "in-memory"),
        ("sqlite:///:memory:", "in-memory"),
        ("file::memory:", "in-memory"),
        ("sqlite:///file:x?mode=memory&uri=true", "cannot have options"),
        ("sqlite:///x.db?timeout=60", "cannot have options"),
        ("a\0b.db", "a path of UTF-8 text on one line"),
        ("a\nb.db", "a path of UTF-8 text on one line"),
        ("\udce9.db", "a path of UTF-8 text on one line"),
        ("x" * 300, "File name too long"),
    ],
)
def test_invalid_sqlite_path_is_rejected(given: str, message: str, tmp_path: Path) -> None:
    done = run("init", "--storage", given)
    assert (done.status, done.out) == (2, "")
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_store_keeps_its_file_after_chdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_writer("sweeper.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with store.exclusive_lock():
        assert all_studies(store) == []
    store.close()
    assert list(Path().iterdir()) == []


# ---- a file that goes away ---------------------------------------------------------------


def _replace(path: Path) -> None:
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    copy.rename(path)


def _move(path: Path) -> None:
    path.rename("elsewhere.db")


GONE: Final[dict[str, Callable[[Path], None]]] = {
    "removed": Path.unlink,
    "log removed": lambda path: Path(f"{path}-wal").unlink(),
    "index removed": lambda path: Path(f"{path}-shm").unlink(),
    "replaced": _replace,
    "moved": _move,
    "folder removed": lambda path: shutil.rmtree(path.parent),
}


@pytest.mark.parametrize("how", GONE)
@pytest.mark.parametrize("open_store", [open_writer, open_reader])
def test_removed_database_file_is_detected(
    how: str, open_store: Callable[[str], Store], tmp_path: Path
) -> None:
    path = tmp_path / "folder" / "sweeper.db"
    path.parent.mkdir()
    open_writer(str(path)).close()
    with closing(open_store(str(path))) as store:
        assert all_studies(store) == []
        GONE[how](path)
        with pytest.raises(SweeperError, match=r"^\S+ was removed or replaced while") as error:
            all_studies(store)
        with pytest.raises(SweeperError, match="removed or replaced"):
            store.execute_on_driver("select 1", ())
        with pytest.raises(SweeperError, match="removed or replaced"):
            store.retry(store.storage.get_all_studies)
    assert len(str(error.value).splitlines()) == 1


def test_files_next_to_link_target_are_checked(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.db"
    link.symlink_to("real/sweeper.db")
    with closing(open_writer(str(link))) as store:
        assert all_studies(store) == []
        assert Path("real/sweeper.db.lock").exists()
        Path("real/sweeper.db-wal").unlink()
        with pytest.raises(SweeperError, match="was removed or replaced while"):
            all_studies(store)


def test_self_referencing_link_is_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "a.db").symlink_to("b.db")
    (tmp_path / "b.db").symlink_to("a.db")
    done = run("init", "--storage", "a.db")
    assert done.status == 3
    assert len(done.err.splitlines()) == 1
    assert "unexpected" not in done.err


def test_file_removed_between_connections_is_detected(store: Store) -> None:
    assert all_studies(store) == []
    store.close()
    assert store.file is not None
    _replace(store.file.path)
    with pytest.raises(SweeperError, match="removed or replaced"):
        all_studies(store)


@pytest.mark.chaos
@pytest.mark.parametrize("end", ["", "-wal"])
def test_launch_and_worker_end_with_a_one_line_error(
    end: str, write_study: Write, start_sweeper: StartSweeper, storage: str, tmp_path: Path
) -> None:
    file = write_study(SLOW.format(trace=tmp_path / "trace"), "slow.toml")
    assert run("launch", file, "--detach", "--storage", storage).status == 0
    processes = [start_sweeper("worker", "slow", "--slots", 1), start_sweeper("launch", file)]
    wait_until(processes[1], storage, 2)
    Path(f"{parse_url(storage).database}{end}").unlink()
    for process in processes:
        message, _ = process.communicate(timeout=60)
        assert process.returncode == 3, message
        assert "Traceback" not in message
        assert "was removed or replaced" in message.splitlines()[-1]
    assert not list(tmp_path.rglob("best.json"))


# ---- a file that can only be read --------------------------------------------------------

# In a mount of its own, as nothing is forbidden to root otherwise.
READ_ONLY: Final = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
COMMANDS: Final = """
import sys
from tests.support.processes import run
for line in sys.argv[2:]:
    done = run(*line.split(), "--storage", sys.argv[1])
    print(line, done.status, done.err.strip(), sep="|")
"""
READING: Final = (
    "status",
    "status quick --json",
    "export quick",
    "report quick -o report.html",
    "logs quick 0",
    "replay quick 0",
    "token list",
    "launch quick.toml --dry-run",
)


def read_only(folder: Path, *lines: str) -> list[list[str]]:
    """Run commands on the database of a folder that is read-only for them."""
    command = [sys.executable, "-c", COMMANDS, str(folder / "sweeper.db"), *lines]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", READ_ONLY, "sh", str(folder), *command],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    if not done.stdout and "unshare" in done.stderr:
        pytest.skip(f"no mount of its own here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    return [line.split("|") for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_a_database_in_a_read_only_folder_can_be_read(write_study: Write, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    storage = str(folder / "sweeper.db")
    path = write_study(STUDY.replace("12", "2"))
    assert run("launch", path, "--workers", 0, "--storage", storage).status == 0
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert len(before) == 2  # with the lock of launches
    found = read_only(folder, *READING, "pause quick", "launch quick.toml --trials 3")
    assert [[line, status] for line, status, _ in found[:-2]] == [[line, "0"] for line in READING]
    for _, status, error in found[-2:]:
        assert (status, "make the file, its folder and its disk" in error) == ("3", True)
    assert before == {path: path.read_bytes() for path in folder.iterdir()}
    # A worker may be at it, or may have been killed: SQLite's files beside it are there.
    with closing(sqlite3.connect(storage, isolation_level=None)) as writer:
        writer.execute("update sweeper_studies set name = 'renamed'")
        assert read_only(folder, "status renamed --json") == [["status renamed --json", "0", ""]]
        shutil.copytree(folder, tmp_path / "copied")
    Path(tmp_path, "copied", "sweeper.db-shm").unlink()
    [[_, status, error]] = read_only(tmp_path / "copied", "status")
    assert status == "3"
    assert "sweeper.db-wal contains changes" in error
