"""What training runs print: one row for each attempt at a ticket, also while it runs."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table, and move what the results hold to it."""
    op.create_table(
        "sweeper_outputs",
        sa.Column("study_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("phase", sa.String(16), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("claim", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("text", sa.Text().with_variant(sa.Text(2**32 - 1), "mysql"), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_id", "phase", "number"],
            ["sweeper_tickets.study_id", "sweeper_tickets.phase", "sweeper_tickets.number"],
            ondelete="CASCADE",
        ),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
    )
    op.execute(
        "insert into sweeper_outputs (study_id, phase, number, claim, size, text) "
        "select r.study_id, r.phase, r.number, t.claims, length(r.log), r.log "
        "from sweeper_results r join sweeper_tickets t "
        "on t.study_id = r.study_id and t.phase = r.phase and t.number = r.number "
        "where length(r.log) > 0"
    )
    op.drop_column("sweeper_results", "log")


def downgrade() -> None:
    """Move the latest output of each ticket back, and drop the table."""
    op.add_column("sweeper_results", sa.Column("log", sa.Text))
    op.execute(
        "update sweeper_results set log = coalesce((select o.text from sweeper_outputs o "
        "where o.study_id = sweeper_results.study_id and o.phase = sweeper_results.phase "
        "and o.number = sweeper_results.number order by o.claim desc limit 1), '')"
    )
    op.drop_table("sweeper_outputs")
