"""Training code that is short, reports several times, and is attacked by `benchmarks.chaos`."""

import os
import random
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from sweeper import Evaluation, Task, TrainingRun
from sweeper.tasks.digits import digits

REPORTS: Final = 6


def train(run: TrainingRun) -> Iterator[Evaluation]:
    """Take 0.5 to 2 s, with a child process, and go on from the last checkpoint."""
    # What a training loop starts, a data loader for example; whether it lives does not matter.
    subprocess.Popen(["sleep", "60"])
    pause = random.Random(run.smoothing.epsilon).uniform(0.5, 2.0) / REPORTS
    labels = torch.arange(120) % 12
    noise = torch.randn(120, 12, generator=torch.Generator().manual_seed(run.data_seed))
    state: Mapping[str, Any] = run.state or {"report": 0, "model": {"sum": torch.zeros(())}}
    done, total = state["report"], state["model"]["sum"]
    for number in range(done + 1, REPORTS + 1):
        print(f"report {number}")
        time.sleep(pause)
        progress = number / REPORTS
        quality = 3.0 * progress - 20.0 * (run.smoothing.epsilon - 0.12) ** 2
        logits = noise + (quality - run.smoothing.at(progress)) * one_hot(labels, 12)
        total = total + logits.sum()
        state = {"report": number, "model": {"sum": total}}
        extra = {"sum": total.item()}
        yield Evaluation(logits, labels, progress, extra=extra, state=_always(state))


def _always(state: Mapping[str, Any]) -> Any:
    return lambda: state


def paced() -> Task:
    """Return the digits in six epochs of some 0.2 s, with dropout."""
    return replace(digits(), epochs=6, hparams={"width": 32, "dropout": 0.2}, augment=_wait)


def _wait(inputs: Tensor, _: Mapping[str, Any]) -> Tensor:
    time.sleep(float(os.environ.get("SWEEPER_CHAOS_STEP", "0")))
    return inputs
