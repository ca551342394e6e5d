"""What a training loop is given and what it yields: the seam between a task and a study."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from sweeper.smoothing import Smoothing, SmoothingLoss

# What a model can be asked about beside the validation split that it is searched on.
OtherSplit = Literal["train", "test"]


@dataclass(frozen=True)
class TrainingRun:
    """One configuration to train once: everything a loop may depend on.

    `seed` decides the start, the batch order and the draws of dropout and augmentation;
    `data_seed` the split. Every trial of a study is given the same two, so that trials differ
    only in smoothing and `hparams`. `state` is what an interrupted run of the same trial left
    behind, the `state` of its last kept evaluation: the loop goes on from there. None: it begins.
    """

    smoothing: Smoothing
    seed: int
    data_seed: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    hparams: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    state: Mapping[str, Any] | None = field(default=None, repr=False)

    def loss(self, **kwargs: Any) -> SmoothingLoss:
        """Return the loss to train with; the loop sets its `progress` before each step."""
        return SmoothingLoss(self.smoothing, **kwargs).to(self.device)


@dataclass(frozen=True)
class Evaluation:
    """The state of a model on held-out data after one epoch.

    `logits` (N, K), any float type and device; `labels` (N,), integer and hard: the service
    scores them itself, unsmoothed. `progress` in (0, 1] is the share of the training that is
    done. `extra` metrics are stored and shown, never optimised. `state`, where it is given,
    returns all that the loop needs to go on from here: tensors, numbers, texts, lists and dicts
    of them, the model's weights under "model". `splits` are functions that return logits and
    labels of the other splits, where the loop has them: the search never calls them, a
    confirmation calls "test" and "train" at the end of each of its trainings. Either is called
    before the loop goes on, or never. `mean_epsilon` is the mean, over the samples trained on
    since the evaluation before, of the mass taken from the true class (the convention `others`).
    """

    logits: Tensor
    labels: Tensor
    progress: float
    train_loss: float | None = None
    extra: Mapping[str, float] = field(default_factory=dict)
    state: Callable[[], Mapping[str, Any]] | None = None
    splits: Mapping[OtherSplit, Callable[[], tuple[Tensor, Tensor]]] = field(default_factory=dict)
    mean_epsilon: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.progress <= 1.0:
            raise ValueError(f"progress is {self.progress}; an evaluation's lies in (0, 1]")


Trainer = Callable[[TrainingRun], Iterator[Evaluation]]
