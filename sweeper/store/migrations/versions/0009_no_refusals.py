"""Failures to sign in are counted in memory, where a guess costs no write."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Drop the table of failures."""
    op.drop_table("sweeper_refusals")


def downgrade() -> None:
    """Make it again, empty."""
    op.create_table(
        "sweeper_refusals",
        sa.Column("address", sa.String(64), primary_key=True),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("last", sa.Double, nullable=False),
    )
