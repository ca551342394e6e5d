"""Check that the code files of a study have not changed since its trials were trained."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sweeper.errors import Conflict, SweeperError
from sweeper.study.spec import digest
from sweeper.tasks.facts import MAIN


def changed_sources(
    known: Mapping[str, str], folder: Path, loaded: Mapping[str, str] | None = None
) -> list[str]:
    """Return the known files that have changed or are missing in `folder`.

    `known` are the expected digests by file. `loaded` are digests of files that were imported;
    these files are not read again.
    """
    digests = loaded or {}
    return [
        file
        for file, expected in known.items()
        if (digests.get(file) or _digest(folder, file, expected)) != expected
    ]


def check_sources(name: str, known: Mapping[str, str], folder: Path) -> None:
    """Raise `SweeperError` if files are missing in `folder` or have changed."""
    changed = changed_sources(known, folder)
    check_present(name, changed, folder)
    if changed:
        raise changed_code(name, folder, changed[0])


def check_present(name: str, files: Sequence[str], folder: Path) -> None:
    """Raise `SweeperError` if a file is missing in `folder`."""
    missing = [f for f in files if not f.startswith(MAIN) and not (folder / f).is_file()]
    if missing:
        raise SweeperError(
            f"study {name!r}: {folder / missing[0]} is not on this machine; copy the "
            "file here, or pass the folder that contains it: --folder FOLDER"
        )


def changed_code(name: str, folder: Path, file: str) -> Conflict:
    """Return the error for a file that has changed since the trials were trained."""
    if file.startswith(MAIN):
        return Conflict(
            f"study {name!r}: {file.removeprefix(MAIN)} or something that it uses has changed "
            "since launch; undo the change, launch under another name, or continue with the "
            "changed code: sweeper.launch(..., accept_code=True)"
        )
    file = str(folder / file)
    return Conflict(
        f"study {name!r}: {file} has changed since launch; restore the file, launch the study "
        "under another name, or continue with the changed code: sweeper launch FILE --accept-code"
    )


def _digest(folder: Path, file: str, expected: str) -> str | None:
    if file.startswith(MAIN):
        return expected  # the trainers check it when they load the pickle
    try:
        return digest((folder / file).read_bytes())
    except (OSError, ValueError):  # a damaged row can hold a name that no file can have
        return None
