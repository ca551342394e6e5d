"""Training loops that report unusual values, each by the name of what is unusual."""

import dataclasses
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot

from sweeper import Evaluation, TrainingRun, TrialReleased

LABELS = torch.arange(30) % 3
Change = Callable[[Evaluation, int], dict[str, Any]]


def report(run: TrainingRun, change: Change, epochs: int = 4) -> Iterator[Evaluation]:
    """Train a linear model; `change` returns the fields to replace in the report of an epoch."""
    torch.manual_seed(run.seed)
    model, loss = nn.Linear(3, 3), run.loss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    inputs = one_hot(LABELS, 3).float()
    for epoch in range(1, epochs + 1):
        loss.progress = (epoch - 1) / epochs
        value = loss(model(inputs), LABELS)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        usual = Evaluation(model(inputs).detach(), LABELS, epoch / epochs)
        yield dataclasses.replace(usual, **change(usual, epoch))


def tensors(run: TrainingRun) -> Iterator[Evaluation]:
    """Numbers as torch, torchmetrics and NumPy give them."""

    def change(usual: Evaluation, epoch: int) -> dict[str, Any]:
        loss = (usual.logits.requires_grad_() ** 2).mean()
        extra = {
            "f1": torch.tensor(0.5),
            "one": torch.tensor([1.0]),
            "half": np.float32(0.5),
            "count": np.int64(3),
            "array": np.array(2.0),
        }
        return {"train_loss": loss, "mean_epsilon": np.float64(0.1), "extra": extra}

    return report(run, change)


def arrays(run: TrainingRun) -> Iterator[Evaluation]:
    """Logits and labels as arrays and lists."""
    return report(run, lambda usual, epoch: {
        "logits": usual.logits.numpy()[::-1] if epoch % 2 else usual.logits.tolist(),
        "labels": usual.labels.numpy()[::-1] if epoch % 2 else usual.labels.tolist(),
    })  # fmt: skip


def summed(run: TrainingRun) -> Iterator[Evaluation]:
    """Progress as a sum of fractions, which ends at 1.0000000000000002."""
    progress = 0.0

    def change(usual: Evaluation, epoch: int) -> dict[str, Any]:
        nonlocal progress
        progress += 1 / 20
        return {"progress": progress}

    return report(run, change, epochs=20)


def repeated(run: TrainingRun) -> Iterator[Evaluation]:
    """The same progress twice."""
    return report(run, lambda usual, epoch: {"progress": [0.25, 0.5, 0.5, 1.0][epoch - 1]})


def short(run: TrainingRun) -> Iterator[Evaluation]:
    """Ends at half of the training."""
    return report(run, lambda usual, epoch: {"progress": epoch / 8})


def short_split(run: TrainingRun) -> Iterator[Evaluation]:
    """Ends at half of the training, with a test split."""
    return report(run, lambda usual, epoch: {
        "progress": epoch / 8,
        "splits": {"test": lambda: (usual.logits, usual.labels)},
    })  # fmt: skip


def short_calls(run: TrainingRun) -> None:
    """Calls `run.report` and returns early."""
    for usual in short_split(run):
        run.report(usual.logits, usual.labels, progress=usual.progress, splits=usual.splits)


def probabilities(run: TrainingRun) -> Iterator[Evaluation]:
    """Softmax outputs in place of logits."""
    return report(run, lambda usual, epoch: {"logits": usual.logits.softmax(1)})


def first_of_many(run: TrainingRun) -> Iterator[Evaluation]:
    """Softmax outputs in one report; then the user stops the launch."""
    yield from islice(probabilities(run), 1)
    raise KeyboardInterrupt


def constant(run: TrainingRun) -> Iterator[Evaluation]:
    """Never sets the progress of the loss."""
    model, loss = nn.Linear(3, 3), run.loss()
    for epoch in range(1, 5):
        logits = model(one_hot(LABELS, 3).float())
        loss(logits, LABELS).backward()
        yield Evaluation(logits, LABELS, epoch / 4)


def bad_extra(run: TrainingRun) -> Iterator[Evaluation]:
    """An extra metric that is a list."""
    return report(run, lambda usual, epoch: {"extra": {"per_class": [0.1, 0.2]}})


def bad_name(run: TrainingRun) -> Iterator[Evaluation]:
    """An extra metric whose name is a number."""
    return report(run, lambda usual, epoch: {"extra": {3: 0.1}})


def bad_loss(run: TrainingRun) -> Iterator[Evaluation]:
    """A training loss per example."""
    return report(run, lambda usual, epoch: {"train_loss": torch.ones(30)})


def bad_progress(run: TrainingRun) -> Iterator[Evaluation]:
    """Progress in percent."""
    return report(run, lambda usual, epoch: {"progress": 25 * epoch})


def bad_labels(run: TrainingRun) -> Iterator[Evaluation]:
    """Labels that are strings."""
    return report(run, lambda usual, epoch: {"labels": ["cat"] * 30})


def with_state(run: TrainingRun, state: Callable[[], Any]) -> Iterator[Evaluation]:
    return report(run, lambda usual, epoch: {"state": state})


def scheduler_state(run: TrainingRun) -> Iterator[Evaluation]:
    """What torch's own optimizers and schedulers have in their state dicts."""
    model = nn.Linear(3, 3)
    optimizer = torch.optim.Adam(model.parameters())
    steps = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 3])
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    plateau.step(np.float64(0.5))

    def state() -> Mapping[str, Any]:
        parts: dict[str, Any] = {
            "model": model,
            "optimizer": optimizer,
            "steps": steps,
            "plateau": plateau,
        }
        return {name: part.state_dict() for name, part in parts.items()} | {
            "best": np.float64(0.25),
            "seen": Counter({"cat": np.int64(2)}),
        }

    if run.state is not None:
        assert run.state["seen"] == Counter({"cat": 2})
        assert type(run.state["seen"]) is Counter
        assert type(run.state["steps"]["milestones"]) is Counter
        steps.load_state_dict(dict(run.state["steps"]))
    return with_state(run, state)


def list_state(run: TrainingRun) -> Iterator[Evaluation]:
    return with_state(run, lambda: [1, 2])


def raising_state(run: TrainingRun) -> Iterator[Evaluation]:
    def state() -> Any:
        raise RuntimeError("no state today")

    return with_state(run, state)


def set_state(run: TrainingRun) -> Iterator[Evaluation]:
    return with_state(run, lambda: {"model": {"seen": {1, 2}}})


def array_state(run: TrainingRun) -> Iterator[Evaluation]:
    return with_state(run, lambda: {"rng": np.arange(3)})


def uncallable_state(run: TrainingRun) -> Iterator[Evaluation]:
    return report(run, lambda usual, epoch: {"state": {"epoch": epoch}})


def bad_split(run: TrainingRun) -> Iterator[Evaluation]:
    """A split with a number for a name."""
    return report(run, lambda usual, epoch: {"splits": {1: lambda: None}})


def uncallable_split(run: TrainingRun) -> Iterator[Evaluation]:
    """A split that is no function."""
    return report(run, lambda usual, epoch: {"splits": {"test": (usual.logits, usual.labels)}})


def nested(run: TrainingRun) -> Iterator[Evaluation]:
    """A state that reports."""

    def state() -> dict[str, Any]:
        run.report(torch.eye(3)[LABELS], LABELS, progress=0.2)
        return {}

    return with_state(run, state)


def usual_then(error: Exception) -> Iterator[Evaluation]:
    """Report once, and raise."""
    yield Evaluation(torch.eye(3)[LABELS], LABELS, 0.5)
    raise error


def long_error(run: TrainingRun) -> Iterator[Evaluation]:
    """An exception with a text of 5 MB in one line."""
    yield from usual_then(RuntimeError("begin " + "x" * 5_000_000 + " end"))


class Silent(RuntimeError):
    """An exception without a text."""

    def __str__(self) -> str:
        raise ValueError("no text today")


def silent_error(run: TrainingRun) -> Iterator[Evaluation]:
    """An exception whose text cannot be had."""
    yield from usual_then(Silent())


def threads(run: TrainingRun) -> None:
    """Reports from several threads, and from one after the end."""

    def reports(first: int) -> None:
        for step in range(10):
            progress = (first + 2 * step + 1) / 21
            run.report(torch.eye(3)[LABELS], LABELS, progress=progress)

    workers = [threading.Thread(target=reports, args=(first,)) for first in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    run.report(torch.eye(3)[LABELS], LABELS, progress=1)


LATE = list[TrainingRun]()


def late(run: TrainingRun) -> Iterator[Evaluation]:
    """A run that is used to report after its end, by the next trial."""
    for earlier in LATE:
        with pytest.raises(TrialReleased, match="has ended"):
            earlier.report(torch.eye(3)[LABELS], LABELS, progress=0.9)
    LATE.append(run)
    return report(run, lambda usual, epoch: {})


def odd_text(run: TrainingRun) -> Iterator[Evaluation]:
    """Prints characters that UTF-8, PostgreSQL or a terminal does not take."""
    print("before \udce9 between a\x00b after")
    yield from report(run, lambda usual, epoch: {})


def odd_error(run: TrainingRun) -> Iterator[Evaluation]:
    """Raises with such characters in its message."""
    for evaluation in report(run, lambda usual, epoch: {}):
        yield evaluation
        raise RuntimeError("bad file name \udce9 and a\x00b")


def iterator(run: TrainingRun) -> Iterator[Evaluation]:
    """Returns an iterator; is not a generator function itself."""
    return report(run, lambda usual, epoch: {})


def nothing(run: TrainingRun) -> None:
    """Forgets to yield."""
    for _ in report(run, lambda usual, epoch: {}):
        pass


def with_test_split(run: TrainingRun, test: Callable[[Evaluation], Any]) -> Iterator[Evaluation]:
    return report(run, lambda usual, epoch: {"splits": {"test": lambda: test(usual)}})


def raising_split(run: TrainingRun) -> Iterator[Evaluation]:
    def test(usual: Evaluation) -> Any:
        raise FileNotFoundError("test.csv")

    return with_test_split(run, test)


def empty_split(run: TrainingRun) -> Iterator[Evaluation]:
    return with_test_split(run, lambda usual: (usual.logits[:0], usual.labels[:0]))


def shapeless_split(run: TrainingRun) -> Iterator[Evaluation]:
    return with_test_split(run, lambda usual: (usual.logits, usual.labels[:4]))


def single_split(run: TrainingRun) -> Iterator[Evaluation]:
    return with_test_split(run, lambda usual: usual.logits)


def one_example(run: TrainingRun) -> Iterator[Evaluation]:
    return with_test_split(run, lambda usual: (usual.logits[:1], usual.labels[:1]))


def array_split(run: TrainingRun) -> Iterator[Evaluation]:
    return with_test_split(run, lambda usual: (usual.logits.numpy(), usual.labels.tolist()))
