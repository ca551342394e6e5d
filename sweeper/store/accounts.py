"""Access tokens of the service, and the browser sessions opened with them.

Only the SHA-256 digest of a secret is stored. Secrets are long and random, so no salt is needed.
The secret itself is shown once, when the token is created.
"""

import hmac
import logging
import secrets
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Literal, get_args

from sqlalchemy import Connection, delete, insert, or_, select

from sweeper.errors import SweeperError, suggestion
from sweeper.store.database import Store, transaction
from sweeper.store.schema import now, sessions, tokens

Role = Literal["viewer", "operator"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
SESSION_SECONDS: Final = 7 * 24 * 3600
_PREFIX: Final = "swp"
_LONGEST_NAME: Final = 100
_NO_DIGEST: Final = "0" * 64
_LATEST: Final = 253402300800.0  # the year 10000, in seconds since 1970
_ACCOUNT_COLUMNS: Final = (tokens.c.key, tokens.c.name, tokens.c.role, tokens.c.created)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Account:
    """An access token without its secret; `created` is in seconds since 1970."""

    key: str
    name: str
    role: Role
    created: float = 0.0


def digest(secret: str) -> str:
    """Return the SHA-256 digest of a secret, as stored."""
    return sha256(secret.encode()).hexdigest()


def create_token(store: Store, name: str, role: Role) -> str:
    """Store a new token and return its text, which cannot be retrieved later.

    Raises `SweeperError` if the name or role is invalid, or if the name is taken.
    """
    if not 1 <= len(name) <= _LONGEST_NAME or not name.isprintable():
        raise SweeperError(
            f"name: must be 1 to {_LONGEST_NAME} printable characters, got {name[:_LONGEST_NAME]!r}"
        )
    if role not in ROLES:
        raise SweeperError(
            f"unknown role {role!r}{suggestion(role, ROLES)}; allowed: {', '.join(ROLES)}"
        )
    key, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    if not _add_token(store, key, name, role, digest(secret)):
        raise SweeperError(
            f"name: token {name!r} already exists; choose another name, or revoke it first: "
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
    """Return all tokens without their secrets, sorted by name.

    A token with invalid values in the database is left out, with a warning.
    """
    found = []
    for row in connection.execute(select(*_ACCOUNT_COLUMNS).order_by(tokens.c.name)):
        account = _account_of(*row)
        if account is None:
            _log.warning(
                "token %r has invalid values in the database and cannot be used; "
                "to remove it: sweeper token revoke %s",
                row.name,
                row.key,
            )
        else:
            found.append(account)
    return found


def _account_of(key: Any, name: Any, role: Any, created: Any) -> Account | None:
    """Return the account with the values of a row, or None if one of them is invalid."""
    account = Account(key, name, role, created)
    valid = (
        isinstance(account.key, str)
        and isinstance(account.name, str)
        and account.role in ROLES
        and isinstance(account.created, int | float)
        and 0 <= account.created < _LATEST
    )
    return account if valid else None


def revoke_token(store: Store, name: str) -> None:
    """Delete a token, given by its name or key, and its sessions.

    Raises `SweeperError` if it does not exist.
    """
    if not _remove_token(store, name):
        names = [token.name for token in all_tokens(store)]
        raise SweeperError(
            f"no token named {name!r}{suggestion(name, names)}; "
            f"existing tokens: {', '.join(names) or 'none'}"
        )


@transaction
def _remove_token(connection: Connection, name: str) -> bool:
    chosen = or_(tokens.c.name == name, tokens.c.key == name)
    connection.execute(
        delete(sessions).where(sessions.c.token.in_(select(tokens.c.key).where(chosen)))
    )
    return connection.execute(delete(tokens).where(chosen)).rowcount > 0


@transaction
def token_account(connection: Connection, text: str) -> Account | None:
    """Return the account that a token text belongs to, or None if it is invalid.

    The row is looked up by the public part of the token; the secret is compared in constant time.
    """
    prefix, _, rest = text.partition("_")
    key, _, secret = rest.partition("_")
    row = connection.execute(select(tokens).where(tokens.c.key == key)).one_or_none()
    stored = _NO_DIGEST if row is None else str(row.digest)
    same = hmac.compare_digest(stored.encode(), digest(secret).encode())
    if row is None or not same or prefix != _PREFIX:
        return None
    return _account_of(row.key, row.name, row.role, row.created)


@transaction
def open_session(connection: Connection, account: Account, secret: str) -> None:
    """Open a browser session for a token, and delete all expired sessions."""
    connection.execute(delete(sessions).where(sessions.c.expires < now()))
    row = {"digest": digest(secret), "token": account.key}
    connection.execute(insert(sessions).values(**row, expires=now() + SESSION_SECONDS))


@transaction
def close_session(connection: Connection, secret: str) -> None:
    """Close the session with this secret, if it exists."""
    connection.execute(delete(sessions).where(sessions.c.digest == digest(secret)))


@transaction
def session_account(connection: Connection, secret: str) -> Account | None:
    """Return the account of an open session, or None if it does not exist or has expired."""
    query = (
        select(*_ACCOUNT_COLUMNS)
        .join(sessions, sessions.c.token == tokens.c.key)
        .where(sessions.c.digest == digest(secret), sessions.c.expires > now())
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else _account_of(*row)
