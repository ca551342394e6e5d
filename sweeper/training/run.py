"""What a training loop is given and what it yields: the seam between a task and a study."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from sweeper.smoothing import Smoothing, SmoothingLoss
from sweeper.training.plain import as_number, as_progress, as_tensor, describe

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
    scores them itself, unsmoothed. Both may be tensors, NumPy arrays or lists. `progress` in
    (0, 1] is the share of the training that is done. `extra` metrics are stored and shown, never
    optimized. Numbers may be Python's, NumPy's, or tensors of one element.

    `state`, where it is given, returns all that the loop needs to go on from here: a dict of
    tensors, numbers, strings, and lists and dicts of them, as torch's `state_dict()` returns it,
    with the model's weights under "model". `splits` are functions that return logits and labels
    of the other splits, where the loop has them: the search never calls them, a confirmation
    calls "test" and "train" at the end of each of its trainings. Either is called before the loop
    goes on, or never. `mean_epsilon` is the mean, over the samples trained on since the evaluation
    before, of the mass taken from the true class (the convention `others`).

    Raises TypeError or ValueError, naming the field, for a value of another type or range.
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
        for name, value in (
            ("logits", as_tensor(self.logits, "Evaluation.logits")),
            ("labels", as_tensor(self.labels, "Evaluation.labels")),
            ("progress", as_progress(self.progress, "Evaluation.progress")),
            ("train_loss", _as_optional(self.train_loss, "Evaluation.train_loss")),
            ("mean_epsilon", _as_optional(self.mean_epsilon, "Evaluation.mean_epsilon")),
            ("extra", _as_metrics(self.extra)),
        ):
            object.__setattr__(self, name, value)
        if not (self.state is None or callable(self.state)):
            raise TypeError(
                f"Evaluation.state is {describe(self.state)}; it must be a function that returns it"
            )


def _as_optional(value: object, name: str) -> float | None:
    return None if value is None else as_number(value, name)


def _as_metrics(extra: object) -> dict[str, float]:
    if not isinstance(extra, Mapping):
        raise TypeError(f"Evaluation.extra is {describe(extra)}; it must be a dict of numbers")
    wrong = next((name for name in extra if not isinstance(name, str)), None)
    if wrong is not None:
        raise TypeError(f"Evaluation.extra has the name {wrong!r}; names must be strings")
    return {
        str(name): as_number(value, f"Evaluation.extra[{name!r}]") for name, value in extra.items()
    }


Trainer = Callable[[TrainingRun], Iterator[Evaluation]]
