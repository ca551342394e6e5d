"""Versions of our tables, kept by Alembic beside Optuna's own."""

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

from sweeper.errors import SweeperError
from sweeper.store.schema import VERSION_TABLE


def upgrade(engine: Engine) -> None:
    """Bring our tables to the version of this package; no-op where they are."""
    config = _config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def is_current(connection: Connection) -> bool:
    """Return whether our tables are at this package's version.

    Raises `SweeperError` where a newer sweeper made them.
    """
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    found = context.get_current_revision()
    script = _script()
    if found is not None and found not in {s.revision for s in script.walk_revisions()}:
        raise SweeperError(
            f"the database is at schema {found!r}, made by a newer sweeper; upgrade this one"
        )
    return found == script.get_current_head()


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
