"""Who may sign in to the service of a database."""

from sweeper.api.control import writer_of
from sweeper.store.accounts import Account, Role, all_tokens
from sweeper.store.accounts import create_token as create
from sweeper.store.accounts import revoke_token as revoke
from sweeper.store.database import open_reader, open_writer
from sweeper.store.urls import DEFAULT_STORAGE, check_place


def create_token(name: str, role: Role = "viewer", storage: str = DEFAULT_STORAGE) -> str:
    """Return a new token; only its digest is stored, so it cannot be had again.

    Makes the database's tables where there are none. Raises `SweeperError` where there is a
    token of that name.
    """
    check_place(storage)
    writer = open_writer(storage)
    try:
        return create(writer, name, role)
    finally:
        writer.close()


def tokens(storage: str = DEFAULT_STORAGE) -> list[Account]:
    """Return every token by name, without its secret."""
    reader = open_reader(storage)
    try:
        return all_tokens(reader)
    finally:
        reader.close()


def revoke_token(name: str, storage: str = DEFAULT_STORAGE) -> None:
    """Remove a token and every session opened with it; raises `SweeperError` without one."""
    with writer_of(storage) as writer:
        revoke(writer, name)
