"""Tokens of the service, the sessions of browsers, and addresses that failed to sign in."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "sweeper_tokens",
        sa.Column("key", sa.String(16), primary_key=True),
        sa.Column("name", sa.String(100), nullable=False, unique=True),
        sa.Column("role", sa.String(8), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("created", sa.Double, nullable=False),
    )
    op.create_table(
        "sweeper_sessions",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column(
            "token",
            sa.String(16),
            sa.ForeignKey("sweeper_tokens.key", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("expires", sa.Double, nullable=False),
    )
    op.create_table(
        "sweeper_refusals",
        sa.Column("address", sa.String(64), primary_key=True),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("last", sa.Double, nullable=False),
    )


def downgrade() -> None:
    """Drop them."""
    for table in ("refusals", "sessions", "tokens"):
        op.drop_table(f"sweeper_{table}")
