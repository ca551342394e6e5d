"""Notes on trials: what was unusual about their reports."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column(
        "sweeper_results", sa.Column("notes", sa.String(1000), nullable=False, server_default="")
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_column("sweeper_results", "notes")
