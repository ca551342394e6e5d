"""The settings of the service."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from starlette.types import Scope

from sweeper.errors import SweeperError
from sweeper.report import Page, built_in_pages, read_page
from sweeper.store.urls import DEFAULT_STORAGE

# In bytes. A study file with 1,000 hyperparameters is smaller.
LARGEST_BODY: Final = 1_000_000


@dataclass(frozen=True)
class Settings:
    """The settings of the service.

    `hosts` are the accepted host names. `root_path` is the path prefix behind a proxy, "" for the
    root of a host. Under the host name `dashboard_host` everything is at the root, which
    optuna-dashboard requires. `folders` contain the task files that studies sent over HTTP may
    use. `pages` are the pages of figures by name.
    """

    storage: str = field(default=DEFAULT_STORAGE, repr=False)
    hosts: frozenset[str] = frozenset()
    sign_in: bool = True
    root_path: str = ""
    dashboard_host: str | None = None
    dashboard_writes: bool = False
    folders: tuple[Path, ...] = ()
    pages: Mapping[str, Page] = field(default_factory=built_in_pages)


def task_folders(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Return the folders as absolute paths; raises `SweeperError` if one is not a folder."""
    folders = tuple(path.absolute() for path in paths)
    for folder in folders:
        if not folder.is_dir():
            raise SweeperError(f"tasks: {folder} is not a folder; give a folder with task files")
    return folders


def pages_of(files: Iterable[Path]) -> Mapping[str, Page]:
    """Return the built-in pages and those from files, by name; a file is named by its stem.

    Raises `SweeperError` for an invalid file.
    """
    return {**built_in_pages(), **{file.stem: read_page(file) for file in files}}


def root_of(scope: Scope) -> str:
    """Return the path prefix of the service for this request."""
    return str(scope.get("root_path", ""))


def path_of(scope: Scope) -> str:
    """Return the path without the prefix of a proxy, as the routes see it."""
    return str(scope["path"]).removeprefix(root_of(scope))
