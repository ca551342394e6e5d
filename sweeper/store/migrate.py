"""Schema versions of sweeper's tables, managed by Alembic independently of Optuna's."""

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
from sweeper.store.urls import masked_url
from sweeper.version import __version__

Age = Literal["none", "older", "current"]


class NewerSchema(DatabaseFailed):
    """The tables were created by a newer version of sweeper, so this version cannot use them."""


def upgrade(engine: Engine) -> None:
    """Create or upgrade our tables to the schema of this package; no-op if they are current."""
    config = _config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        if engine.dialect.name == "mysql" and schema_age(connection) == "none":
            # MySQL commits each DDL statement separately. `create_all` skips existing tables, so
            # it can continue after an interrupted creation.
            metadata.create_all(connection)
            command.stamp(config, "head")
        else:
            command.upgrade(config, "head")


def schema_age(connection: Connection) -> Age:
    """Return whether our tables do not exist, are older than this package, or are current.

    Raises `NewerSchema` if a newer version of sweeper created them.
    """
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    revision = context.get_current_revision()
    if revision is None:
        return "none"
    script = _script()
    newest = script.get_current_head()
    if revision not in {s.revision for s in script.walk_revisions()}:
        raise NewerSchema(
            f"{masked_url(connection.engine.url)} has schema {revision} of a newer sweeper; this "
            f"version, {__version__}, supports schemas up to {newest}; upgrade sweeper on "
            "this machine"
        )
    return "current" if revision == newest else "older"


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
