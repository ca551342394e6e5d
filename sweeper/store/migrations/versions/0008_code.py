"""The code of a study: which files it has, and with which revision of them a trial was trained."""

import json
import posixpath

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table, and move the files that each study names to it, as revision 1."""
    op.create_table(
        "sweeper_code",
        sa.Column("study_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("revision", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("sources", sa.JSON, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["sweeper_studies.id"], ondelete="CASCADE"),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
    )
    for table in ("sweeper_studies", "sweeper_results", "sweeper_confirmations"):
        op.add_column(table, sa.Column("code", sa.Integer, nullable=False, server_default="1"))
    op.add_column(
        "sweeper_results",
        sa.Column("problem", sa.String(255), nullable=False, server_default=""),
    )
    studies = sa.table("sweeper_studies", sa.column("id"), sa.column("spec"), sa.column("created"))
    code = sa.table(
        "sweeper_code",
        *map(sa.column, ("study_id", "revision", "created")),
        sa.column("sources", sa.JSON),
    )
    connection = op.get_bind()
    for study in connection.execute(sa.select(studies)).all():
        row = {"study_id": study.id, "revision": 1, "created": study.created}
        connection.execute(sa.insert(code).values(**row, sources=_sources(study.spec)))


def _sources(spec: str) -> dict[str, str]:
    try:
        sources = json.loads(spec)["sources"]
        return {posixpath.normpath(file): str(digest) for file, digest in sources.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}  # such a study cannot be read anyway


def downgrade() -> None:
    """Drop the table and the columns."""
    op.drop_column("sweeper_results", "problem")
    for table in ("sweeper_studies", "sweeper_results", "sweeper_confirmations"):
        op.drop_column(table, "code")
    op.drop_table("sweeper_code")
