"""Dependencies of the routes: the studies, the settings, and the study that a path names."""

from typing import Annotated

from fastapi import Depends, Path, Request

from sweeper.api import Study
from sweeper.service.settings import Settings
from sweeper.service.study_reader import Library, Snapshot


# Not threads of their own: `async`, though they wait for nothing.
async def library(request: Request) -> Library:
    """Return the studies."""
    found: Library = request.app.state.library
    return found


async def settings(request: Request) -> Settings:
    """Return what the service was told."""
    found: Settings = request.app.state.settings
    return found


LibraryOf = Annotated[Library, Depends(library)]
SettingsOf = Annotated[Settings, Depends(settings)]
Name = Annotated[str, Path(max_length=255)]


def a_study(name: Name, of: LibraryOf) -> Study:
    """Return the study that a path names; raises `UnknownName`."""
    return of.study(name)


async def a_snapshot(name: Name, of: LibraryOf) -> Snapshot:
    """Return the study that a path names as it was a moment ago; raises `UnknownName`."""
    return await of.snapshot.soon(name)


StudyOf = Annotated[Study, Depends(a_study)]
SnapshotOf = Annotated[Snapshot, Depends(a_snapshot)]
