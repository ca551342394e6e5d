"""Find study files by path or by the name of an example study."""

from pathlib import Path

from sweeper.bundled import bundled_folder
from sweeper.errors import SweeperError, suggestion
from sweeper.files import kind_of


def example_studies() -> dict[str, Path]:
    """Return the paths of the example studies that are part of the package, by name."""
    paths = {path.stem: path for path in bundled_folder("studies").glob("*.toml")}
    return dict(sorted(paths.items()))


def find_study_file(reference: str | Path) -> Path:
    """Return the path of a study file, given as a path or as the name of an example study.

    Raises `SweeperError` if there is no such file or example study.
    """
    path, examples = Path(reference), example_studies()
    if path.is_file():
        return path
    listed = f"example studies: {', '.join(examples)}"
    if path.exists() and str(reference) not in examples:
        raise SweeperError(f"{path} is {kind_of(path)}, not a study file; {listed}")
    if path.suffix == ".toml":
        near = suggestion(path.name, [other.name for other in path.parent.glob("*.toml")])
        raise SweeperError(f"{path}: no such study file{near}; {listed}")
    if str(reference) not in examples:
        near = suggestion(str(reference), examples)
        raise SweeperError(f"{reference}: neither a file nor an example study{near}; {listed}")
    return examples[str(reference)]
