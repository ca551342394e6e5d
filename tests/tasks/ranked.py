"""A training function for several ranks on CPUs, which can be killed or fail at one of them."""

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from sweeper import Evaluation, TrainingRun


def train(run: TrainingRun) -> None:
    rank, size = distributed.get_rank(), distributed.get_world_size()
    assert (rank, size) == (int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    assert int(os.environ["LOCAL_RANK"]) == rank
    options = run.options
    log = Path(options["log"])
    (log / f"rank-{run.number}-{rank}-{os.getpid()}").touch()
    begun = 0 if run.state is None else int(run.state["epoch"])
    loss = run.loss()
    value = torch.zeros(1)
    for epoch in range(begun, 4):
        hit = options.get("at", -1) == rank and epoch == 2 and run.smoothing.epsilon > 0
        once = log / "hit"
        if hit and not once.exists():
            if options["how"] != "raise":
                once.touch()
            match options["how"]:
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "raise":
                    raise ValueError(f"rank {rank} is broken")
                case "exit":
                    os._exit(3)
        value += rank + 1
        total = value.clone()
        distributed.all_reduce(total)
        loss.progress = (epoch + 1) / 4
        assert total.item() == (epoch + 1 - begun) * size * (size + 1) / 2
        logits = (2 * torch.eye(3) - 1) * (1 + epoch) * (1 - run.smoothing.epsilon / 2)
        if rank == 0 or options.get("all", True):
            run.report(
                logits,
                torch.arange(3),
                progress=(epoch + 1) / 4,
                state=partial(dict[str, Any], epoch=epoch + 1, model={}),
                splits={"test": partial(outputs, logits)},
            )


def outputs(logits: Tensor) -> tuple[Tensor, Tensor]:
    return logits, torch.arange(3)


def yields(run: TrainingRun) -> Iterator[Evaluation]:
    for epoch in range(4):
        distributed.barrier()
        logits = (2 * torch.eye(3) - 1) * (1 + epoch) * (1 - run.smoothing.epsilon / 2)
        yield Evaluation(logits, torch.arange(3), (epoch + 1) / 4)
