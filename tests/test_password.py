"""The password of the storage from a file: where it goes, and what is said where it cannot."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.main import get_command

from sweeper import SweeperError
from sweeper.cli.app import app
from sweeper.cli.password import with_password_file
from sweeper.store.urls import parse_url, with_password
from tests.support.processes import run, run_module

SERVER = "postgresql://user@127.0.0.1:1/db?sslmode=prefer"
COMMANDS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
WITH_STORAGE = [
    name for name, command in COMMANDS.items() if "storage" in {p.name for p in command.params}
]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file that SWEEPER_PASSWORD_FILE names; it is not there yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SWEEPER_STORAGE", raising=False)
    monkeypatch.setenv("SWEEPER_PASSWORD_FILE", str(tmp_path / "password"))
    return tmp_path / "password"


# ---- into the URL ------------------------------------------------------------------------


@pytest.mark.slow
@given(password=st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_password_is_inserted_unchanged(password: str) -> None:
    url = parse_url(with_password(SERVER, password))
    assert url.password == password
    assert url == parse_url(SERVER).set(password=password)


@pytest.mark.parametrize(
    ("storage", "reason"),
    [
        ("sweeper.db", "storage: an SQLite file has no password; unset SWEEPER_PASSWORD_FILE"),
        ("sqlite:///sweeper.db", "storage: an SQLite file has no password"),
        ("postgresql://u:other@h/d", "storage: the URL already has a password; remove it"),
        ("postgresql://u@h/d?password=other", "storage: the URL already has a password"),
        ("postgresql://h/d", "storage: postgresql.psycopg://h/d has no user"),
        ("mssql://u@h/d", "storage: 'mssql' databases are not supported"),
    ],
)
def test_url_without_user_rejects_password(storage: str, reason: str) -> None:
    with pytest.raises(SweeperError, match=rf"^{reason}") as refusal:
        with_password(storage, "sekret")
    assert "sekret" not in str(refusal.value)
    assert "other" not in str(refusal.value)


def test_empty_password_file_is_rejected() -> None:
    assert parse_url(with_password("postgresql://u:@h/d", "sekret")).password == "sekret"


# ---- out of the file ---------------------------------------------------------------------


@pytest.mark.parametrize("content", ["sekret", "sekret\n", "sekret\n\n", " sekret \n", "s\r\n"])
def test_trailing_newlines_are_stripped_from_password(file: Path, content: str) -> None:
    file.write_bytes(content.encode())
    assert parse_url(with_password_file(SERVER)).password == content.rstrip("\n")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty; it must contain the password and nothing else"),
        (b"\n", "is empty; it must"),
        (b"sekret\xff", "is not UTF-8 text; it must"),
        (b"sek\0ret", "contains a null byte; it must"),
    ],
)
def test_invalid_password_file_is_rejected(file: Path, content: bytes, reason: str) -> None:
    file.write_bytes(content)
    done = run("status", "--storage", SERVER)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"error: SWEEPER_PASSWORD_FILE: {file} {reason}")
    assert done.err.count("\n") == 1
    assert "sek" not in done.err


def test_folder_as_password_file_is_rejected(file: Path) -> None:
    file.mkdir()
    assert "cannot be read: Is a directory" in run("status", "--storage", SERVER).err


def test_empty_variable_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEPER_PASSWORD_FILE", "")
    assert with_password_file(SERVER) == SERVER


# ---- the commands ------------------------------------------------------------------------


def test_the_commands_with_a_storage_are_known() -> None:
    assert {"init", "launch", "worker", "status", "export", "serve"} <= set(WITH_STORAGE)


@pytest.mark.parametrize("name", WITH_STORAGE)
def test_every_command_with_a_storage_reads_the_file(name: str, file: Path) -> None:
    required = ["1" for parameter in COMMANDS[name].params if parameter.required]
    done = run(name, *required)
    assert done.status == 2
    assert done.err.startswith(f"error: SWEEPER_PASSWORD_FILE: {file} cannot be read: No such file")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_a_password_of_a_file_is_never_printed(file: Path, debug: list[str]) -> None:
    file.write_text("sekret\n")
    done = run("status", "--storage", SERVER, *debug)
    assert "error: postgresql+psycopg://user:***@127.0.0.1:1/db: database error" in done.err
    assert "sekret" not in done.out + done.err


def test_child_processes_do_not_inherit_the_variable(file: Path) -> None:
    file.write_text("sekret\n")
    with_password_file(SERVER)
    assert "SWEEPER_PASSWORD_FILE" not in os.environ


def test_help_does_not_read_the_password_file(file: Path) -> None:
    done = run_module("heavy_imports", "launch --help")
    assert (done.stdout, done.stderr) == ('{"launch --help": [0, []]}\n', "")
