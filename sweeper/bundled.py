"""Location of the study files and dashboards that ship with the package."""

from pathlib import Path
from typing import Literal

from sweeper.errors import SweeperError

_PACKAGE = Path(__file__).parent


def bundled_folder(folder: Literal["studies", "dashboards"]) -> Path:
    """Return a bundled folder: the one in the wheel, or else the one in the source checkout.

    Raises `SweeperError` if neither exists.
    """
    candidates = (_PACKAGE / "_bundled" / folder, _PACKAGE.parent / folder)
    for path in candidates:
        if path.is_dir():
            return path
    raise SweeperError(
        f"{folder}: not found in {candidates[0]} or {candidates[1]}; reinstall sweeper"
    )
