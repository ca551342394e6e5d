"""Observe the training run of a check in its process, and write a record of each report."""

from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules import module as hooks

from sweeper.scoring.logits_file import Logits
from sweeper.training.conversion import looks_like_probabilities
from sweeper.training.observation.gradients import GradientObserver, Targets
from sweeper.training.observation.record import (
    Measurements,
    ReportRecord,
    SharedRows,
    SmoothingEstimates,
    measure,
)
from sweeper.training.observation.rows import Hashes, RowObserver
from sweeper.training.run import Evaluation

_ROWS: Final = 1000
# So many single logits between 0 and 1 are outputs of a sigmoid: logits have both signs.
_SIGMOID_ROWS: Final = 50


def record_path(folder: str, number: int) -> Path:
    """Return the file of the record of report `number`."""
    return Path(folder, f"report-{number}.npz")


class Observer:
    """Watches all models and losses of this process, from `begin` until `end`."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._gradients, self._rows = GradientObserver(), RowObserver()
        self._handles: list[Any] = []

    def begin(self) -> None:
        self._gradients.begin()
        self._handles = [
            hooks.register_module_forward_pre_hook(self._before),  # type: ignore[arg-type]
            hooks.register_module_forward_hook(self._after, with_kwargs=True, always_call=True),
        ]

    def end(self) -> None:
        self._gradients.end()
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _before(self, module: nn.Module, arguments: Any) -> tuple[Any, ...] | None:
        self._rows.before(module, arguments)
        return self._gradients.on_loss(module, arguments)

    def _after(self, module: nn.Module, arguments: Any, options: Any, output: Any) -> None:
        self._rows.after(module, arguments, options, output)

    def record(self, evaluation: Evaluation, number: int) -> None:
        """Write the record of a report."""
        measured = measure(evaluation.logits, evaluation.labels)
        classes = int(evaluation.logits.shape[1])
        inputs, trained, mode = self._rows.take(measured.hashes)
        record_of(
            evaluation, measured, self._gradients.targets.get(classes), (inputs, trained), mode
        ).save(record_path(self._folder, number))


def record_of(
    evaluation: Evaluation,
    measured: Measurements,
    targets: Targets | None = None,
    rows: tuple[Hashes, Hashes] | None = None,
    mode: str = "",
) -> ReportRecord:
    """Return the record of a report; `rows` are the inputs of validation and of training."""
    labels: NDArray[np.int64] = evaluation.labels.cpu().long().numpy()
    return ReportRecord(
        progress=evaluation.progress,
        logits=measured.digest,
        classes=int(evaluation.logits.shape[1]),
        uniform=measured.uniform,
        confidence=measured.confidence,
        probabilities=_are_probabilities(evaluation.logits),
        smoothing=None
        if targets is None
        else SmoothingEstimates(targets.steps, list(targets.smoothing)),
        train_labels=None if targets is None else targets.labels.tolist(),
        rows=None if rows is None else shared_rows(*rows, single=evaluation.groups is None),
        inputs="" if rows is None or not len(rows[0]) else _digest(rows[0]),
        mode=mode,
        nll=measured.nll,
        labels=labels,
    )


def shared_rows(valid: Hashes, train: Hashes, *, single: bool) -> SharedRows | None:
    """Count the validation inputs that are also training inputs; None if either is unknown.

    `single` says whether each input has one label.
    """
    if not len(valid) or not len(train):
        return None
    distinct = np.unique(valid)
    of_training, counts = np.unique(train, return_counts=True)
    return SharedRows(
        valid=len(distinct),
        shared=int(np.isin(distinct, of_training).sum()),
        train=len(of_training),
        repeated=int((counts > 1).sum()),
        inputs=len(valid) if single else 0,
    )


def _are_probabilities(logits: Logits) -> bool:
    rows = logits[:_ROWS]
    single = rows.shape[1] == 2 and not bool(rows[:, 0].any())  # one logit per example
    in_range = len(rows) >= _SIGMOID_ROWS and bool(((rows >= 0) & (rows <= 1)).all())
    return looks_like_probabilities(logits) or (single and in_range)


def _digest(inputs: Hashes) -> str:
    return sha256(np.sort(inputs).tobytes()).hexdigest()
