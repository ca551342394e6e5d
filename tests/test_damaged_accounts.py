"""Damaged rows of tokens and sessions: they sign nobody in, and cost nobody else an answer."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from sweeper import api
from sweeper.store.schema import sessions, tokens
from tests.support.damage import wrong_values
from tests.support.processes import run
from tests.support.service_world import World, copied
from tests.support.serving import Browser, Site, serve

CASES = [
    (table.name, column.name, value)
    for table in (tokens, sessions)
    for column in table.c
    for value in wrong_values(column)
]


@pytest.mark.slow
def test_a_damaged_account_gives_no_access_and_disturbs_no_other(
    template: World, tmp_path: Path
) -> None:
    storage = copied(template, tmp_path).study.storage
    site = serve(storage, sign_in=True, folders=(tmp_path,))
    healthy = Site(site.address, api.create_token("ann", "operator", storage))
    assert len(CASES) > 30
    for case in CASES:
        viewer = Site(site.address, api.create_token("eve", "viewer", storage))
        browser = Browser(site)
        assert browser.sign_in(viewer.token).status == 303
        damage(tmp_path / "sweeper.db", *case)
        for client in (viewer, browser):
            for path in ("/v1/studies", "/studies/quick"):
                answer = client.ask(path)
                assert answer.status in (200, 303, 401), (case, path, answer.text[-500:])
            refused = client.ask("/v1/studies/quick/pause", "POST", body={})
            assert refused.status in (401, 403), (case, refused.text)
        assert healthy.ask("/v1/studies/quick").status == 200
        check_removal(storage, case)
        with opened(tmp_path / "sweeper.db") as database:
            database.execute("delete from sweeper_sessions")
            database.execute("delete from sweeper_tokens where name <> 'ann'")


def damage(file: Path, table: str, column: str, value: str) -> None:
    """Write an SQL expression into a column of the token "eve" or of its session."""
    owner = "key" if table == "sweeper_tokens" else "token"
    with opened(file) as database:
        changed = database.execute(
            f'update {table} set "{column}" = {value} '
            f"where {owner} = (select key from sweeper_tokens where name = 'eve')"
        )
        assert changed.rowcount == 1


def check_removal(storage: str, case: tuple[str, str, str]) -> None:
    """Check that the tokens can be listed, and that a warning says how to remove a damaged one."""
    listed = run("token", "list", "--storage", storage)
    assert listed.status == 0, (case, listed.err)
    assert "ann" in listed.out
    for key in re.findall(r"sweeper token revoke (\w+)", listed.err):
        assert run("token", "revoke", key, "--storage", storage).status == 0
        assert key not in run("token", "list", "--storage", storage).err


@contextmanager
def opened(file: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(file)) as database, database:
        yield database
