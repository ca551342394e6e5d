"""What a check knows about one report of a training run; stored in a file."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sweeper.scoring.logits_file import Logits
from sweeper.training.observation.rows import Hashes, hash_rows

# Rows of logits that are read at a time.
_ROWS: Final = 8192
_EMPTY: Final = np.empty(0)


@dataclass(frozen=True)
class SmoothingEstimates:
    """Label smoothing in torch's convention, estimated in training steps; `tried` counts them."""

    tried: int
    found: Sequence[float]


@dataclass(frozen=True)
class SharedRows:
    """Validation inputs that are also training inputs.

    `shared` of `valid` distinct inputs are, and `repeated` of `train` training inputs occur twice.
    `inputs` counts the validation inputs, 0 if each has several labels.
    """

    valid: int
    shared: int
    train: int
    repeated: int
    inputs: int = 0


@dataclass(frozen=True)
class ReportRecord:
    """The outputs of one report and what was observed before it.

    `logits` is a digest of what was reported: equal digests are equal outputs, bit for bit. `nll`
    and `labels` have shape (N,), and are empty if they were not delivered. `uniform` is the mean
    loss for a uniform target, which smoothing adds to the NLL. `confidence` is the mean of the
    largest probability. `inputs` is a digest of the validation inputs in any order, and
    `train_labels` counts the labels of the training steps. `probabilities` says whether the logits
    look like probabilities. `mode` is the type of a layer that was
    in training mode. None or "" if it was not observed.
    """

    progress: float
    logits: str
    classes: int | None = None
    uniform: float | None = None
    confidence: float | None = None
    probabilities: bool = False
    smoothing: SmoothingEstimates | None = None
    train_labels: Sequence[int] | None = None
    rows: SharedRows | None = None
    inputs: str = ""
    mode: str = ""
    nll: NDArray[np.float64] = field(default_factory=lambda: _EMPTY)
    labels: NDArray[np.int64] = field(default_factory=lambda: _EMPTY.astype(np.int64))

    @property
    def mean_nll(self) -> float:
        return float(self.nll.mean())

    def save(self, path: Path) -> None:
        """Write the record to an .npz file."""
        plain = {k: v for k, v in asdict(self).items() if k not in ("nll", "labels")}
        np.savez(path, plain=np.array(json.dumps(plain)), nll=self.nll, labels=self.labels)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the record of a file."""
        with np.load(path, allow_pickle=False) as content:
            plain: Mapping[str, Any] = json.loads(str(content["plain"]))
            smoothing, rows = plain["smoothing"], plain["rows"]
            return cls(
                **{
                    **plain,
                    "smoothing": None if smoothing is None else SmoothingEstimates(**smoothing),
                    "rows": None if rows is None else SharedRows(**rows),
                    "nll": content["nll"],
                    "labels": content["labels"],
                }
            )


@dataclass(frozen=True)
class Measurements:
    """What a record contains about logits (N, K) and labels (N,), and a hash of each row."""

    digest: str
    nll: NDArray[np.float64]
    uniform: float
    confidence: float
    hashes: Hashes


def measure(logits: Logits, labels: Tensor) -> Measurements:
    """Return the measurements of logits (N, K) with labels (N,)."""
    digest, parts = sha256(), list[tuple[Tensor, Tensor, Tensor]]()
    hashes = list[Hashes]()
    for rows, of_rows in _pieces(logits, labels):
        log_p = rows.double().log_softmax(1)
        nll = -log_p.gather(1, of_rows.unsqueeze(1)).squeeze(1)
        parts.append((nll, -log_p.mean(1), log_p.amax(1).exp()))
        hashes.append(hash_rows(rows.float()))
        digest.update(rows.contiguous().view(torch.uint8).numpy().data)
    nll, uniform, confidence = (torch.cat(part) for part in zip(*parts, strict=True))
    return Measurements(
        digest.hexdigest(),
        nll.numpy(),
        float(uniform.mean()),
        float(confidence.mean()),
        np.concatenate(hashes),
    )


def _pieces(logits: Logits, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    labels = labels.cpu().long()
    for start in range(0, len(labels), _ROWS):
        part = slice(start, start + _ROWS)
        yield logits[part].detach().cpu(), labels[part]


def digest_of_text(text: str) -> str:
    """Return the SHA-256 of a text."""
    return sha256(text.encode()).hexdigest()
