"""Checkpoints from which an interrupted trial resumes, and the weights of the best trial.

Files are written atomically and read with `weights_only=True`, so that a file in a shared folder
cannot execute code. A damaged file, or the file of another trial, is ignored.
"""

import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sweeper.files import atomic_write
from sweeper.training.messages import Start

_FORMAT: Final = 1
_MAX_EPOCHS: Final = 2**31
# Minimum training time between two checkpoints: in seconds, and as a multiple of the time that
# writing the last one took. This bounds both the overhead and the work lost if a trial is killed.
SECONDS: float = 1.0
TIMES: float = 20

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """The `state` of a training function after `epochs` evaluations and `seconds` of training.

    `key` identifies the trial; only this trial resumes from the checkpoint.
    """

    key: str
    epochs: int
    seconds: float
    state: Mapping[str, Any]


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, replacing an earlier one.

    Raises TypeError, naming the entry, for a state that cannot be read with `weights_only=True`,
    and OSError if the file cannot be written.
    """
    from sweeper.training.conversion import as_state  # imported here because it imports torch

    state = as_state(checkpoint.state, "state")
    _write(path, {"format": _FORMAT, **vars(checkpoint), "state": state})


def load(path: Path, key: str) -> Checkpoint | None:
    """Return the checkpoint of the trial with this key, with tensors on the CPU, or None.

    Logs a warning with the reason if the file exists but is not used.
    """
    if not os.path.lexists(path):
        return None
    try:
        return _checkpoint(_read(path), key)
    except (ValueError, TypeError) as error:
        _log.warning("ignoring the checkpoint %s: %s", path, error)
        return None


def _checkpoint(content: dict[str, Any] | None, key: str) -> Checkpoint:
    """Return the content of a file as a checkpoint; raises ValueError or TypeError."""
    if content is None:
        raise ValueError("it cannot be read")
    if content.pop("format", None) != _FORMAT:
        raise ValueError("its format belongs to a different version")
    if content.get("key") != key:
        raise ValueError("it belongs to another trial")
    checkpoint = Checkpoint(**content)
    epochs, seconds, state = checkpoint.epochs, checkpoint.seconds, checkpoint.state
    if not (isinstance(epochs, int) and 0 < epochs < _MAX_EPOCHS):
        raise ValueError(f"invalid epochs: {str(epochs)[:60]}")
    if not (isinstance(seconds, int | float) and 0 <= seconds < math.inf):
        raise ValueError(f"invalid seconds: {str(seconds)[:60]}")
    if not isinstance(state, Mapping):
        raise ValueError(f"state is of type {type(state).__name__}, not a dict")
    return checkpoint


def save_weights(path: Path, key: str, weights: Any) -> None:
    """Write a trial's weights; raises as `save` does."""
    from sweeper.training.conversion import as_state

    _write(path, {"format": _FORMAT, "key": key, "weights": as_state(weights, "state['model']")})


def load_weights(path: Path, key: str) -> Any:
    """Return the weights of the trial with this key, on the CPU, or None."""
    content = _read(path)
    return None if content is None or content.get("key") != key else content.get("weights")


def checkpoint_files(base: Path) -> list[Path]:
    """Return the checkpoint files of a training run, latest claim first.

    `base` is their path without the ending (claim number and .pt).
    """
    by_claim = {
        int(number): path
        for path in base.parent.glob(f"{base.name}.*.pt")
        if (number := path.name.removeprefix(f"{base.name}.").removesuffix(".pt")).isdigit()
    }
    return [by_claim[claim] for claim in sorted(by_claim, reverse=True)]


def discard_checkpoints(base: Path) -> None:
    """Remove the checkpoints of a training run. Raises OSError if one cannot be removed."""
    failed: OSError | None = None
    for path in checkpoint_files(base):
        try:
            discard(path)
        except OSError as error:
            failed = error
    if failed is not None:
        raise failed


class CheckpointWriter:
    """Reads and writes the checkpoints of one training run.

    File names contain the claim number, so that a trainer that outlived its lease cannot overwrite
    the checkpoint of its successor. If a checkpoint cannot be written, the run continues: the
    checkpoint is needed only if the run is interrupted.
    """

    def __init__(self, start: Start) -> None:
        self._start = start
        self._base = None if start.checkpoint is None else Path(start.checkpoint)
        self._due = SECONDS
        self._failing = False

    def load(self) -> Checkpoint | None:
        """Return the latest usable checkpoint of an earlier claim, or None."""
        if self._base is None or self._start.claim == 1:
            return None
        loaded = (load(path, self._start.identity) for path in checkpoint_files(self._base))
        latest = next((checkpoint for checkpoint in loaded if checkpoint is not None), None)
        if latest is not None:
            self._due = latest.seconds + SECONDS
        return latest

    def write_if_due(
        self, state: Callable[[], Mapping[str, Any]] | None, number: int, seconds: float
    ) -> None:
        """Write a checkpoint if the last one is old enough."""
        if seconds >= self._due:
            self.write(state, number, seconds)

    def write(
        self, state: Callable[[], Mapping[str, Any]] | None, number: int, seconds: float
    ) -> None:
        """Write a checkpoint after report `number` and `seconds` of training.

        No-op if `state` is None.
        """
        if state is None or self._base is None:
            return
        began = time.monotonic()
        path = self._base.with_name(f"{self._base.name}.{self._start.claim}.pt")
        checkpoint = Checkpoint(self._start.identity, number, seconds, state())
        self.try_write(lambda: save(path, checkpoint))
        self._due = seconds + max(SECONDS, TIMES * (time.monotonic() - began))

    def try_write(self, write: Callable[[], None]) -> None:
        """Call `write`; log a warning the first time that it fails."""
        try:
            write()
        except OSError as error:
            if not self._failing:
                _log.warning("cannot write a file of the trial: %s", error)
            self._failing = True


def discard(path: Path) -> None:
    """Remove a file and the temporary files of killed writers; no-op if none exists."""
    for file in (path, *path.parent.glob(f".{path.name}.*")):
        file.unlink(missing_ok=True)


def export_weights(path: Path, weights: Any) -> None:
    """Write weights for `torch.load(path, weights_only=True)`. Raises OSError on failure."""
    _write(path, weights)


def _write(path: Path, content: Any) -> None:
    import torch

    try:
        atomic_write(path, lambda stream: torch.save(content, stream))
    except RuntimeError as error:  # raised by torch's writer, for example if the disk is full
        raise OSError(str(error)) from error


def _read(path: Path) -> dict[str, Any] | None:
    import torch

    if not path.is_file():  # opening a named pipe would block
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises many types of exceptions for damaged files
        return None
    return content if isinstance(content, dict) else None
