"""Where the study files and the pages that come with the package lie."""

from pathlib import Path
from typing import Literal

from sweeper.errors import SweeperError

_PACKAGE = Path(__file__).parent


def bundled_folder(folder: Literal["studies", "dashboards"]) -> Path:
    """Return a folder of the wheel, or of the checkout where sweeper is not installed from one."""
    places = (_PACKAGE / "_bundled" / folder, _PACKAGE.parent / folder)
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise SweeperError(f"{folder}: not found in {places[0]} or {places[1]}; install again")
    return found
