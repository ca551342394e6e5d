"""Whether a study is run, why a trial failed, and open tickets found by an index."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns and the index."""
    op.create_index(
        "sweeper_tickets_by_state", "sweeper_tickets", ["study_id", "phase", "state", "number"]
    )
    op.add_column(
        "sweeper_studies",
        sa.Column("state", sa.String(8), nullable=False, server_default="running"),
    )
    op.add_column(
        "sweeper_results", sa.Column("cause", sa.String(16), nullable=False, server_default="")
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_index("sweeper_tickets_by_state", "sweeper_tickets")
    op.drop_column("sweeper_results", "cause")
    op.drop_column("sweeper_studies", "state")
