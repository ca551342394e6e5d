"""A training function whose file starts a thread when it is imported: a fork of it is not safe."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from sweeper import Evaluation, TrainingRun

threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
TRIALS = 0


def train(run: TrainingRun) -> Iterator[Evaluation]:
    """Note the process and the number of the trial in it; fail in the second of a process."""
    global TRIALS
    TRIALS += 1
    with Path(run.options["mark"]).open("a") as stream:
        stream.write(f"{os.getpid()} {TRIALS} {threading.active_count()}\n")
    labels = torch.arange(30) % 3
    yield Evaluation(torch.eye(3)[labels], labels, 0.5)
    if run.options.get("hangs"):
        time.sleep(600)
    if TRIALS == 3:
        raise RuntimeError("the third trial of a process")
    yield Evaluation(torch.eye(3)[labels], labels, 1.0)
