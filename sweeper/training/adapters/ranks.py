"""Trials of Lightning on several ranks, which may be forked from the process of the trial."""

import pickle
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing import Pipe
from threading import Thread
from typing import Any

import torch
from torch.utils.data import DistributedSampler

from sweeper.training.outputs import Outputs
from sweeper.training.run import TrainingRun


class Relay:
    """Passes reports on to a run, except the last one (progress 1), which is kept in `last`.

    The caller reports the last one with the test split, after the trainer has ended. `stopped` is
    the exception of a report.
    """

    def __init__(self, run: TrainingRun) -> None:
        self.reported = False
        self.stopped: Exception | None = None
        self.last: tuple[tuple[Any, ...], Mapping[str, Any]] | None = None
        self._run = run

    def report(self, *outputs: Any, **options: Any) -> None:
        """Report as `TrainingRun.report` does, with the same exceptions."""
        self.reported = True
        if options["progress"] == 1.0:
            self.last = outputs, options
            return
        try:
            self._run.report(*outputs, **options)
        except Exception as error:
            self.stopped = error
            raise

    def for_child(self) -> Callable[..., None]:
        """Return a function that one child process, forked later, calls instead of `report`."""
        here, there = Pipe()

        def serve() -> None:
            with suppress(EOFError):  # no process has the other end
                while True:
                    outputs, options = pickle.loads(here.recv_bytes())
                    with suppress(Exception):  # in `stopped`; the child raises it
                        self.report(*outputs, **options)
                    here.send_bytes(pickle.dumps(self.stopped))

        def report(*outputs: Any, **options: Any) -> None:
            there.send_bytes(pickle.dumps((outputs, options)))
            stopped = pickle.loads(there.recv_bytes())
            if stopped is not None:
                raise stopped

        Thread(target=serve, daemon=True).start()
        return report


def forks(trainer: Any) -> bool:
    """Return whether the trainer forks its ranks; raises ValueError if it starts them otherwise."""
    environment: Any = getattr(trainer.strategy, "cluster_environment", None)
    if trainer.world_size == 1 or environment.creates_processes_externally:
        return False
    if not trainer.strategy.launcher.is_interactive_compatible:
        raise ValueError(
            'Trainer.strategy starts other programs; it must be "ddp_fork", or torchrun must start '
            "the processes"
        )
    return True


def gathered(outputs: Outputs, trainer: Any) -> Outputs:
    """Return the outputs of all ranks in the order of the dataset, each example once."""
    loader = trainer.val_dataloaders
    if trainer.world_size == 1 or not isinstance(loader.sampler, DistributedSampler):
        return outputs
    parts: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(parts, tuple(outputs))
    # The sampler gives rank r the examples r, r + ranks, …, and repeats some at the end.
    examples = torch.cat(
        [
            (torch.arange(len(labels)) if groups is None else groups) * len(parts) + rank
            for rank, (_, labels, groups) in enumerate(parts)
        ]
    )
    order = examples.argsort(stable=True)
    order = order[examples[order] < len(loader.dataset)]
    logits, labels = (torch.cat([part[i] for part in parts])[order] for i in (0, 1))
    return Outputs(logits, labels, None if outputs.groups is None else examples[order])
