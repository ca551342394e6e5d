"""The trainer of a function on several ranks: starts them, passes their reports on, ends them."""

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch.distributed
from torch import multiprocessing

from sweeper.trainers import system
from sweeper.trainers.server import unsafe_fork
from sweeper.training.directory import prepare_directory
from sweeper.training.distributed.rank import HOST, RankedFunction, run_rank
from sweeper.training.failures import TrainingFailed, training_failure
from sweeper.training.messages import FromTrainer, Reply, Report, Start, ToTrainer, TrainingEnd
from sweeper.training.reporting import STOPS, Exchange
from sweeper.training.scripts.ranks import Ranks
from sweeper.training.scripts.signals import die_of

POLL_SECONDS: Final = 0.05
# After rank 0 has ended, the other ranks have this time to end.
END_SECONDS: float = 10.0


class DistributedTrainer:
    """Calls the user's training function on several ranks, once per run.

    `load` returns the function in a process that was forked, and `import_again` in one that was
    started where fork is not safe.
    """

    def __init__(
        self,
        load: Callable[[], RankedFunction],
        import_again: Callable[[], RankedFunction],
        ranks: int,
    ) -> None:
        self._load, self._import_again, self._ranks = load, import_again, ranks

    def train(self, message: ToTrainer, exchange: Exchange, *, at_once: int = 1) -> None:
        """Do the runs of a message and the runs that are started by the answers."""
        waiting = list(message.starts)
        while waiting:
            run = _DistributedRun(waiting.pop(0), exchange)
            ending = run.train(self._start)
            waiting += exchange(FromTrainer(endings=[ending])).starts

    def _start(self, socket: str) -> Sequence[Any]:
        """Start the processes of all ranks."""
        fork = not unsafe_fork()
        load = self._load if fork else self._import_again
        started = multiprocessing.start_processes(  # type: ignore[attr-defined, no-untyped-call]
            run_rank,
            (self._ranks, socket, load),
            self._ranks,
            join=False,
            start_method="fork" if fork else "spawn",
        )
        processes: Sequence[Any] = started.processes
        return processes


class _DistributedRun:
    """One training run on several ranks."""

    def __init__(self, start: Start, exchange: Exchange) -> None:
        self._start, self._exchange = start, exchange
        self._last: Report | None = None
        self._stopped = False
        self._store: Any = None

    def train(self, start_ranks: Callable[[str], Sequence[Any]]) -> TrainingEnd:
        """Start the ranks, follow them until they end, and return the end of the run."""
        start = self._start
        try:
            if start.directory is not None:
                directory = Path(start.directory)
                prepare_directory(directory, start.identity, first_claim=start.claim == 1)
            with Ranks(Path(start.socket), self._begin, self._on_report) as ranks:
                processes = start_ranks(start.socket)
                try:
                    # After the fork: the store has a thread.
                    self._store = torch.distributed.TCPStore(  # type: ignore[attr-defined]
                        HOST, 0, is_master=True, wait_for_workers=False
                    )
                    self._follow(ranks, processes)
                    return self._ending(ranks, [process.exitcode for process in processes])
                finally:
                    _kill(processes)
                    self._store = None
        except Exception as error:
            failed = training_failure(error, torch.device("cpu"))
            return self._failed(str(failed), failed.cause, failed.problem)

    def _begin(self) -> Mapping[str, Any]:
        """Return what a rank needs."""
        assert self._store is not None
        plain = ToTrainer(starts=[self._start]).to_dict()["starts"][0]
        return {"start": plain, "port": self._store.port}

    def _on_report(self, message: FromTrainer) -> ToTrainer:
        """Pass a report of rank 0 on to the worker."""
        answer = self._exchange(message)
        self._last = message.reports[0]
        reply = answer.replies.get(self._last.key, Reply("drop"))
        self._stopped = reply.action in STOPS
        return ToTrainer({self._last.key: reply})

    def _follow(self, ranks: Ranks, processes: Sequence[Any]) -> None:
        """Answer the ranks until all have ended, one has failed, or rank 0 ended long ago."""
        until = None
        while True:
            ranks.serve(POLL_SECONDS)
            codes = [process.exitcode for process in processes]
            if any(codes) or None not in codes:
                ranks.drain()
                return
            if ranks.ending is not None and until is None:
                until = time.monotonic() + END_SECONDS
            if until is not None and time.monotonic() > until:
                return

    def _ending(self, ranks: Ranks, codes: Sequence[int | None]) -> TrainingEnd:
        if self._stopped:
            return ranks.ending or self._ended("stopped")
        # A rank that lost its peer may abort, so another signal is more likely to be the cause.
        signals = sorted((-code for code in codes if code and code < 0), key=_is_abort)
        if signals:
            die_of(signals[0])
        failed_ranks = {rank for rank, _ in ranks.failures}
        for rank, code in enumerate(codes):
            if code and rank not in failed_ranks:  # the others failed because they lost it
                raise _exited(rank, code)
        if ranks.failures:
            rank, failed = ranks.failures[0]
            if rank == 0:
                return failed
            return self._failed(
                f"rank {rank}: {failed.failure}", failed.cause, f"rank: {failed.problem}"
            )
        if ranks.ending is not None:
            return ranks.ending
        raise _exited(0, 0)

    def _failed(self, failure: str, cause: Any, problem: str) -> TrainingEnd:
        return replace(self._ended("failed"), failure=failure, cause=cause, problem=problem)

    def _ended(self, state: Any) -> TrainingEnd:
        seconds = 0.0 if self._last is None else self._last.seconds
        return TrainingEnd(self._start.key, state, self._last, seconds)


def _exited(rank: int, status: int) -> TrainingFailed:
    return TrainingFailed(
        f"rank {rank} exited with status {status} before training was finished; see its output for "
        "the reason",
        "exited",
    )


def _is_abort(number: int) -> bool:
    return number == signal.SIGABRT


def _kill(processes: Sequence[Any]) -> None:
    """Kill the ranks and all of their child processes."""
    running = [process for process in processes if process.exitcode is None]
    below = [child for process in running for child in system.tree_of(process.pid)]
    for process in below:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    for process in processes:
        process.join()
