"""Training functions that keep files in `run.directory`."""

import dataclasses
import os
import signal
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from quick import train, with_test_split  # type: ignore[import-not-found]
from torch.nn.functional import one_hot

from sweeper import Evaluation, TrainingRun


def resumable(run: TrainingRun) -> Iterator[Evaluation]:
    """Resume from a file in the folder; append a line to a file per trained epoch."""
    own = run.directory / "epoch"
    trained = int(own.read_text()) if own.exists() else 0
    for epoch, evaluation in enumerate(train(run), start=1):
        if epoch > trained:
            own.write_text(str(epoch))
            with Path(run.options["trace"]).open("a") as trace:
                trace.write(f"{run.number} {epoch} {run.directory}\n")
            yield dataclasses.replace(evaluation, extra={"number": run.number})


def early(run: TrainingRun) -> Iterator[Evaluation]:
    """Stop before progress 1."""
    yield from islice(resumable(run), 5)


def best_fails(run: TrainingRun) -> Iterator[Evaluation]:
    """Raise in trial 0 after its last report, which has the lowest NLL."""
    for evaluation in resumable(run):
        logits = evaluation.logits if run.number else 50.0 * one_hot(evaluation.labels)
        yield dataclasses.replace(evaluation, logits=logits)
    if not run.number:
        raise RuntimeError("on purpose")


def killed_once(run: TrainingRun) -> Iterator[Evaluation]:
    """Die like a process that is killed, in the third epoch of the first attempt."""
    for number, evaluation in enumerate(resumable(run), start=1):
        once = run.directory / "killed"
        if number == 3 and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield evaluation


def replicate(run: TrainingRun) -> Iterator[Evaluation]:
    """Report a test split; fail if the folder has files already."""
    assert not os.listdir(run.directory)
    (run.directory / "file").touch()
    with Path(run.options["trace"]).open("a") as trace:
        trace.write(f"{run.number} 0 {run.directory}\n")
    yield from with_test_split(run)


def fails(run: TrainingRun) -> Iterator[Evaluation]:
    """Leave a large file, and raise."""
    (run.directory / "large").write_bytes(bytes(1000))
    yield from train(run)
    raise RuntimeError("on purpose")


def no_folder(run: TrainingRun) -> Iterator[Evaluation]:
    """Train without the folder."""
    yield from train(run)
