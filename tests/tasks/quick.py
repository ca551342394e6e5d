"""Loops that compute logits instead of training. Their NLL depends on ε, schedule and seed.

A study with them takes about a second. Tests copy this file beside their study files.
"""

import dataclasses
import functools
import math
import os
import random
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from sweeper import Evaluation, TrainingRun

EPOCHS = 8


def train(run: TrainingRun) -> Iterator[Evaluation]:
    """A closed-form surface: the NLL is lowest near epsilon = 0.12."""
    generator = torch.Generator().manual_seed(run.data_seed)
    labels = torch.arange(120) % 12
    noise = torch.randn(120, 12, generator=generator)
    print("quick training begins")
    epochs = run.options.get("epochs", EPOCHS)
    for epoch in range(1, epochs + 1):
        progress = epoch / epochs
        epsilon = run.smoothing.at(progress)
        quality = 3.0 * progress - 20.0 * (run.smoothing.epsilon - 0.12) ** 2 - epsilon
        logits = noise + quality * one_hot(labels, 12)
        yield Evaluation(logits, labels, progress, extra={"quality": quality})


def diverge(run: TrainingRun) -> Iterator[Evaluation]:
    """Diverge at large epsilons and raise an exception at medium ones."""
    for evaluation in train(run):
        if run.smoothing.epsilon > 0.3:
            yield Evaluation(evaluation.logits * math.nan, evaluation.labels, evaluation.progress)
        elif run.smoothing.epsilon > 0.2:
            raise RuntimeError("this trial fails on purpose")
        else:
            yield evaluation


def resumable(run: TrainingRun) -> Iterator[Evaluation]:
    """Resume from the state; append a line to a file per trained epoch."""
    options = run.options
    state: Mapping[str, Any] = run.state or {"epoch": 0, "model": {"sum": torch.zeros(1)}}
    for epoch, evaluation in enumerate(train(run), start=1):
        if epoch <= state["epoch"]:
            continue
        # time.sleep() does not work under faketime
        threading.Event().wait(options.get("pause", 0.0))
        while epoch > 1 and Path(options["trace"] + ".hold").exists():
            threading.Event().wait(0.02)
        state = {"epoch": epoch, "model": {"sum": state["model"]["sum"] + evaluation.logits.sum()}}
        with Path(options["trace"]).open("a") as trace:
            trace.write(f"{run.smoothing.epsilon} {epoch}\n")
        extra = {"sum": state["model"]["sum"].item()}
        yield dataclasses.replace(evaluation, extra=extra, state=_constant(state))


def _constant(state: Mapping[str, Any]) -> Any:
    return lambda: state


def with_test_split(run: TrainingRun) -> Iterator[Evaluation]:
    """Report a test split too. Scores depend on the seed; `help` is the effect of ε."""
    if run.seed in run.options.get("failing_seeds", []) and run.smoothing.epsilon > 0:
        raise RuntimeError("this seed fails on purpose")
    luck: float = 0.2 * torch.randn((), generator=torch.Generator().manual_seed(run.seed)).item()
    gain: float = run.options.get("help", 0.0) * min(run.smoothing.epsilon, 0.1)

    def better(logits: Tensor, labels: Tensor) -> Tensor:
        return logits + (luck + gain) * one_hot(labels, 12)

    def test(quality: float) -> tuple[Tensor, Tensor]:
        labels = torch.arange(240) % 12
        noise = torch.Generator().manual_seed(run.data_seed + 1)
        logits = torch.randn(240, 12, generator=noise)
        return better(logits + quality * one_hot(labels, 12), labels), labels

    for evaluation in train(run):
        logits = better(evaluation.logits, evaluation.labels)
        split = functools.partial(test, evaluation.extra["quality"])
        yield dataclasses.replace(evaluation, logits=logits, splits={"train": split, "test": split})


def slow(run: TrainingRun) -> Iterator[Evaluation]:
    """Train slowly, to be killed midway; append a line to a file per started trial."""
    with Path(run.options["trace"]).open("a") as trace:
        trace.write(f"{run.smoothing.epsilon}\n")
    for evaluation in train(run):
        time.sleep(run.options.get("pause", 0.05))
        yield evaluation


def exits_at_epsilon_0(run: TrainingRun) -> Iterator[Evaluation]:
    """Exit the process at epsilon 0."""
    if run.smoothing.epsilon == 0:
        os._exit(9)
    yield from slow(run)


def hangs_once(run: TrainingRun) -> Iterator[Evaluation]:
    """Hang in the second epoch at epsilon 0, on the first attempt only."""
    first = run.smoothing.epsilon == 0 and not run.state
    once = Path(run.options["trace"] + ".once")
    for number, evaluation in enumerate(resumable(run), start=1):
        if first and number == 2 and not once.exists():
            if run.options["pause"] == 0:
                once.touch()
            time.sleep(run.options.get("hang", 600))
        yield evaluation


def allocates_too_much(run: TrainingRun) -> Iterator[Evaluation]:
    """Allocate more memory than is available."""
    for evaluation in train(run):
        if run.smoothing.epsilon == 0:
            torch.empty(1 << 50)
        yield evaluation


def nondeterministic(run: TrainingRun) -> Iterator[Evaluation]:
    """Use random numbers that do not depend on the seed, from the third epoch on."""
    for number, evaluation in enumerate(train(run), start=1):
        logits = evaluation.logits
        if number > 2:
            logits = logits + 1e-9 * random.random()
            logits[0, 0] += 1e-4 * (1 + random.random())
        yield dataclasses.replace(evaluation, logits=logits)


def reports_threads(run: TrainingRun) -> Iterator[Evaluation]:
    """Report the number of threads as a metric, and a training loss at first."""
    for number, evaluation in enumerate(train(run)):
        extra = {"threads": torch.get_num_threads(), "nothing": math.inf}
        loss = 1.0 if number < 4 else math.nan
        yield dataclasses.replace(evaluation, train_loss=loss, extra=extra)


def random_metric(run: TrainingRun) -> Iterator[Evaluation]:
    """Report a metric that differs in every run."""
    for evaluation in train(run):
        yield dataclasses.replace(evaluation, extra={"luck": random.random()})


def fails_while_file_exists(run: TrainingRun) -> Iterator[Evaluation]:
    """Raise an exception in the third epoch while a file exists."""
    for number, evaluation in enumerate(train(run), start=1):
        if number == 3 and Path(run.options["trace"]).exists():
            raise RuntimeError("there is a file")
        yield evaluation


def unsavable_state(run: TrainingRun) -> Iterator[Evaluation]:
    """Report a state that cannot be saved."""
    for evaluation in train(run):
        yield dataclasses.replace(evaluation, state=lambda: {"model": {1, 2}})


def broken(run: TrainingRun) -> Iterator[Evaluation]:
    """Raises in its first epoch."""
    for evaluation in train(run):
        if evaluation.progress > 0:
            raise RuntimeError("broken on purpose")
        yield evaluation


def rejects_test_split(run: TrainingRun) -> Iterator[Evaluation]:
    """Raise an exception if the test split is requested."""

    def refuse() -> tuple[Tensor, Tensor]:
        raise RuntimeError("asked")

    for evaluation in train(run):
        yield dataclasses.replace(evaluation, splits={"test": refuse})


def slope(progress: Tensor, rate: Tensor) -> Tensor:
    """A schedule: ε falls to 0 as a power of the remaining share of the training."""
    return (1 - progress) ** rate
