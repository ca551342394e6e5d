"""Versions of our tables, kept by Alembic beside Optuna's own."""

from functools import cache
from pathlib import Path
from typing import Literal

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

from sweeper.errors import DatabaseFailed
from sweeper.store.schema import VERSION_TABLE, metadata

Age = Literal["none", "older", "current"]


def upgrade(engine: Engine) -> None:
    """Bring our tables to the version of this package; no-op where they are."""
    config = _config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        if engine.dialect.name == "mysql" and schema_age(connection) == "none":
            # Each of its statements is a transaction of its own, so a creation that was killed
            # has to be one that can be gone on with.
            metadata.create_all(connection)
            command.stamp(config, "head")
        else:
            command.upgrade(config, "head")


def schema_age(connection: Connection) -> Age:
    """Return whether our tables are there, and at this package's version.

    Raises `DatabaseFailed` where a newer sweeper made them.
    """
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    found = context.get_current_revision()
    script = _script()
    if found is not None and found not in {s.revision for s in script.walk_revisions()}:
        raise DatabaseFailed(
            f"the database is at schema {found!r}, made by a newer sweeper; upgrade this one"
        )
    if found is None:
        return "none"
    return "current" if found == script.get_current_head() else "older"


def _config() -> Config:
    config = Config()
    config.set_main_option(
        "script_location", str(Path(__file__).parent / "migrations").replace("%", "%%")
    )
    config.set_main_option("path_separator", "os")
    return config


@cache
def _script() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())
