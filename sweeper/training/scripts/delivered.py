"""What a script delivers in files: logits and labels, or values of each example."""

import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sweeper.training.conversion import as_progress, in_one_line
from sweeper.training.failures import TrainingFailed
from sweeper.training.messages import Grade
from sweeper.training.outputs import IGNORED, Batch

Floats = NDArray[np.float64]
_FORMS: Final = (
    "logits (N, K) and labels (N,), or nll (N,) and correct (N,), and optionally progress, groups "
    "and ignore_index"
)
# Logits that are read at a time.
_PIECE: Final = 2**22


@dataclass(frozen=True)
class Delivered:
    """The content of a file.

    `grade` is "scored" if there are logits and `labels`, and "per-example" if there are `nll` (N,)
    and `correct` (N,). `arrays` are all arrays but the logits, which `batches` reads. `progress` is
    None if the file has none.
    """

    path: Path
    grade: Grade
    arrays: Mapping[str, NDArray[Any]]
    progress: float | None

    @property
    def name(self) -> str:
        """The name of the file, for messages."""
        return self.path.name

    @property
    def ignore_index(self) -> int:
        """The label of positions that are not scored."""
        return int(self.arrays.get("ignore_index", IGNORED))

    def batches(self) -> Iterator[Batch]:
        """Yield logits, labels and groups in pieces. Raises `TrainingFailed` for a damaged file."""
        labels, groups = self.arrays["labels"], self.arrays.get("groups")
        begin = 0
        for logits in _pieces(self.path):
            part = slice(begin, begin + len(logits))
            begin = part.stop
            yield (logits, labels[part], *(() if groups is None else (groups[part],)))
        if begin != len(labels):
            raise TrainingFailed(
                f"{self.name}: logits have {begin} rows and labels {len(labels)}; they must have "
                "the same number"
            )


class FileReader:
    """Finds the files of a split, for example valid-0001.npz, valid-0002.npz, …, in a folder."""

    def __init__(self, folder: Path, split: str) -> None:
        self._folder = folder
        self._pattern = re.compile(rf"{split}-(\d+)\.npz")
        self._seen = self._versions()

    def new(self) -> Iterator[Path]:
        """Yield the files that are new or replaced since the last call, in the order of numbers."""
        versions = self._versions()
        new = [name for name, version in versions.items() if self._seen.get(name) != version]
        self._seen = versions
        yield from (self._folder / name for name in sorted(new, key=self._number))

    def last(self) -> Path | None:
        """Return the file with the highest number, None if there is none."""
        names = sorted(self._versions(), key=self._number)
        return self._folder / names[-1] if names else None

    def _versions(self) -> dict[str, tuple[int, int]]:
        versions = {}
        for path in self._folder.glob("*.npz"):
            if self._pattern.fullmatch(path.name):
                try:
                    status = path.stat()
                except OSError:
                    continue
                versions[path.name] = status.st_mtime_ns, status.st_ino
        return versions

    def _number(self, name: str) -> int:
        found = self._pattern.fullmatch(name)
        return int(found[1]) if found else 0


def read_file(path: Path) -> Delivered:
    """Read a file. Raises `TrainingFailed` if it has other arrays or cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as content:
            names = set(content.files)
            arrays = {name: content[name] for name in names - {"logits"}}
    except Exception as error:  # zipfile, zlib and NumPy raise many types
        raise _unreadable(path, error) from error
    try:
        progress = as_progress(arrays.pop("progress")) if "progress" in arrays else None
    except (TypeError, ValueError) as error:
        raise TrainingFailed(f"{path.name}: {error}") from error
    if {"logits", "labels"} <= names:
        _check_options(path.name, arrays)
        return Delivered(path, "scored", arrays, progress)
    if {"nll", "correct"} <= names:
        _check_values(path.name, arrays)
        return Delivered(path, "per-example", arrays, progress)
    found = ", ".join(sorted(names)) or "nothing"
    raise TrainingFailed(f"{path.name} contains {found}; it must contain {_FORMS}")


def _unreadable(path: Path, error: Exception) -> TrainingFailed:
    return TrainingFailed(
        f"{path.name} cannot be read: {in_one_line(error)}; write it under another name in "
        "SWEEPER_DIR, and rename it when it is complete"
    )


def _pieces(path: Path) -> Iterator[NDArray[Any]]:
    """Yield the logits of a file in pieces of about `_PIECE` numbers."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("logits.npy") as stream:
            version = np.lib.format.read_magic(stream)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }.get(version)
            shape, fortran, dtype = ((), True, None) if read_header is None else read_header(stream)
            if not fortran and shape and dtype is not None and not dtype.hasobject:
                size = max(int(np.prod(shape[1:])), 1)
                rows = max(_PIECE // size, 1)
                for begin in range(0, shape[0], rows):
                    count = min(rows, shape[0] - begin)
                    content = stream.read(count * size * dtype.itemsize)
                    yield np.frombuffer(bytearray(content), dtype).reshape(count, *shape[1:])
                return
        with np.load(path, allow_pickle=False) as arrays:
            yield arrays["logits"]
    except Exception as error:  # zipfile, zlib and NumPy raise many types
        raise _unreadable(path, error) from error


def _check_options(name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    ignored = arrays.get("ignore_index")
    if ignored is not None and (ignored.ndim or ignored.dtype.kind not in "iu"):
        raise TrainingFailed(f"{name}: ignore_index must be an integer, got {ignored}")
    if not arrays["labels"].ndim:
        raise TrainingFailed(f"{name}: labels must have shape (N,) or (N, d1, …)")


def _check_values(name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    nll, correct, groups = arrays["nll"], arrays["correct"], arrays.get("groups")
    if nll.ndim != 1 or nll.shape != correct.shape or not nll.size:
        raise TrainingFailed(
            f"{name}: nll and correct must have the same shape (N,) with N > 0, got {nll.shape} "
            f"and {correct.shape}"
        )
    if nll.dtype.kind not in "fiu" or correct.dtype.kind not in "bfiu":
        raise TrainingFailed(
            f"{name}: nll must contain numbers and correct booleans, got {nll.dtype} and "
            f"{correct.dtype}"
        )
    if groups is not None and (groups.shape != nll.shape or groups.dtype.kind not in "iu"):
        raise TrainingFailed(f"{name}: groups must be integers of shape {nll.shape}")
    if not np.isin(correct, (0, 1)).all():
        raise TrainingFailed(f"{name}: correct must contain only 0 and 1")
