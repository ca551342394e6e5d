"""The interface of training functions: `TrainingRun` is their input, `Evaluation` their output."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor

from sweeper.errors import SweeperError
from sweeper.smoothing import Smoothing, SmoothingLoss
from sweeper.training.conversion import as_number, as_progress, describe
from sweeper.training.outputs import IGNORED, Array, Batch, Scorer, collect

# The splits that a confirmation evaluates in addition to the validation split.
OtherSplit = Literal["train", "test"]
# What a function of `splits` returns; batches are for outputs that are too large for memory.
SplitResult = Batch | Scorer | Iterable[Batch]
Number = float | Tensor | np.number[Any]


@dataclass(frozen=True)
class TrainingRun:
    """The input of a training function: one configuration to train once.

    `seed` determines the initialization, the batch order, dropout and augmentation; `data_seed`
    determines the data split. All trials of a study have the same two seeds, so that trials differ
    only in `smoothing` and `hparams`. `options` are the task options of the study file. `state` is
    the last saved `Evaluation.state` of an interrupted run of the same trial, from which the loop
    must resume; None for a new run.

    `number` is the number of the trial, or of the training run within a confirmation. `directory`
    is an existing folder for files of this run, such as the checkpoints of a framework. An
    interrupted run that resumes on the same machine finds its files there. When a trial ends, its
    folder is removed, except that of the best trial so far. In a replay it is a temporary folder,
    and in a TrainingRun that was created manually the current one.

    After each epoch a training function calls `report`, or yields an `Evaluation`.
    """

    smoothing: Smoothing
    seed: int
    data_seed: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    hparams: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    state: Mapping[str, Any] | None = field(default=None, repr=False)
    number: int = 0
    directory: Path = field(default_factory=Path)
    reporter: "Reports | None" = field(default=None, repr=False, compare=False)

    def report(  # noqa: PLR0913  (the fields of an Evaluation)
        self,
        logits: Array | Scorer | Iterable[Batch],
        labels: Array | None = None,
        *,
        progress: Number,
        groups: Array | None = None,
        ignore_index: int = IGNORED,
        train_loss: Number | None = None,
        extra: Mapping[str, Number] | None = None,
        splits: Mapping[str, Callable[[], SplitResult]] | None = None,
        state: Callable[[], Mapping[str, Any]] | None = None,
        mean_epsilon: Number | None = None,
    ) -> None:
        """Report the model's outputs on held-out data; the arguments are those of `Evaluation`.

        The logits are scored and the scores are stored with the trial. Raises `sweeper.TrialPruned`
        if the trial is pruned and `sweeper.TrialReleased` if it is interrupted. The loop must then
        stop; later calls raise the same exception. Raises TypeError or ValueError, naming the
        argument, for an invalid value, and SweeperError if the run does not belong to a trial.
        """
        if self.reporter is None:
            raise SweeperError(
                "run.report works only in trials that sweeper started; this TrainingRun was "
                "created manually"
            )
        self.reporter.report(
            Evaluation(
                logits,  # type: ignore[arg-type]  # Evaluation converts its arguments
                labels,  # type: ignore[arg-type]
                progress,  # type: ignore[arg-type]
                train_loss=train_loss,  # type: ignore[arg-type]
                extra={} if extra is None else extra,  # type: ignore[arg-type]
                state=state,
                splits={} if splits is None else splits,
                mean_epsilon=mean_epsilon,  # type: ignore[arg-type]
                groups=groups,  # type: ignore[arg-type]
                ignore_index=ignore_index,
            )
        )

    def scorer(self, *, ignore_index: int = IGNORED) -> Scorer:
        """Return a `Scorer`, to which a loop adds the outputs of one batch after the other.

        Report it with `run.report(scorer, progress=…)`. Memory holds only a few numbers per
        example. Create one for each report. Labels equal to `ignore_index` are not scored.
        """
        return new_scorer(ignore_index)

    def loss(self, **kwargs: Any) -> SmoothingLoss:
        """Return the training loss; the loop must set `loss.progress` before each step.

        `kwargs` are passed to `SmoothingLoss`.
        """
        loss = SmoothingLoss(self.smoothing, **kwargs).to(self.device)
        if self.reporter is not None:
            self.reporter.losses.append(loss)
        return loss


@dataclass(frozen=True)
class Evaluation:
    """The outputs of a model on held-out data after one epoch.

    `logits` has shape (N, K) or (N, K, d1, …), any float type and any device. `labels` (N,) or
    (N, d1, …) are integer class numbers; they are scored without smoothing. Both may be tensors,
    NumPy arrays or lists. Positions with the label `ignore_index` are not scored. Logits z of shape
    (N,), (N, 1) or (N, 1, d1, …) with labels 0 and 1 are scored as two classes with logits [0, z].
    Large outputs are given in batches: then `logits` is a `Scorer` or an iterable of tuples
    (logits, labels) or (logits, labels, groups), and `labels` is None.

    `groups` (N,) or (N, d1, …) are integers. Examples with the same number are dependent, such as
    the words of a text. Without groups, each entry of the first axis of logits (N, K, d1, …) is a
    group, and each example of logits (N, K). After construction, `logits` (N, K), `labels` (N,) and
    `groups` (N,) contain one row per scored position; `groups` is None if each example is one.
    Logits that are stored in a file can only be indexed by row.

    `progress` is the fraction of training done, in (0, 1]. `extra` metrics are stored and shown but
    not optimized. Numbers may be Python or NumPy numbers or tensors of one element.

    `state` is a function that returns everything the loop needs to resume from here: a dict of
    tensors, numbers, strings, and lists and dicts of these, such as torch's `state_dict()`, with
    the model's weights under "model". None if the loop cannot resume. `splits` maps "test" and
    "train" to functions that return the logits and the labels of these splits, optionally with
    groups, or batches of these. The search never calls them; a confirmation calls those of the last
    report of each training run. `state` and `splits` are called before the loop continues, or
    never, except that the splits of a last report with `progress` < 1 are called after the training
    function has returned.
    `mean_epsilon` is the mean of the probability mass taken from the true class (convention
    `others`) over the samples since the last evaluation.

    Raises TypeError or ValueError, naming the field, for an invalid type or value.
    """

    logits: Tensor
    labels: Tensor
    progress: float
    train_loss: float | None = None
    extra: Mapping[str, float] = field(default_factory=dict)
    state: Callable[[], Mapping[str, Any]] | None = None
    splits: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    mean_epsilon: float | None = None
    groups: Tensor | None = None
    ignore_index: int = IGNORED

    def __post_init__(self) -> None:
        given = self.logits, self.labels, self.groups
        outputs = collect(given, new_scorer(self.ignore_index), "Evaluation.")
        for name, value in (
            *outputs._asdict().items(),
            ("progress", as_progress(self.progress, "Evaluation.progress")),
            ("train_loss", _as_optional(self.train_loss, "Evaluation.train_loss")),
            ("mean_epsilon", _as_optional(self.mean_epsilon, "Evaluation.mean_epsilon")),
            ("extra", _as_metrics(self.extra)),
        ):
            object.__setattr__(self, name, value)
        if not (self.state is None or callable(self.state)):
            raise TypeError(
                "Evaluation.state must be a function that returns a dict, "
                f"got {describe(self.state)}"
            )
        _check_splits(self.splits)


def _as_optional(value: object, name: str) -> float | None:
    return None if value is None else as_number(value, name)


def _as_metrics(extra: object) -> dict[str, float]:
    if not isinstance(extra, Mapping):
        raise TypeError(f"Evaluation.extra must be a dict of numbers, got {describe(extra)}")
    wrong = next((name for name in extra if not isinstance(name, str)), None)
    if wrong is not None:
        raise TypeError(f"Evaluation.extra has the key {wrong!r}; keys must be strings")
    return {
        str(name): as_number(value, f"Evaluation.extra[{name!r}]") for name, value in extra.items()
    }


def _check_splits(splits: object) -> None:
    if not isinstance(splits, Mapping):
        raise TypeError(f"Evaluation.splits must be a dict of functions, got {describe(splits)}")
    for name, function in splits.items():
        if name not in get_args(OtherSplit):
            allowed = " and ".join(repr(known) for known in get_args(OtherSplit))
            raise ValueError(f"Evaluation.splits has the key {name!r}; allowed: {allowed}")
        if not callable(function):
            raise TypeError(
                f"Evaluation.splits[{name!r}] must be a function that returns logits and labels, "
                f"got {describe(function)}"
            )


class Reports(Protocol):
    """Receives the reports of a training run.

    `losses` are the losses that the training function has created with `run.loss()`.
    """

    losses: list[SmoothingLoss]

    def report(self, evaluation: Evaluation) -> None:
        """Handle a report."""
        ...


Trainer = Callable[[TrainingRun], Iterator[Evaluation]]

_current: list[TrainingRun] = []
# The run of a script, by process id: a forked process has a connection of its own.
_connected: dict[int, TrainingRun] = {}


def current_run() -> TrainingRun:
    """Return the training run of the training function or script that runs in this process.

    In a script, every process may call it, also the ranks of torchrun. Rank 0 sends its reports;
    the other ranks wait in `report` until rank 0 has made the same report, and are then stopped
    like rank 0. Raises `SweeperError` if sweeper has started neither a function nor a script.
    """
    if _current:
        return _current[-1]
    path, process = os.environ.get("SWEEPER_SOCKET"), os.getpid()
    if not path:
        raise SweeperError(
            "sweeper.current_run() works only in training functions and scripts that sweeper "
            "started"
        )
    if process not in _connected:
        from sweeper.training.scripts.client import connected_run

        _connected[process] = connected_run(path)
    return _connected[process]


def new_scorer(ignore_index: int) -> Scorer:
    """Return a scorer that writes large outputs to a file in the folder of the current run."""
    run = _current[-1] if _current else _connected.get(os.getpid())
    return Scorer(ignore_index, None if run is None else run.directory)


@contextmanager
def running(run: TrainingRun) -> Iterator[None]:
    """Make `run` the result of `current_run` in the block."""
    _current.append(run)
    try:
        yield
    finally:
        _current.remove(run)
