"""One rank: a process that calls the training function in a process group."""

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NoReturn

import torch

from sweeper.trainers import system
from sweeper.trainers.process import finish, forget_exit_functions
from sweeper.training.failures import training_failure
from sweeper.training.messages import FromTrainer, Start, ToTrainer, TrainingEnd
from sweeper.training.reporting import FunctionReporter, Reporter
from sweeper.training.run import TrainingRun, running
from sweeper.training.scripts.client import Connection, Follower
from sweeper.training.trainer import Environment, call_function

HOST = "127.0.0.1"


@dataclass(frozen=True)
class RankedFunction:
    """A training function for ranks, loaded in this process.

    `new_sources` returns the digests of files imported since its last call.
    """

    function: Callable[[TrainingRun], object]
    options: Mapping[str, Any]
    environment: Environment
    new_sources: Callable[[], Mapping[str, str]]
    threads: int = 1


def run_rank(rank: int, size: int, socket: str, load: Callable[[], RankedFunction]) -> NoReturn:
    """Do one training run as one of its ranks, and exit."""
    system.die_with_parent(signal.SIGKILL)
    system.on_job_signals(signal.SIG_DFL)
    forget_exit_functions()
    connection = Connection(socket)
    answer = connection.ask({"do": "begin"})
    os.environ.update(environment_of(rank, size, answer["port"]))
    status = 1
    try:
        loaded = load()
        torch.set_num_threads(loaded.threads)
        status = _train(rank, Start.from_dict(answer["start"]), connection, loaded)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        finish(status)


def environment_of(rank: int, size: int, port: int) -> dict[str, str]:
    """Return the environment variables that torchrun sets for a rank on one machine."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "GROUP_RANK": "0",
        "MASTER_ADDR": HOST,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "sweeper",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        # The store is in the trainer, so that its port is known to be free.
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }


def _train(rank: int, start: Start, connection: Connection, loaded: RankedFunction) -> int:
    """Do the run and return the exit status of this process."""
    on_cpu = start.device == "cpu"
    start = replace(start, device="cpu" if on_cpu else f"cuda:{rank}")

    def exchange(message: FromTrainer) -> ToTrainer:
        return connection.exchange(replace(message, sources=loaded.new_sources()))

    try:
        # Before the process group exists, so that no rank resumes from a file of this attempt.
        reporter = FunctionReporter(
            start, loaded.options, loaded.environment, exchange, checks_state=True
        )
        _join(reporter.run.device)
        run: TrainingRun = reporter.run
        reports: Reporter | Follower = reporter
        if rank:
            reports = Follower(connection, rank, reporter)
            run = replace(run, reporter=reports)
        else:
            reporter.begin()
    except Exception as error:
        _send(connection, "failed", rank, _not_begun(start, error))
        return 1
    failure = None
    try:
        with running(run):
            call_function(partial(loaded.function, run), reports, must_report=rank == 0)
    except BaseException as error:
        failure = error
    ending = reports.training_end(failure)
    _send(connection, "failed" if ending.state == "failed" else "end", rank, ending)
    if ending.state == "complete":
        torch.distributed.destroy_process_group()
    return int(ending.state == "failed")


def _join(device: torch.device) -> None:
    """Create the process group of all ranks."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.distributed.init_process_group("nccl", device_id=device)
    else:
        torch.distributed.init_process_group("gloo")


def _send(connection: Connection, what: str, rank: int, ending: TrainingEnd) -> None:
    plain = FromTrainer(endings=[ending]).to_dict()["endings"][0]
    connection.send({"do": what, "rank": rank, "at": time.monotonic(), "ending": plain})


def _not_begun(start: Start, error: Exception) -> TrainingEnd:
    failed = training_failure(error, torch.device("cpu"))
    return TrainingEnd(start.key, "failed", failure=str(failed), cause=failed.cause)
