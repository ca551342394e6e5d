"""Atomic file writes."""

import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from sweeper.errors import SweeperError


def atomic_write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Replace a file atomically: readers see either the old content or the new content.

    `write` is called with the open binary stream. Missing parent folders are created. A process
    that is killed may leave a temporary file named `.NAME.RANDOM` in the folder. The target of a
    link is replaced, not the link. A device or a pipe is written to. Raises `OSError`.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file() and not path.is_dir():
        with path.open("wb") as stream:
            write(stream)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with draft.open("xb") as stream:
            write(stream)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


_KINDS: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def kind_of(path: Path) -> str:
    """Return what is at a path that is not a regular file, as `a pipe`; raises `OSError`."""
    return _KINDS.get(stat.S_IFMT(path.stat().st_mode), "not a regular file")


def write_text(path: Path, text: str) -> Path:
    """Write a text file atomically, encoded as UTF-8, and return its path.

    Characters that UTF-8 cannot encode are replaced. Raises `SweeperError` if the file cannot be
    written.
    """
    content = text.encode("utf-8", errors="replace")
    try:
        atomic_write(path, lambda stream: stream.write(content))
    except (OSError, ValueError) as error:  # ValueError: not a valid file name
        reason = getattr(error, "strerror", None) or error
        raise SweeperError(f"{path} cannot be written: {reason}") from error
    return path
