"""Sweeper's tables. Their names start with `sweeper_` to avoid conflicts with Optuna's tables."""

from typing import Any, Final

from pydantic import TypeAdapter
from sqlalchemy import (
    JSON,
    BigInteger,
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

# Maximum length of a trial's notes, and of the key for grouping equal failures.
LONGEST_NOTES: Final = 1000
LONGEST_PROBLEM: Final = 255
# MySQL limits TEXT and BLOB to 64 KiB; the output of a trial may be longer.
LONG_TEXT: Final = Text().with_variant(LONGTEXT(), "mysql")


def _json(shape: Any) -> dict[str, Any]:
    """Return the arguments of a JSON column; `check_intact` validates its values by `shape`."""
    return {"type_": JSON(), "info": {"shape": TypeAdapter(shape)}}


_Scalars = dict[str, bool | int | float | str | None]
_Scores = dict[str, float | None]

studies: Final = Table(
    "sweeper_studies",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(255), nullable=False, unique=True),
    Column("spec", LONG_TEXT, nullable=False),
    Column("spec_hash", String(64), nullable=False),
    Column("folder", LONG_TEXT, nullable=False),  # that paths in the spec are relative to
    Column("version", String(32), nullable=False),
    Column("created", Double, nullable=False),
    Column("state", String(8), nullable=False, server_default="running"),  # StudyState
    Column("code", Integer, nullable=False, server_default="1"),  # current code revision
    sqlite_autoincrement=True,  # the id of a deleted study is not reused
)

# Code revisions of each study; `sources` maps file paths to SHA-256 digests.
code: Final = Table(
    "sweeper_code",
    metadata,
    Column(
        "study_id",
        Integer,
        ForeignKey("sweeper_studies.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("revision", Integer, primary_key=True, autoincrement=False),
    Column("sources", **_json(dict[str, str]), nullable=False),
    Column("created", Double, nullable=False),
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
    # The planned point; JSON null: the sampler chooses it. Replicates store the point inside.
    Column("params", **_json(dict[str, bool | int | float | str | _Scalars] | None)),
    Column("worker", String(255)),
    Column("lease_until", Double),
    Column("claims", Integer, nullable=False),  # never decreases, so it identifies a claim
    Column("returned", Integer, nullable=False),  # claims that were released without a failure
    # What the slot of the last claim uses, and the share of it that this ticket uses; see usage.py.
    Column("cores", Double),
    Column("gpus", Double),
    Column("share", Double),
    Column("since", Double),  # the time from which on the seconds are not added up yet
    Column("core_seconds", Double, nullable=False, server_default="0"),
    Column("gpu_seconds", Double, nullable=False, server_default="0"),
    Column("peak_memory", BigInteger),  # bytes
    # Finds the first open ticket without scanning the closed ones.
    Index("sweeper_tickets_by_state", "study_id", "phase", "state", "number"),
)


def _ticket_key() -> list[Any]:
    # New objects in each call: SQLAlchemy binds a column to one table.
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
    Column("scores", **_json(_Scores), nullable=False),
    Column("extra", **_json(_Scores), nullable=False),
    Column("environment", **_json(dict[str, str]), nullable=False),
    Column("classes", Integer),
    Column("epochs", Integer, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("copied_from", Integer),  # ticket number
    Column("failure", LONG_TEXT, nullable=False),
    Column("cause", String(16), nullable=False, server_default=""),
    Column("splits", String(32), nullable=False, server_default=""),  # besides validation
    Column("notes", String(LONGEST_NOTES), nullable=False, server_default=""),
    Column("code", Integer, nullable=False, server_default="1"),  # the revision it was trained with
    # Key for grouping equal failures: the type and line of an exception, or the failure text.
    Column("problem", String(LONGEST_PROBLEM), nullable=False, server_default=""),
)

# The last part of the output of each attempt at a ticket.
outputs: Final = Table(
    "sweeper_outputs",
    metadata,
    *_ticket_key(),
    Column("claim", Integer, primary_key=True, autoincrement=False),
    Column("size", BigInteger, nullable=False),  # length of the whole output in bytes
    Column("text", LONG_TEXT, nullable=False),
)

# Confirmations of a study, numbered from 1; each has its own ticket phase.
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
    Column("ended", Integer, nullable=False),  # search trials that had ended at its creation
    Column("settings", **_json(_Scalars), nullable=False),
    Column("candidates", **_json(list[dict[str, str | float | _Scalars | None]]), nullable=False),
    Column("reason", LONG_TEXT, nullable=False),  # reason why there is nothing to confirm, or ""
    Column("created", Double, nullable=False),
    Column("summary", **_json(dict[str, Any] | None)),  # null until it is complete
    Column("code", Integer, nullable=False, server_default="1"),  # the revision it was trained with
)

# Results that only replicates have: the scores of each split, and the packed test examples.
replicates: Final = Table(
    "sweeper_replicates",
    metadata,
    *_ticket_key(),
    Column("scores", **_json(dict[str, _Scores]), nullable=False),
    Column("rows", **_json(dict[str, int]), nullable=False),
    Column("examples", LargeBinary().with_variant(LONGBLOB(), "mysql"), nullable=False),
)

# Trials of an earlier study that inform the sampler of a study that extends it.
earlier_trials: Final = Table(
    "sweeper_earlier_trials",
    metadata,
    Column(
        "study_id",
        Integer,
        ForeignKey("sweeper_studies.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("source", String(255), nullable=False),  # the study that trained it
    Column("trial", Integer, nullable=False),  # its number there
    Column("value", Double, nullable=False),
    Column("step", Integer),  # the step at which it was pruned; null: complete
    Column("point", **_json(_Scalars), nullable=False),  # in the space of the new study
)

# Access tokens of the service; only the digest of a secret is stored.
tokens: Final = Table(
    "sweeper_tokens",
    metadata,
    Column("key", String(16), primary_key=True),
    Column("name", String(100), nullable=False, unique=True),
    Column("role", String(8), nullable=False),  # Role
    Column("digest", String(64), nullable=False),
    Column("created", Double, nullable=False),
)

# Browser sessions; they are deleted together with their token.
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

# MySQL's default collation may treat "Ann" and "ann" as equal, and its default character set may
# lack ε.
for _table in metadata.tables.values():
    _table.dialect_kwargs.update(mysql_charset="utf8mb4", mysql_collate="utf8mb4_bin")


class now(FunctionElement[float]):  # noqa: N801  (a SQL function, written like sqlalchemy.func's)
    """SQL function: seconds since 1970 by the database's clock, which all workers share."""

    type = Double()
    inherit_cache = True


@compiles(now)
def _now(*_: Any, **__: Any) -> str:
    return "extract(epoch from clock_timestamp())"


@compiles(now, "mysql")
def _now_mysql(*_: Any, **__: Any) -> str:
    # Not unix_timestamp(): it depends on the session's time zone and daylight saving time.
    return "(timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) / 1e6)"


@compiles(now, "sqlite")
def _now_sqlite(*_: Any, **__: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"
