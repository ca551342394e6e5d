"""Our tables. They start with `sweeper_`, since Optuna owns the plain names."""

from typing import Any, Final

from sqlalchemy import (
    JSON,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.dialects.mysql import LONGBLOB, LONGTEXT
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

PREFIX: Final = "sweeper_"
VERSION_TABLE: Final = "sweeper_alembic_version"

metadata: Final = MetaData()

# MySQL's Text and Blob have 64 KiB, and a trial's output may be longer.
# Characters of the notes on one trial.
LONGEST_NOTES: Final = 1000
LONG_TEXT: Final = Text().with_variant(LONGTEXT(), "mysql")

studies: Final = Table(
    "sweeper_studies",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(255), nullable=False, unique=True),
    Column("spec", LONG_TEXT, nullable=False),
    Column("spec_hash", String(64), nullable=False),
    Column("folder", LONG_TEXT, nullable=False),  # where a task file named by the spec lies
    Column("version", String(32), nullable=False),
    Column("created", Double, nullable=False),
    Column("state", String(8), nullable=False, server_default="running"),  # StudyState
    sqlite_autoincrement=True,  # a deleted study's id never comes back
)

tickets: Final = Table(
    "sweeper_tickets",
    metadata,
    Column(
        "study_id",
        Integer,
        ForeignKey("sweeper_studies.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("phase", String(16), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("state", String(8), nullable=False),  # open | closed
    Column("params", JSON),  # the point to try; NULL: ask the sampler
    Column("worker", String(255)),
    Column("lease_until", Double),
    Column("claims", Integer, nullable=False),  # never goes down: tells one claim from the next
    Column("returned", Integer, nullable=False),  # claims that were handed back in good order
    # The first open ticket is found without going through all that are closed.
    Index("sweeper_tickets_by_state", "study_id", "phase", "state", "number"),
)


def _ticket_key() -> list[Any]:
    # Fresh objects at each call: SQLAlchemy binds a column to one table.
    return [
        Column("study_id", Integer, primary_key=True, autoincrement=False),
        Column("phase", String(16), primary_key=True),
        Column("number", Integer, primary_key=True, autoincrement=False),
        ForeignKeyConstraint(
            ["study_id", "phase", "number"],
            [
                "sweeper_tickets.study_id",
                "sweeper_tickets.phase",
                "sweeper_tickets.number",
            ],
            ondelete="CASCADE",
        ),
    ]


epochs: Final = Table(
    "sweeper_epochs",
    metadata,
    *_ticket_key(),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("progress", Double, nullable=False),
    Column("epsilon", Double, nullable=False),
    Column("mean_epsilon", Double),
    Column("train_loss", Double),
    Column("nll", Double),
    Column("accuracy", Double),
    Column("brier", Double),
    Column("ece", Double),
)

results: Final = Table(
    "sweeper_results",
    metadata,
    *_ticket_key(),
    Column("scores", JSON, nullable=False),
    Column("extra", JSON, nullable=False),
    Column("environment", JSON, nullable=False),
    Column("classes", Integer),
    Column("epochs", Integer, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("copied_from", Integer),  # ticket number
    Column("failure", LONG_TEXT, nullable=False),
    Column("cause", String(16), nullable=False, server_default=""),
    Column("splits", String(32), nullable=False, server_default=""),  # beside validation
    Column("log", LONG_TEXT, nullable=False),
    Column("notes", String(LONGEST_NOTES), nullable=False, server_default=""),
)

# A study's confirmations, numbered from 1; the tickets of each are a phase of their own.
confirmations: Final = Table(
    "sweeper_confirmations",
    metadata,
    Column(
        "study_id",
        Integer,
        ForeignKey("sweeper_studies.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("ended", Integer, nullable=False),  # trials of the search that it was chosen from
    Column("settings", JSON, nullable=False),
    Column("candidates", JSON, nullable=False),
    Column("reason", LONG_TEXT, nullable=False),  # why there is nothing to confirm, or ""
    Column("created", Double, nullable=False),
)

# What a replicate leaves beside its result: the scores of each split, and the test examples.
replicates: Final = Table(
    "sweeper_replicates",
    metadata,
    *_ticket_key(),
    Column("scores", JSON, nullable=False),
    Column("rows", JSON, nullable=False),
    Column("examples", LargeBinary().with_variant(LONGBLOB(), "mysql"), nullable=False),
)

# Who may sign in to the service: a token's secret is kept as its digest alone.
tokens: Final = Table(
    "sweeper_tokens",
    metadata,
    Column("key", String(16), primary_key=True),
    Column("name", String(100), nullable=False, unique=True),
    Column("role", String(8), nullable=False),  # Role
    Column("digest", String(64), nullable=False),
    Column("created", Double, nullable=False),
)

# Browsers that signed in with a token; they go with it.
sessions: Final = Table(
    "sweeper_sessions",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column(
        "token",
        String(16),
        ForeignKey("sweeper_tokens.key", ondelete="CASCADE"),
        nullable=False,
    ),
    Column("expires", Double, nullable=False),
)

# Addresses that failed to sign in, for as long as they are slowed down.
refusals: Final = Table(
    "sweeper_refusals",
    metadata,
    Column("address", String(64), primary_key=True),
    Column("failures", Integer, nullable=False),
    Column("last", Double, nullable=False),
)

# By its default MySQL may take Ann and ann for one, and know no ε.
for _table in metadata.tables.values():
    _table.dialect_kwargs.update(mysql_charset="utf8mb4", mysql_collate="utf8mb4_bin")


class now(FunctionElement[float]):  # noqa: N801  (a SQL function, written like sqlalchemy.func's)
    """Seconds since 1970 by the database's own clock, the only one that all workers share."""

    type = Double()
    inherit_cache = True


@compiles(now)
def _now(*_: Any, **__: Any) -> str:
    return "extract(epoch from clock_timestamp())"


@compiles(now, "mysql")
def _now_mysql(*_: Any, **__: Any) -> str:
    # Not unix_timestamp(), which goes by the session's time zone and so by its summer time.
    return "(timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) / 1e6)"


@compiles(now, "sqlite")
def _now_sqlite(*_: Any, **__: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"
