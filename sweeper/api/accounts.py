"""The tokens for signing in to the service of a database."""

from sweeper.api.control import existing_writer
from sweeper.store.accounts import Account, Role, all_tokens
from sweeper.store.accounts import create_token as create
from sweeper.store.accounts import revoke_token as revoke
from sweeper.store.database import open_reader, open_writer
from sweeper.store.urls import DEFAULT_STORAGE, check_sqlite_path


def create_token(name: str, role: Role = "viewer", storage: str = DEFAULT_STORAGE) -> str:
    """Create a token and return it. Only its digest is stored, so it cannot be shown again.

    Creates the database's tables if there are none. Raises `SweeperError` if a token with this
    name exists.
    """
    check_sqlite_path(storage)
    writer = open_writer(storage)
    try:
        return create(writer, name, role)
    finally:
        writer.close()


def tokens(storage: str = DEFAULT_STORAGE) -> list[Account]:
    """Return all tokens sorted by name, without their secrets."""
    reader = open_reader(storage)
    try:
        return all_tokens(reader)
    finally:
        reader.close()


def revoke_token(name: str, storage: str = DEFAULT_STORAGE) -> None:
    """Revoke a token and end its sessions; raises `SweeperError` if it does not exist."""
    with existing_writer(storage) as writer:
        revoke(writer, name)
