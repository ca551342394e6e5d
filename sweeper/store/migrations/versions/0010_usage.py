"""The cores and GPUs of each claim, how long they were used, and the peak memory."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_NAMES = ("cores", "gpus", "share", "since")


def upgrade() -> None:
    """Add the columns. The hours of earlier trials are not known and count as 0."""
    for name in _NAMES:
        op.add_column("sweeper_tickets", sa.Column(name, sa.Double))
    for name in ("core_seconds", "gpu_seconds"):
        column = sa.Column(name, sa.Double, nullable=False, server_default="0")
        op.add_column("sweeper_tickets", column)
    op.add_column("sweeper_tickets", sa.Column("peak_memory", sa.BigInteger))


def downgrade() -> None:
    """Drop the columns."""
    for name in (*_NAMES, "core_seconds", "gpu_seconds", "peak_memory"):
        op.drop_column("sweeper_tickets", name)
