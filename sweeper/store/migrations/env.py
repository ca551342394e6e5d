"""Alembic environment: migrates sweeper's tables on the connection of `migrate.upgrade`."""

from typing import Any

from alembic import context

from sweeper.store.schema import PREFIX, VERSION_TABLE, metadata


def is_sweeper_object(name: str | None, kind: str, _: Any) -> bool:
    """Return whether Alembic manages an object: Optuna's tables are excluded."""
    return kind != "table" or bool(name and name.startswith(PREFIX))


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    include_name=is_sweeper_object,
)
with context.begin_transaction():
    context.run_migrations()
