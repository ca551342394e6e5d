"""The loss as a module that knows its configuration and the training's progress."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sweeper.smoothing.config import Smoothing
from sweeper.smoothing.conventions import check_progress
from sweeper.smoothing.loss import smoothing_loss
from sweeper.smoothing.schedules import ADAPTIVE, schedule_named


class SmoothingLoss(nn.Module):
    """The cross-entropy against labels smoothed by a configuration.

    `smoothing` is a `Smoothing`, or a float for a fixed epsilon; `weight`, `ignore_index` and
    `reduction` are `smoothing_loss`'s. Before each step the training loop sets `progress`, the
    share of the training that is done: `loss.progress = step / steps`. It is a 0-dim buffer
    that is written in place, so that a compiled graph stays one; no checkpoint holds it.
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
        """Return epsilon, of an adaptive schedule its ceiling, at each progress; its shape."""
        schedule = schedule_named(self.smoothing.schedule)
        return self.smoothing.epsilon * schedule.factor(progress, self.smoothing.rate)

    @property
    def adaptive(self) -> bool:
        """Whether epsilon follows the model, sample by sample."""
        return schedule_named(self.smoothing.schedule).kind == ADAPTIVE

    def epsilon(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return epsilon now: 0-dim if annealed, one a sample and detached if adaptive."""
        if not self.adaptive:
            return self.at(self.get_buffer("progress"))
        schedule = schedule_named(self.smoothing.schedule)
        gate = schedule.gate(logits, labels, self.smoothing.rate, self.ignore_index)
        return self.smoothing.epsilon * gate

    def forward(self, logits: Tensor, labels: Tensor, epsilon: Tensor | None = None) -> Tensor:
        """Return the loss at the present progress; shapes as in `smoothing_loss`.

        `epsilon` is what `self.epsilon` gave for this batch, from a caller that wants to know it.
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
        """Return the configuration, for `print(loss)`."""
        return f"{self.smoothing}, reduction={self.reduction!r}"

    @classmethod
    def from_file(cls, path: str | Path, **kwargs: Any) -> "SmoothingLoss":
        """Return the loss that a study exported (`best.json`); kwargs as for the constructor.

        The file is a JSON object with at least epsilon, schedule, rate and convention. Raises
        ValueError, naming the file, for another one and for a schedule that is not registered.
        """
        return cls(_read_smoothing(Path(path)), **kwargs)


def _read_smoothing(path: Path) -> Smoothing:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); give the best.json of a study") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no JSON object; give the best.json of a study")
    keys = ("epsilon", "schedule", "rate", "convention")
    try:
        return Smoothing.from_dict({key: values[key] for key in keys if key in values})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
