"""The label smoothing loss as a module."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sweeper.smoothing.binary import is_single_logit, two_classes
from sweeper.smoothing.config import Smoothing
from sweeper.smoothing.conventions import check_progress
from sweeper.smoothing.loss import smoothing_loss
from sweeper.smoothing.names import ADAPTIVE
from sweeper.smoothing.schedules import schedule_named


class SmoothingLoss(nn.Module):
    """The cross-entropy with labels smoothed according to a configuration.

    `smoothing` is a `Smoothing`, or a float for a fixed epsilon. `weight`, `ignore_index` and
    `reduction` are those of `smoothing_loss`. Before each step the training loop must set
    `progress`, the fraction of training done in [0, 1]: `loss.progress = step / steps`. It is a
    0-dim buffer that is changed in place, so that a compiled graph is not recompiled. The buffers
    are not part of the state dict.
    """

    def __init__(
        self,
        smoothing: Smoothing | float,
        *,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        self.smoothing = smoothing if isinstance(smoothing, Smoothing) else Smoothing(smoothing)
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("progress", torch.zeros(()), persistent=False)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "progress":
            self.get_buffer("progress").fill_(check_progress(float(value)))
        else:
            super().__setattr__(name, value)

    def at(self, progress: Tensor) -> Tensor:
        """Return epsilon at each progress (any shape); for adaptive schedules, the maximum."""
        schedule = schedule_named(self.smoothing.schedule)
        return self.smoothing.epsilon * schedule.factor(progress, self.smoothing.rate)

    @property
    def adaptive(self) -> bool:
        """Whether epsilon is computed per sample from the model's predictions."""
        return schedule_named(self.smoothing.schedule).kind == ADAPTIVE

    def epsilon(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the current epsilon: 0-dim if annealed, detached and per sample if adaptive."""
        if not self.adaptive:
            return self.at(self.get_buffer("progress"))
        if is_single_logit(logits):
            logits, labels = two_classes(logits, labels)
        schedule = schedule_named(self.smoothing.schedule)
        gate = schedule.gate(logits, labels, self.smoothing.rate, self.ignore_index)
        return self.smoothing.epsilon * gate

    def forward(self, logits: Tensor, labels: Tensor, epsilon: Tensor | None = None) -> Tensor:
        """Return the loss at the current progress; shapes as in `smoothing_loss`.

        A caller that has computed `self.epsilon(logits, labels)` can pass it as `epsilon`.
        """
        return smoothing_loss(
            logits,
            labels,
            self.epsilon(logits, labels) if epsilon is None else epsilon,
            convention=self.smoothing.convention,
            weight=self._buffers["weight"],
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )

    def extra_repr(self) -> str:
        """Return the configuration for `print(loss)`."""
        return f"{self.smoothing}, reduction={self.reduction!r}"

    @classmethod
    def from_file(cls, path: str | Path, **kwargs: Any) -> "SmoothingLoss":
        """Create the loss from the `best.json` that a study exported.

        The file must contain a JSON object with at least epsilon, schedule, rate and convention.
        `kwargs` are those of the constructor. Warns if the file does not recommend label smoothing.
        Raises ValueError, naming the file, for an invalid file and for a schedule that is not
        registered.
        """
        values = _read_export(Path(path))
        loss = cls(_smoothing_of(Path(path), values), **kwargs)
        doubt = _doubt(values)
        if doubt:
            warnings.warn(f"{path}: {doubt}", UserWarning, stacklevel=2)
        return loss


def _read_export(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); expected best.json of a study") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} is not a JSON object; expected best.json of a study")
    return values


def _smoothing_of(path: Path, values: Mapping[str, Any]) -> Smoothing:
    keys = ("epsilon", "schedule", "rate", "convention")
    try:
        return Smoothing.from_dict({key: values[key] for key in keys if key in values})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _doubt(values: Mapping[str, Any]) -> str:
    """Return what an export says against using label smoothing, "" if nothing."""
    if values.get("recommended") is False:
        return (
            "no recommendation: the study has no verdict, and this is the trial with the lowest "
            f"value, which is optimistic; confirm it with: sweeper confirm {values.get('study')}"
        )
    verdict = values.get("verdict")
    word = verdict.get("word", "helps") if isinstance(verdict, dict) else "helps"
    if word != "helps":
        return (
            f"the verdict is {word!r}, so the recommended configuration is ε = 0, and this loss is "
            "the plain cross-entropy"
        )
    if verdict is not None and values.get("epsilon") == 0:
        return (
            "the pick helps but violates the constraint, so the recommended configuration is ε = "
            "0, and this loss is the plain cross-entropy"
        )
    return ""
