"""Confirmations and their replicates, the splits that a loop gives, and the mean epsilon used."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables and add the columns."""
    op.create_table(
        "sweeper_confirmations",
        sa.Column(
            "study_id",
            sa.Integer,
            sa.ForeignKey("sweeper_studies.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("ended", sa.Integer, nullable=False),
        sa.Column("settings", sa.JSON, nullable=False),
        sa.Column("candidates", sa.JSON, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
    )
    op.create_table(
        "sweeper_replicates",
        sa.Column("study_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("phase", sa.String(16), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("scores", sa.JSON, nullable=False),
        sa.Column("rows", sa.JSON, nullable=False),
        sa.Column("examples", sa.LargeBinary(2**32 - 1), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_id", "phase", "number"],
            ["sweeper_tickets.study_id", "sweeper_tickets.phase", "sweeper_tickets.number"],
            ondelete="CASCADE",
        ),
    )
    op.add_column("sweeper_epochs", sa.Column("mean_epsilon", sa.Double))
    op.add_column(
        "sweeper_results", sa.Column("splits", sa.String(32), nullable=False, server_default="")
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_column("sweeper_results", "splits")
    op.drop_column("sweeper_epochs", "mean_epsilon")
    op.drop_table("sweeper_replicates")
    op.drop_table("sweeper_confirmations")
