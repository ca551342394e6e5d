"""The password of the storage, from a file: an environment and a command line are easily seen."""

import os
from pathlib import Path
from typing import Final

from sweeper.errors import SweeperError

VARIABLE: Final = "SWEEPER_PASSWORD_FILE"
_WRITE: Final = "write the password into it, and nothing else"


def with_password_file(storage: str) -> str:
    """Return the storage, with the password of the file that SWEEPER_PASSWORD_FILE names, if any.

    Raises `SweeperError` where the file cannot be read or the storage takes no password.
    """
    # Taken out: a launch hands its environment to its workers, with the whole URL in it.
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
            "let this user read it, or name another"
        ) from None
    except UnicodeDecodeError:
        raise SweeperError(f"{VARIABLE}: {file} is not UTF-8 text; {_WRITE}") from None
    # As PostgreSQL's image reads POSTGRES_PASSWORD_FILE, so that both may be the same file.
    password = password.rstrip("\n")
    if not password:
        raise SweeperError(f"{VARIABLE}: {file} is empty; {_WRITE}")
    if "\0" in password:
        raise SweeperError(f"{VARIABLE}: {file} holds a null byte; {_WRITE}")
    return password
