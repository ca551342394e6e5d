"""What a script delivers in files: logits and labels, or values of each example."""

import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from sweeper.scoring.logits_file import LogitsFile
from sweeper.scoring.temperature import MAX_KEPT
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
_DTYPES: Final = {
    np.dtype(np.float16): torch.float16,
    np.dtype(np.float32): torch.float32,
    np.dtype(np.float64): torch.float64,
}


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

    def outputs(self) -> tuple[Any, ...]:
        """Return logits, labels and groups as `Evaluation` takes them.

        Large logits (N, K) are read in place, others in batches; then the labels are None. Raises
        `TrainingFailed` for a damaged file.
        """
        labels, groups = self.arrays["labels"], self.arrays.get("groups")
        given = [labels] if groups is None else [labels, groups]
        simple = all(each.ndim == 1 and each.dtype.kind in "iu" for each in given)
        logits = _in_place(self.path) if simple else None
        if logits is None or any(len(each) != len(logits) for each in given):
            return self.batches(), None, None
        if (labels == self.ignore_index).any():
            return self.batches(), None, None
        found = [torch.from_numpy(each.astype(np.int64)) for each in given]
        return logits, found[0], None if groups is None else found[1]

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


def _in_place(path: Path) -> LogitsFile | None:
    """Return large logits (N, K) of a file that are stored as they are; None for others."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("logits.npy") as stream:
            entry = archive.getinfo("logits.npy")
            shape, dtype = _header(stream) or ((), np.dtype(bool))
            known = _DTYPES.get(dtype)
            if known is None or len(shape) != 2 or shape[1] < 2 or shape[0] * shape[1] <= MAX_KEPT:
                return None
            if entry.compress_type != zipfile.ZIP_STORED:
                return None
            file, header_size = path.open("rb", buffering=0), stream.tell()
            file.seek(entry.header_offset + 26)  # the sizes of the name and of the extra field
            start = entry.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
            return LogitsFile(file, shape[1], known, start=start + header_size, count=shape[0])
    except Exception as error:  # zipfile, zlib and NumPy raise many types
        raise _unreadable(path, error) from error


def _pieces(path: Path) -> Iterator[NDArray[Any]]:
    """Yield the logits of a file in pieces of about `_PIECE` numbers."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("logits.npy") as stream:
            header = _header(stream)
            if header is not None:
                shape, dtype = header
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


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]] | None:
    """Read the shape and the type of an array; None if its rows are not one after the other."""
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    shape, fortran, dtype = ((), True, None) if read is None else read(stream)
    return None if fortran or not shape or dtype is None or dtype.hasobject else (shape, dtype)


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
