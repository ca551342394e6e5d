"""What a confirmation shows, computed once when it is complete."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; it is filled when a study is finished or confirmed again."""
    op.add_column("sweeper_confirmations", sa.Column("summary", sa.JSON))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("sweeper_confirmations", "summary")
