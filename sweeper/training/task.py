"""A task as declared data: what is trained, on what, for how long."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from sweeper.errors import SweeperError, nearest

SPLITS = ("train", "valid", "test")
OPTIMISERS = ("adam", "adamw", "sgd")
DECAYS = ("cosine", "constant")

Rows = tuple[Tensor, Tensor]  # inputs (N, ...), labels (N,)


@dataclass(frozen=True)
class Splits:
    """The data of a task in memory: three parts, each a pair (inputs, labels), checked once.

    Raises SweeperError, with split, row and value, for a part that is empty or of unequal
    lengths, for inputs that are not finite and for labels that are no integers in
    [0, classes).
    """

    train: Rows
    valid: Rows
    test: Rows
    classes: int

    def __post_init__(self) -> None:
        for name in SPLITS:
            inputs, labels = getattr(self, name)
            _check_tensors(name, inputs, labels)
            _check_lengths(name, inputs, labels)
            _check_inputs(name, inputs)
            _check_labels(name, labels, self.classes)
            object.__setattr__(self, name, (inputs, labels.long()))


def _check_tensors(split: str, inputs: object, labels: object) -> None:
    for what, given in (("inputs", inputs), ("labels", labels)):
        if not isinstance(given, Tensor):
            raise SweeperError(
                f"{split}: {what} are of type {type(given).__name__}; give a tensor, for instance "
                "by torch.as_tensor"
            )


def _check_lengths(split: str, inputs: Tensor, labels: Tensor) -> None:
    if labels.ndim != 1 or inputs.ndim < 1 or len(inputs) != len(labels):
        raise SweeperError(
            f"{split}: inputs have shape {tuple(inputs.shape)} and labels {tuple(labels.shape)}; "
            "give inputs (N, ...) and one label a row, (N,)"
        )
    if not len(labels):
        raise SweeperError(f"{split}: no rows; give each of {', '.join(SPLITS)} at least one")


def _check_inputs(split: str, inputs: Tensor) -> None:
    if not inputs.is_floating_point() or inputs.isfinite().all():
        return
    bad = (~inputs.isfinite()).nonzero()[0].tolist()
    raise SweeperError(
        f"{split}: the inputs of row {bad[0]} hold {inputs[tuple(bad)].item()}; every input is a "
        "finite number: drop the row or fill in the value"
    )


def _check_labels(split: str, labels: Tensor, classes: int) -> None:
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise SweeperError(
            f"{split}: labels are {labels.dtype}; they are class numbers: use labels.long()"
        )
    numbers = labels.long()  # a narrow type would wrap the number of classes
    outside = ((numbers < 0) | (numbers >= classes)).nonzero()
    if len(outside):
        row = int(outside[0])
        raise SweeperError(
            f"{split}: the label of row {row} is {int(numbers[row])}; allowed are 0 to "
            f"{classes - 1} ({classes} classes): number the labels from 0, or set classes"
        )


@dataclass(frozen=True)
class Optimiser:
    """How parameters are updated; `decay` is of the learning rate, over the whole training.

    `weight_decay` acts on every parameter, biases too, as torch's optimisers do it: with adam and
    sgd it is L2, weight_decay·w added to the gradient, which adam then scales with the rest; with
    adamw it is decoupled, w shrinks by lr·weight_decay a step (Loshchilov and Hutter 2019). `l1`
    is the factor of a penalty l1·Σ|w| whose sub-gradient, l1·sign(w), is added to the gradient
    with all three; it acts on weights alone: parameters of two dimensions or more, no bias.
    Raises ValueError for an unknown name and for a value out of range.
    """

    name: str = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.0
    decay: str = "cosine"
    l1: float = 0.0

    def __post_init__(self) -> None:
        _check_choice("name", self.name, OPTIMISERS)
        _check_choice("decay", self.decay, DECAYS)
        _check_number("lr", self.lr, self.lr > 0, "above 0")
        _check_number("weight_decay", self.weight_decay, self.weight_decay >= 0, "0 or more")
        _check_number("l1", self.l1, self.l1 >= 0, "0 or more")
        _check_number("momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")
        if self.momentum and self.name != "sgd":
            raise ValueError(f"momentum is {self.momentum} for {self.name}; only sgd has one")

    def accepts(self) -> frozenset[str]:
        """Return the names of its numbers that can be searched."""
        own = {"momentum"} if self.name == "sgd" else set()
        return frozenset({"lr", "weight_decay", "l1"} | own)

    def lr_at(self, progress: float) -> float:
        """Return the learning rate at a progress in [0, 1]."""
        if self.decay == "constant":
            return self.lr
        return self.lr * 0.5 * (1 + math.cos(math.pi * progress))


def _check_choice(key: str, given: str, allowed: tuple[str, ...]) -> None:
    if given not in allowed:
        raise ValueError(
            f"{key} is {given!r}{nearest(str(given), allowed)}; allowed: {', '.join(allowed)}"
        )


def _check_number(key: str, given: float, good: bool, allowed: str) -> None:
    if not (good and math.isfinite(given)):
        raise ValueError(f"{key} is {given}; allowed: a finite number {allowed}")


@dataclass(frozen=True, eq=False)
class Task:
    """A model, its data and its training settings, declared so that any loop can train it.

    `model(hparams)` returns a fresh module that maps inputs to logits (N, classes);
    `data(data_seed)` returns the splits and is called once a process and seed. `hparams` are
    the names that the model accepts, with their defaults; `label_source` says for each split
    where its labels come from. `augment(inputs, hparams)` returns the inputs of a training batch
    changed at random, of the same shape and device; it draws from torch's global generator of
    that device, which the loop seeds for it, and evaluation never calls it. Tasks are equal when
    they are the same object.
    Raises ValueError for settings that cannot be trained.
    """

    name: str
    classes: int
    model: Callable[[Mapping[str, Any]], nn.Module]
    data: Callable[[int], Splits]
    optimiser: Optimiser = field(default_factory=Optimiser)
    epochs: int = 40
    batch_size: int = 64
    hparams: Mapping[str, Any] = field(default_factory=dict)
    label_source: Mapping[str, str] = field(
        default_factory=lambda: dict.fromkeys(SPLITS, "as in the data set")
    )
    augment: Callable[[Tensor, Mapping[str, Any]], Tensor] | None = None

    def __post_init__(self) -> None:
        for key, least in (("classes", 2), ("epochs", 1), ("batch_size", 1)):
            _check_count(key, getattr(self, key), least)
        _check_hparam_names(self.hparams)
        _check_sources(self.label_source)

    def accepts(self) -> frozenset[str]:
        """Return the names of the hyperparameters that can be searched."""
        return self.optimiser.accepts() | frozenset(self.hparams)

    def settings(self, given: Mapping[str, Any]) -> tuple[Optimiser, dict[str, Any]]:
        """Return the optimiser and the model's hyperparameters, with the given ones laid over.

        Raises SweeperError for a name that the task does not accept, ValueError for a value
        that the optimiser does not.
        """
        for name in given:
            _check_accepted(self.name, name, self.accepts())
        of_optimiser = {k: v for k, v in given.items() if k in self.optimiser.accepts()}
        of_model = {k: v for k, v in given.items() if k in self.hparams}
        return replace(self.optimiser, **of_optimiser), {**self.hparams, **of_model}


def _check_count(key: str, given: object, least: int) -> None:
    if not isinstance(given, int) or isinstance(given, bool) or given < least:
        raise ValueError(f"{key} is {given!r}; allowed: whole numbers from {least}")


def _check_hparam_names(hparams: Mapping[str, Any]) -> None:
    taken = {f.name for f in fields(Optimiser)} & set(hparams)
    if taken:
        raise ValueError(
            f"hparams has {', '.join(sorted(taken))}, which the optimiser owns; rename or drop"
        )


def _check_sources(label_source: Mapping[str, str]) -> None:
    if set(label_source) != set(SPLITS):
        raise ValueError(
            f"label_source names {', '.join(sorted(label_source)) or 'nothing'}; "
            f"say in words for each of {', '.join(SPLITS)} where its labels come from"
        )


def _check_accepted(task: str, name: str, accepted: frozenset[str]) -> None:
    if name not in accepted:
        raise SweeperError(
            f"task {task!r} has no hyperparameter {name!r}{nearest(name, accepted)}; "
            f"allowed: {', '.join(sorted(accepted))}"
        )
