"""Trials of an earlier study that a study extends."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table, empty: no study extends another one yet."""
    op.create_table(
        "sweeper_earlier_trials",
        sa.Column("study_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("source", sa.String(255), nullable=False),
        sa.Column("trial", sa.Integer, nullable=False),
        sa.Column("value", sa.Double, nullable=False),
        sa.Column("step", sa.Integer),
        sa.Column("point", sa.JSON, nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["sweeper_studies.id"], ondelete="CASCADE"),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("sweeper_earlier_trials")
