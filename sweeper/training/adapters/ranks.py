"""Reports of Lightning's ranks, which may be forked from the process of the trial."""

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from threading import Thread
from typing import Any

from sweeper.training.run import TrainingRun

# Reports as `TrainingRun.report` does, but returns its exception.
Report = Callable[..., Exception | None]


@contextmanager
def reports_of_ranks(run: TrainingRun, trainer: Any) -> Iterator[Report]:
    """Yield the function with which rank 0 reports, also if the trainer forks it in the block.

    Raises the exception of a report after the block, and ValueError if the trainer starts its ranks
    in another way.
    """
    stopped = list[Exception]()

    def report(*outputs: Any, **options: Any) -> Exception | None:
        try:
            run.report(*outputs, **options)
        except Exception as error:
            stopped.append(error)
        return stopped[-1] if stopped else None

    if _forks(trainer):
        with _forwarded(report) as report_of_child:
            yield report_of_child
    else:
        yield report
    if stopped:
        raise stopped[-1]


@contextmanager
def _forwarded(report: Report) -> Iterator[Report]:
    """Yield a function for a process that is forked in the block; it calls `report` in this one."""
    here, there = Pipe()

    def serve() -> None:
        with suppress(EOFError):  # no process has the other end
            while True:
                outputs, options = pickle.loads(here.recv_bytes())
                here.send_bytes(pickle.dumps(report(*outputs, **options)))

    def report_of_child(*outputs: Any, **options: Any) -> Any:
        there.send_bytes(pickle.dumps((outputs, options)))
        return pickle.loads(there.recv_bytes())

    server = Thread(target=serve, daemon=True)
    server.start()
    try:
        yield report_of_child
    finally:
        there.close()  # the child has ended, so this ends the thread
        server.join()
        here.close()


def _forks(trainer: Any) -> bool:
    environment: Any = getattr(trainer.strategy, "cluster_environment", None)
    if trainer.world_size == 1 or environment.creates_processes_externally:
        return False
    if not trainer.strategy.launcher.is_interactive_compatible:
        raise ValueError(
            'Trainer.strategy starts other programs; it must be "ddp_fork", or torchrun must start '
            "the processes"
        )
    return True
