"""Who may sign in to the service: tokens, the sessions of browsers, and who failed to.

Secrets are random and long, so a plain digest of one tells nothing of it; the secret itself is
shown once and stored nowhere.
"""

import hmac
import secrets
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Literal, get_args

from sqlalchemy import Connection, delete, insert, select, update

from sweeper.errors import SweeperError, nearest
from sweeper.store.database import Store, transaction
from sweeper.store.schema import now, refusals, sessions, tokens

Role = Literal["viewer", "operator"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
SESSION_SECONDS: Final = 7 * 24 * 3600
# So many failures of an address cost nothing; each one after doubles the wait, up to the longest.
FREE_FAILURES: Final = 5
LONGEST_WAIT: Final = 900.0
# Failures longer ago than this are forgotten.
_FORGOTTEN: Final = 3600.0
_PREFIX: Final = "swp"
_LONGEST_NAME: Final = 100
_NO_DIGEST: Final = "0" * 64


@dataclass(frozen=True)
class Account:
    """A token as it may be shown: never its secret."""

    key: str
    name: str
    role: Role
    created: float = 0.0


def digest(secret: str) -> str:
    """Return what is stored of a secret."""
    return sha256(secret.encode()).hexdigest()


def create_token(store: Store, name: str, role: Role) -> str:
    """Store a new token and return its text, which cannot be had again."""
    if not 1 <= len(name) <= _LONGEST_NAME or not name.isprintable():
        raise SweeperError(
            f"name: {name[:_LONGEST_NAME]!r}; allowed: 1 to {_LONGEST_NAME} printable characters"
        )
    if role not in ROLES:
        raise SweeperError(f"role: {role!r}{nearest(role, ROLES)}; allowed: {', '.join(ROLES)}")
    key, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    if not _add_token(store, key, name, role, digest(secret)):
        raise SweeperError(
            f"name: there is a token {name!r} already; choose another name, or revoke it first: "
            f"sweeper token revoke {name}"
        )
    return f"{_PREFIX}_{key}_{secret}"


@transaction
def _add_token(connection: Connection, key: str, name: str, role: Role, hashed: str) -> bool:
    taken = select(tokens.c.key).where(tokens.c.name == name)
    if connection.execute(taken).one_or_none() is not None:
        return False
    row = {"key": key, "name": name, "role": role, "digest": hashed}
    connection.execute(insert(tokens).values(**row, created=now()))
    return True


@transaction
def all_tokens(connection: Connection) -> list[Account]:
    """Return every token by name, without its secret."""
    query = select(tokens.c.key, tokens.c.name, tokens.c.role, tokens.c.created)
    return [Account(**row._mapping) for row in connection.execute(query.order_by(tokens.c.name))]


def revoke_token(store: Store, name: str) -> None:
    """Remove a token and every session that was opened with it."""
    if not _remove_token(store, name):
        names = [token.name for token in all_tokens(store)]
        held = ", ".join(names) or "none"
        raise SweeperError(f"there is no token {name!r}{nearest(name, names)}; there are: {held}")


@transaction
def _remove_token(connection: Connection, name: str) -> bool:
    key = select(tokens.c.key).where(tokens.c.name == name).scalar_subquery()
    connection.execute(delete(sessions).where(sessions.c.token == key))
    return connection.execute(delete(tokens).where(tokens.c.name == name)).rowcount > 0


@transaction
def token_account(connection: Connection, text: str) -> Account | None:
    """Return whose token a text is, or None.

    The row is found by the part that is no secret; the secret is compared in constant time.
    """
    prefix, _, rest = text.partition("_")
    key, _, secret = rest.partition("_")
    row = connection.execute(select(tokens).where(tokens.c.key == key)).one_or_none()
    stored = _NO_DIGEST if row is None else row.digest
    if not hmac.compare_digest(stored, digest(secret)) or row is None or prefix != _PREFIX:
        return None
    return Account(row.key, row.name, row.role, row.created)


@transaction
def open_session(connection: Connection, account: Account, secret: str) -> None:
    """Let a browser that holds the secret act for a token; those that have expired are removed."""
    connection.execute(delete(sessions).where(sessions.c.expires < now()))
    row = {"digest": digest(secret), "token": account.key}
    connection.execute(insert(sessions).values(**row, expires=now() + SESSION_SECONDS))


@transaction
def close_session(connection: Connection, secret: str) -> None:
    """Sign a browser out; no-op where it is not signed in."""
    connection.execute(delete(sessions).where(sessions.c.digest == digest(secret)))


@transaction
def session_account(connection: Connection, secret: str) -> Account | None:
    """Return for whose token the browser that holds a secret may act, or None."""
    query = (
        select(tokens.c.key, tokens.c.name, tokens.c.role, tokens.c.created)
        .join(sessions, sessions.c.token == tokens.c.key)
        .where(sessions.c.digest == digest(secret), sessions.c.expires > now())
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else Account(**row._mapping)


@transaction
def seconds_to_wait(connection: Connection, address: str) -> float:
    """Return for how long an address may not try to sign in; 0.0 where it may."""
    query = select(refusals.c.failures, (now() - refusals.c.last).label("since")).where(
        refusals.c.address == address
    )
    row = connection.execute(query).one_or_none()
    if row is None or row.failures < FREE_FAILURES:
        return 0.0
    wait = min(2.0 ** min(row.failures - FREE_FAILURES, 10), LONGEST_WAIT)
    left: float = wait - row.since
    return max(0.0, left)


@transaction
def note_failure(connection: Connection, address: str) -> None:
    """Count a failure to sign in."""
    connection.execute(delete(refusals).where(refusals.c.last < now() - _FORGOTTEN))
    counted = (
        update(refusals)
        .where(refusals.c.address == address)
        .values(failures=refusals.c.failures + 1, last=now())
    )
    if not connection.execute(counted).rowcount:
        connection.execute(insert(refusals).values(address=address, failures=1, last=now()))


@transaction
def forget_failures(connection: Connection, address: str) -> None:
    """Forget an address's failures: it has signed in."""
    connection.execute(delete(refusals).where(refusals.c.address == address))
