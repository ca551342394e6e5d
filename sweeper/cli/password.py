"""The database password, read from a file: others can see environments and command lines."""

import os
from pathlib import Path
from typing import Final

from sweeper.errors import SweeperError

VARIABLE: Final = "SWEEPER_PASSWORD_FILE"
_WRITE: Final = "it must contain the password and nothing else"


def with_password_file(storage: str) -> str:
    """Return the storage URL with the password from the file in SWEEPER_PASSWORD_FILE, if set.

    Raises `SweeperError` if the file cannot be read or the storage takes no password.
    """
    # Removed from the environment: workers inherit it, and they get the complete URL.
    file = os.environ.pop(VARIABLE, "")
    if not file:
        return storage
    from sweeper.store.urls import with_password

    return with_password(storage, _read(Path(file)))


def _read(file: Path) -> str:
    try:
        password = file.read_bytes().decode()
    except OSError as error:
        raise SweeperError(
            f"{VARIABLE}: {file} cannot be read: {error.strerror}; "
            "make it readable for this user, or name another file"
        ) from None
    except UnicodeDecodeError:
        raise SweeperError(f"{VARIABLE}: {file} is not UTF-8 text; {_WRITE}") from None
    # PostgreSQL's image reads POSTGRES_PASSWORD_FILE in the same way, so both can share a file.
    password = password.rstrip("\n")
    if not password:
        raise SweeperError(f"{VARIABLE}: {file} is empty; {_WRITE}")
    if "\0" in password:
        raise SweeperError(f"{VARIABLE}: {file} contains a null byte; {_WRITE}")
    return password
