"""Files that an interrupted trial goes on from, and that keep the weights of the best one.

Written whole or not at all, read with `weights_only`: a file in a shared folder is data, never
code. A file that is torn, or another trial's, is as good as none.
"""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from sweeper.training.plain import as_state

_FORMAT: Final = 1


@dataclass(frozen=True)
class Checkpoint:
    """A trial after `epochs` evaluations and `seconds` of training, with its loop's `state`.

    `key` says of which trial: only that one goes on from it.
    """

    key: str
    epochs: int
    seconds: float
    state: Mapping[str, Any]


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint in place of an earlier one.

    Raises TypeError, naming the place, for a state that could not be read back as data, OSError
    where the file cannot be written.
    """
    state = as_state(checkpoint.state, "state")
    _write(path, {"format": _FORMAT, **vars(checkpoint), "state": state})


def load(path: Path, key: str) -> Checkpoint | None:
    """Return the checkpoint of the trial that `key` names, on the CPU, or None."""
    found = _read(path)
    if found is None or found.pop("format", None) != _FORMAT or found.get("key") != key:
        return None
    return Checkpoint(**found)


def save_weights(path: Path, key: str, weights: Any) -> None:
    """Write a trial's weights; raises as `save` does."""
    _write(path, {"format": _FORMAT, "key": key, "weights": as_state(weights, "state['model']")})


def load_weights(path: Path, key: str) -> Any:
    """Return the weights of the trial that `key` names, on the CPU, or None."""
    found = _read(path)
    return None if found is None or found.get("key") != key else found.get("weights")


def discard(path: Path) -> None:
    """Remove a file, and what writers that were killed left of it; no-op where there is none."""
    for left in (path, *path.parent.glob(f".{path.name}.*")):
        left.unlink(missing_ok=True)


def export_weights(path: Path, weights: Any) -> None:
    """Write weights as `torch.load(path, weights_only=True)` reads them; raises OSError."""
    _write(path, weights)


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            torch.save(content, stream)
        os.replace(beside, path)
    except RuntimeError as error:  # torch's own writer, of a disk that is full
        raise OSError(str(error)) from error
    finally:
        Path(beside).unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # whatever bytes that are no checkpoint make torch raise
        return None
    return found if isinstance(found, dict) else None
