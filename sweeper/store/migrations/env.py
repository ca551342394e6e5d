"""Alembic's entry: our tables only, on the connection that `migrate.upgrade` hands over."""

from typing import Any

from alembic import context

from sweeper.store.schema import PREFIX, VERSION_TABLE, metadata


def ours(name: str | None, kind: str, _: Any) -> bool:
    """Leave Optuna's tables alone."""
    return kind != "table" or bool(name and name.startswith(PREFIX))


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    include_name=ours,
)
with context.begin_transaction():
    context.run_migrations()
