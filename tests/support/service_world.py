"""A service with a finished study."""

import shutil
from pathlib import Path
from typing import NamedTuple

import sweeper
from sweeper import Study
from tests.support.serving import Site, database, serve
from tests.support.studies import STUDY, copy_task


class World(NamedTuple):
    """A service, its database with a finished study "quick", and the folder of its tasks."""

    site: Site
    study: Study
    folder: Path


def world(folder: Path) -> World:
    copy_task(folder)
    tested = STUDY.replace("quick.py:train", "quick.py:with_test_split")
    (folder / "quick.toml").write_text(f"{tested}[task.options]\nhelp = 4.0\n")
    storage = database(folder)
    study = sweeper.launch(folder / "quick.toml", workers=0, storage=storage, results=folder)
    return World(serve(storage, folders=(folder,)), study, folder)


def copied(template: World, folder: Path) -> World:
    """Return a world with a database of its own."""
    shutil.copytree(template.folder, folder, dirs_exist_ok=True)
    storage = database(folder)
    return World(serve(storage, folders=(folder,)), Study("quick", storage), folder)
