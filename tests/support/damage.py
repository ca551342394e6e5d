"""Studies with one wrong value each, in an SQLite file: one for each column of our tables."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

from optuna.storages._rdb import models
from sqlalchemy import JSON, Column, Double, Integer, LargeBinary, String, Table, insert, update

import sweeper
from sweeper.store.database import open_writer
from sweeper.store.schema import earlier_trials, metadata, now, tickets
from sweeper.store.studies import get_study
from sweeper.study.registration import register
from tests.support.studies import copy_task, read_here

STUDY: Final = """
[study]
name = "{name}"
[task]
use = "quick.py:with_test_split"
options = {{ epochs = 2 }}
[budget]
trials = 3
[sampler]
startup = 2
[confirm]
shortlist = 1
replicates = 2
"""
# As SQL: no parameter is text that is not UTF-8.
NOT_UTF8: Final = "cast(X'61ff62' as text)"
TEXTS: Final = ("''", "'a' || char(0) || 'b'", NOT_UTF8, "X'ff'", "'nonsense'")
NUMBERS: Final = ("'nonsense'", "''", "X'ff'", "-1", "4611686018427387904", "1.5", "9e999")
DOCUMENTS: Final = (
    *("''", "'{'", "'5'", "'[]'", "'[[1]]'", "'null'", "'\"text\"'", NOT_UTF8, "X'ff'"),
    """'{"nonsense": {"a": [null]}}'""",
)
# Of the others a worker would train, and meet nothing that is wrong.
SEEN_BY_WORKERS: Final = tuple(
    f"sweeper_{name}" for name in ("studies", "tickets", "results", "confirmations")
)
BYTES: Final = ("X''", "X'00ff'", "'text'", "5")


class Case(NamedTuple):
    """One wrong value, an SQL expression, and the name of the study that has it."""

    table: Table
    column: Column[Any]
    value: str
    study: str


def cases() -> Iterator[Case]:
    """Yield a case for each column of a study's tables and each wrong value of its type."""
    for table in metadata.sorted_tables:
        owner = "id" if table.name == "sweeper_studies" else "study_id"
        if owner not in table.c:
            continue
        for column in table.c:
            for at, value in enumerate(wrong_values(column) if column.name != owner else ()):
                study = f"{table.name.removeprefix('sweeper_')}-{column.name}-{at}"
                yield Case(table, column, value, study)


def one_of_each_column() -> list[Case]:
    """Return one case for each column: another wrong value for the next of the same type."""
    by_column: dict[Column[Any], list[Case]] = {}
    for case in cases():
        by_column.setdefault(case.column, []).append(case)
    return [found[at % len(found)] for at, found in enumerate(by_column.values())]


def wrong_values(column: Column[Any]) -> Sequence[str]:
    null = ("null",) if column.nullable else ()
    match column.type:
        case JSON():
            return (*null, *DOCUMENTS)
        case Integer() | Double():
            return (*null, *NUMBERS)
        case LargeBinary():
            return (*null, *BYTES)
        case String():
            return (*null, *TEXTS)
    raise AssertionError(f"wrong values of {column.type!r} are not known")


def damaged(folder: Path, chosen: Sequence[Case]) -> str:
    """Make a database with the study of each case, and "healthy", each with an open ticket.

    "healthy" is launched last, so that a worker comes to it last.
    """
    copy_task(folder)
    storage = f"sqlite:///{folder}/damaged.db"
    file = folder / "template.toml"
    file.write_text(STUDY.format(name="template"))
    sweeper.launch(file, workers=0, storage=storage, results=folder).close()
    store = open_writer(storage)
    register(store, read_here(file, trials=5, confirm=False))
    # The last ticket is another machine's, so that nothing is finished and written up.
    elsewhere = {"worker": "elsewhere:1:0.0.0.0:ab-1", "lease_until": now() + 3600, "claims": 1}
    held = update(tickets).where(tickets.c.number == 4).values(elsewhere)
    store.transact(lambda connection: connection.execute(held))
    point = {"epsilon": 0.1, "schedule": "fixed", "rate": 1.0}
    earlier = insert(earlier_trials).values(
        study_id=get_study(store, "template").id,
        number=0,
        source="older",
        trial=3,
        value=0.5,
        point=point,
    )
    store.transact(lambda connection: connection.execute(earlier))
    with closing(sqlite3.connect(folder / "damaged.db")) as database, database:
        for case in chosen:
            copy_study(database, case.study)
    sweeper.delete("template", storage)
    healthy = folder / "healthy.toml"
    healthy.write_text(STUDY.format(name="healthy"))
    register(store, read_here(healthy))
    store.close()
    with closing(sqlite3.connect(folder / "damaged.db")) as database, database:
        for case in chosen:
            damage(database, case)
            if case.table.name not in SEEN_BY_WORKERS:
                database.execute(
                    "update sweeper_tickets set state = 'closed' where study_id = "
                    "(select id from sweeper_studies where name = ?)",
                    (case.study,),
                )
    return storage


def copy_study(database: sqlite3.Connection, name: str) -> None:
    """Copy the study "template" with all that it has, ours and Optuna's."""
    ids = {}
    for table, column in (("sweeper_studies", "name"), ("studies", "study_name")):
        _copy(database, table, {column: "?"}, f"{column} = 'template'", (name,))
        [ids[table]] = database.execute(
            f"select max({_key(database, table)}) from {table}"
        ).fetchone()
    quoted = f'"{name}"'
    database.execute(
        "update sweeper_studies set spec = replace(spec, '\"template\"', ?) where name = ?",
        (quoted, name),
    )
    for table in (*metadata.tables, *models.BaseModel.metadata.tables):
        columns = _columns(database, table)
        if "study_id" in columns and table not in ids:
            parent = "sweeper_studies" if table in metadata.tables else "studies"
            where = f"study_id = (select min({_key(database, parent)}) from {parent})"
            _copy(database, table, {"study_id": "?"}, where, (ids[parent],))
    same = (
        "(select new.trial_id from trials new join trials old on new.number = old.number "
        "where new.study_id = ? and old.trial_id = {}.trial_id)"
    )
    template = (
        "trial_id in (select trial_id from trials where study_id = (select min(study_id) "
        "from studies))"
    )
    for table in models.BaseModel.metadata.tables:
        if table.startswith("trial_"):
            _copy(database, table, {"trial_id": same.format(table)}, template, (ids["studies"],))


def _columns(database: sqlite3.Connection, table: str) -> dict[str, bool]:
    """Return the columns of a table, and of each whether it is the table's own number."""
    found = database.execute(f"pragma table_info({table})").fetchall()
    keys = [row for row in found if row[5]]
    return {row[1]: len(keys) == 1 and row == keys[0] and row[2] == "INTEGER" for row in found}


def _key(database: sqlite3.Connection, table: str) -> str:
    [key] = [name for name, own in _columns(database, table).items() if own]
    return key


def _copy(
    database: sqlite3.Connection,
    table: str,
    new: dict[str, str],
    where: str,
    given: tuple[Any, ...],
) -> None:
    """Insert rows of a table again, with other values of some columns."""
    columns = [name for name, own in _columns(database, table).items() if not own]
    values = [new.get(name, f'"{name}"') for name in columns]
    names = ", ".join(f'"{name}"' for name in columns)
    database.execute(
        f"insert into {table} ({names}) select {', '.join(values)} from {table} where {where}",
        given,
    )


def damage(database: sqlite3.Connection, case: Case) -> None:
    """Write the wrong value of a case: into all rows of its study, or one where it is a key."""
    owner = "id" if case.table.name == "sweeper_studies" else "study_id"
    mine = f"{owner} = (select id from sweeper_studies where name = ?)"
    one = f"rowid = (select max(rowid) from {case.table.name} where {mine})"
    which = one if case.column.primary_key else mine
    changed = database.execute(
        f'update {case.table.name} set "{case.column.name}" = {case.value} where {which}',
        (case.study,),
    )
    assert changed.rowcount > 0, case
