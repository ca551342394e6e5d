"""Studies, tickets, epochs and results."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _ticket_key() -> list[sa.Column[int] | sa.Column[str] | sa.ForeignKeyConstraint]:
    return [
        sa.Column("study_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("phase", sa.String(16), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.ForeignKeyConstraint(
            ["study_id", "phase", "number"],
            ["sweeper_tickets.study_id", "sweeper_tickets.phase", "sweeper_tickets.number"],
            ondelete="CASCADE",
        ),
    ]


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "sweeper_studies",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(255), nullable=False, unique=True),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("spec_hash", sa.String(64), nullable=False),
        sa.Column("folder", sa.Text, nullable=False),
        sa.Column("version", sa.String(32), nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "sweeper_tickets",
        sa.Column(
            "study_id",
            sa.Integer,
            sa.ForeignKey("sweeper_studies.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("phase", sa.String(16), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("params", sa.JSON),
        sa.Column("worker", sa.String(255)),
        sa.Column("lease_until", sa.Double),
        sa.Column("claims", sa.Integer, nullable=False),
        sa.Column("returned", sa.Integer, nullable=False),
    )
    op.create_table(
        "sweeper_epochs",
        *_ticket_key(),
        sa.Column("epoch", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("progress", sa.Double, nullable=False),
        sa.Column("epsilon", sa.Double, nullable=False),
        sa.Column("train_loss", sa.Double),
        sa.Column("nll", sa.Double),
        sa.Column("accuracy", sa.Double),
        sa.Column("brier", sa.Double),
        sa.Column("ece", sa.Double),
    )
    op.create_table(
        "sweeper_results",
        *_ticket_key(),
        sa.Column("scores", sa.JSON, nullable=False),
        sa.Column("extra", sa.JSON, nullable=False),
        sa.Column("environment", sa.JSON, nullable=False),
        sa.Column("classes", sa.Integer),
        sa.Column("epochs", sa.Integer, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("copied_from", sa.Integer),
        sa.Column("failure", sa.Text, nullable=False),
        sa.Column("log", sa.Text, nullable=False),
    )


def downgrade() -> None:
    """Drop the tables."""
    for table in ("results", "epochs", "tickets", "studies"):
        op.drop_table(f"sweeper_{table}")
