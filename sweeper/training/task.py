"""Tasks: a model, its data and its training settings."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from sweeper.errors import SweeperError, suggestion
from sweeper.formatting import LABELS_AS_GIVEN
from sweeper.training.precision import FLOAT32, PRECISIONS

SPLITS = ("train", "valid", "test")
# The settings that only some optimizers have.
OPTIMIZERS = {
    "adam": ("beta1", "beta2"),
    "adamw": ("beta1", "beta2"),
    "sgd": ("momentum",),
    "rmsprop": ("momentum",),
}
DECAYS = ("cosine", "constant")

Rows = tuple[Tensor, Tensor]  # inputs (N, ...), labels (N,)


@dataclass(frozen=True)
class Splits:
    """The data of a task: three splits, each a pair of inputs (N, ...) and labels (N,).

    Raises SweeperError, with split, row and value, for an empty split, for different numbers of
    inputs and labels, for inputs that are not finite, and for labels that are not integers in
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
    for what, value in (("inputs", inputs), ("labels", labels)):
        if not isinstance(value, Tensor):
            raise SweeperError(
                f"{split}: {what} must be a tensor, got {type(value).__name__}; convert it with "
                "torch.as_tensor"
            )


def _check_lengths(split: str, inputs: Tensor, labels: Tensor) -> None:
    if labels.ndim != 1 or inputs.ndim < 1 or len(inputs) != len(labels):
        raise SweeperError(
            f"{split}: inputs have shape {tuple(inputs.shape)} and labels {tuple(labels.shape)}; "
            "expected inputs (N, ...) and one label per row (N,)"
        )
    if not len(labels):
        raise SweeperError(f"{split}: no rows; each of {', '.join(SPLITS)} needs at least one")


def _check_inputs(split: str, inputs: Tensor) -> None:
    if not inputs.is_floating_point() or inputs.isfinite().all():
        return
    bad = (~inputs.isfinite()).nonzero()[0].tolist()
    raise SweeperError(
        f"{split}: the inputs of row {bad[0]} contain {inputs[tuple(bad)].item()}; inputs must be "
        "finite: drop the row or impute the value"
    )


def _check_labels(split: str, labels: Tensor, classes: int) -> None:
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise SweeperError(
            f"{split}: labels must be integer class numbers, got {labels.dtype}; use labels.long()"
        )
    numbers = labels.long()  # comparing a narrow integer type with `classes` could overflow
    outside = ((numbers < 0) | (numbers >= classes)).nonzero()
    if len(outside):
        row = int(outside[0])
        raise SweeperError(
            f"{split}: the label of row {row} is {int(numbers[row])}; allowed: 0 to "
            f"{classes - 1} ({classes} classes); number the labels from 0, or change classes"
        )


@dataclass(frozen=True)
class Optimizer:
    """The settings of the optimizer.

    `name` is adam, adamw, sgd or rmsprop. `momentum` belongs to sgd and rmsprop, and `beta1` and
    `beta2` (torch's `betas`) belong to adam and adamw. `decay` is the learning rate schedule over
    the whole training run: cosine (to 0) or constant. `weight_decay` applies to all parameters,
    including biases, as in torch: with adam, sgd and rmsprop it is an L2 penalty, which adds
    weight_decay·w to the gradient; with adamw it is decoupled and shrinks w by a factor
    1 - lr·weight_decay per step (Loshchilov and Hutter 2019). `l1` is the factor of the
    penalty l1·Σ|w|, whose subgradient l1·sign(w) is added to the gradient; it applies only to
    parameters with two or more dimensions, so not to biases. Raises ValueError for an unknown name,
    for a value out of range, and for a setting that the optimizer does not have.
    """

    name: str = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.0
    decay: str = "cosine"
    l1: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999

    def __post_init__(self) -> None:
        _check_choice("optimizer", self.name, tuple(OPTIMIZERS))
        _check_choice("decay", self.decay, DECAYS)
        for key in ("lr", "weight_decay", "l1", *_OWN_DEFAULTS):
            _check_type(key, getattr(self, key))
        _check_number("lr", self.lr, self.lr > 0, "> 0")
        _check_number("weight_decay", self.weight_decay, self.weight_decay >= 0, ">= 0")
        _check_number("l1", self.l1, self.l1 >= 0, ">= 0")
        _check_number("momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")
        for key in ("beta1", "beta2"):
            _check_number(key, getattr(self, key), 0 <= getattr(self, key) < 1, "in [0, 1)")
        for key, default in _OWN_DEFAULTS.items():
            if getattr(self, key) != default and key not in OPTIMIZERS[self.name]:
                users = " or ".join(name for name, own in OPTIMIZERS.items() if key in own)
                raise ValueError(
                    f"{key} is {getattr(self, key)}, but {self.name} has no {key}; use {users}, or "
                    f"set it to {default:g}"
                )

    def updated(self, settings: Mapping[str, Any]) -> "Optimizer":
        """Return a copy with new settings; `optimizer` is the name.

        Settings that the optimizer of this name does not have get their defaults, unless they are
        given. Raises ValueError as the constructor does.
        """
        settings = dict(settings)
        name = settings.pop("optimizer", self.name)
        _check_choice("optimizer", name, tuple(OPTIMIZERS))
        others = {key: _OWN_DEFAULTS[key] for key in _OWN_DEFAULTS if key not in OPTIMIZERS[name]}
        return replace(self, name=name, **{**others, **settings})

    def lr_at(self, progress: float) -> float:
        """Return the learning rate at `progress` in [0, 1]."""
        if self.decay == "constant":
            return self.lr
        return self.lr * 0.5 * (1 + math.cos(math.pi * progress))


_OWN_DEFAULTS: Final = {"momentum": 0.0, "beta1": 0.9, "beta2": 0.999}
# The settings that can be searched, by the name of their hyperparameter.
_SEARCHED: Final = ("optimizer", "lr", "weight_decay", "l1", *_OWN_DEFAULTS)


def _check_choice(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(
            f"unknown {key} {value!r}{suggestion(str(value), allowed)}; allowed: "
            f"{', '.join(allowed)}"
        )


def _check_type(key: str, value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{key} must be a number, got {value!r}")


def _check_number(key: str, value: float, in_range: bool, allowed: str) -> None:
    if not (in_range and math.isfinite(value)):
        raise ValueError(f"{key} must be a finite number {allowed}, got {value}")


@dataclass(frozen=True, eq=False)
class Task:
    """A model, its data and its training settings.

    `model(hparams)` returns a new module that maps inputs to logits (N, classes).
    `data(data_seed)` returns the splits; it is called once per process and seed. `hparams` are the
    hyperparameters of the model with their defaults. `label_source` describes for each split where
    its labels come from. `augment(inputs, hparams)` returns randomly changed inputs of a training
    batch, with the same shape and device; it must use torch's global generator of that device,
    which the loop seeds before each call. It is not called in evaluation. `precision` is float32 or
    bf16; with bf16, forward passes and the loss run under `torch.autocast`, and the weights stay
    float32. Tasks are compared by identity. Raises ValueError for invalid settings.
    """

    name: str
    classes: int
    model: Callable[[Mapping[str, Any]], nn.Module]
    data: Callable[[int], Splits]
    optimizer: Optimizer = field(default_factory=Optimizer)
    epochs: int = 40
    batch_size: int = 64
    hparams: Mapping[str, Any] = field(default_factory=dict)
    label_source: Mapping[str, str] = field(
        default_factory=lambda: dict.fromkeys(SPLITS, LABELS_AS_GIVEN)
    )
    augment: Callable[[Tensor, Mapping[str, Any]], Tensor] | None = None
    precision: str = FLOAT32

    def __post_init__(self) -> None:
        for key, least in (("classes", 2), ("epochs", 1), ("batch_size", 1)):
            _check_count(key, getattr(self, key), least)
        _check_hparam_names(self.hparams)
        _check_sources(self.label_source)
        _check_choice("precision", self.precision, PRECISIONS)

    def accepts(self) -> frozenset[str]:
        """Return the names of the hyperparameters that can be searched."""
        return frozenset({*_SEARCHED, *self.hparams})

    def defaults(self) -> dict[str, Any]:
        """Return the values of the hyperparameters that a training run is not given."""
        optimizer = self.optimizer
        searched = {name: getattr(optimizer, name) for name in _SEARCHED if name != "optimizer"}
        return {"optimizer": optimizer.name, **searched, **self.hparams}

    def settings(self, hparams: Mapping[str, Any]) -> tuple[Optimizer, dict[str, Any]]:
        """Return the optimizer and the model's hyperparameters, updated with `hparams`.

        Raises SweeperError for a name that the task does not accept, and ValueError for a value
        that the optimizer does not accept.
        """
        for name in hparams:
            _check_accepted(self.name, name, self.accepts())
        of_optimizer = {k: v for k, v in hparams.items() if k in _SEARCHED}
        of_model = {k: v for k, v in hparams.items() if k in self.hparams}
        return self.optimizer.updated(of_optimizer), {**self.hparams, **of_model}


def _check_count(key: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{key} must be an integer >= {least}, got {value!r}")


def _check_hparam_names(hparams: Mapping[str, Any]) -> None:
    taken = {*_SEARCHED, *(f.name for f in fields(Optimizer))} & set(hparams)
    if taken:
        raise ValueError(
            f"hparams contains {', '.join(sorted(taken))}, which is reserved for the optimizer; "
            "rename or remove it"
        )


def _check_sources(label_source: Mapping[str, str]) -> None:
    if set(label_source) != set(SPLITS):
        raise ValueError(
            f"label_source has the keys {', '.join(sorted(label_source)) or 'none'}; it must "
            f"describe the labels of each of {', '.join(SPLITS)}"
        )


def _check_accepted(task: str, name: str, accepted: frozenset[str]) -> None:
    if name not in accepted:
        raise SweeperError(
            f"task {task!r} has no hyperparameter {name!r}{suggestion(name, accepted)}; "
            f"allowed: {', '.join(sorted(accepted))}"
        )
