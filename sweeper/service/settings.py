"""What a service was told when it was started."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from starlette.types import Scope

from sweeper.errors import SweeperError
from sweeper.report import Page, read_page, ready_pages
from sweeper.store.urls import DEFAULT_STORAGE

# A study file of a thousand hyperparameters is smaller.
LARGEST_BODY: Final = 1_000_000


@dataclass(frozen=True)
class Settings:
    """How the service is reached, by whom, and what it may do.

    `hosts` are the names that it may be asked by. `root_path` is where a proxy has put it, ""
    for the root of a host. Under the name `dashboard_host` everything is at the root, which is
    where optuna-dashboard has to be. `folders` hold the code that studies from the browser may
    name. `pages` are the pages of figures by name.
    """

    storage: str = field(default=DEFAULT_STORAGE, repr=False)
    hosts: frozenset[str] = frozenset()
    sign_in: bool = True
    root_path: str = ""
    dashboard_host: str | None = None
    dashboard_writes: bool = False
    folders: tuple[Path, ...] = ()
    pages: Mapping[str, Page] = field(default_factory=ready_pages)


def task_folders(given: Iterable[Path]) -> tuple[Path, ...]:
    """Return the folders of code as absolute paths; raises `SweeperError` for what is none."""
    folders = tuple(folder.absolute() for folder in given)
    for folder in folders:
        if not folder.is_dir():
            raise SweeperError(f"tasks: {folder} is no folder; name one that holds task files")
    return folders


def pages_of(files: Iterable[Path]) -> Mapping[str, Page]:
    """Return the ready pages and those of files, which go by the files' names.

    Raises `SweeperError` for a file that is none.
    """
    return {**ready_pages(), **{file.stem: read_page(file) for file in files}}


def root_of(scope: Scope) -> str:
    """Return what stands before the paths of our pages where this request was sent."""
    return str(scope.get("root_path", ""))


def path_of(scope: Scope) -> str:
    """Return the path as our routes see it: without what a proxy has put before it."""
    return str(scope["path"]).removeprefix(root_of(scope))
