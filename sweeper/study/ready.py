"""Finding study files: by their path, or by the name of a ready one."""

from pathlib import Path

from sweeper.bundled import bundled_folder
from sweeper.errors import SweeperError, nearest


def ready_studies() -> dict[str, Path]:
    """Return the studies that ship with the package, by name."""
    found = {path.stem: path for path in bundled_folder("studies").glob("*.toml")}
    return dict(sorted(found.items()))


def find_study_file(reference: str | Path) -> Path:
    """Return the path of a study given as a file or as a ready study's name."""
    path, ready = Path(reference), ready_studies()
    if path.is_file():
        return path
    listed = f"the ready ones: {', '.join(ready)}"
    if path.suffix == ".toml":
        near = nearest(path.name, [beside.name for beside in path.parent.glob("*.toml")])
        raise SweeperError(f"{path}: there is no such study file{near}; {listed}")
    if str(reference) not in ready:
        near = nearest(str(reference), ready)
        raise SweeperError(f"{reference}: neither a file nor a ready study{near}; {listed}")
    return ready[str(reference)]
