"""`sweeper.current_run()` in a script: a training run that reports over the supervisor's socket."""

import atexit
import os
import socket
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import torch

from sweeper.errors import SweeperError, TrialPruned, TrialReleased
from sweeper.smoothing import SmoothingLoss
from sweeper.trainers.channel import Channel, ChannelClosed, Interrupted
from sweeper.training.device import environment
from sweeper.training.failures import training_failure
from sweeper.training.labels import Integers, digest_of
from sweeper.training.messages import (
    EVIDENCE,
    FromTrainer,
    Reply,
    Report,
    Start,
    ToTrainer,
    TrainingEnd,
)
from sweeper.training.reporting import FunctionReporter, Reporter, stop_exception
from sweeper.training.run import Evaluation, TrainingRun

# A rank waits this long for the reply to the report of rank 0 with the same number.
REPLY_SECONDS: float = 1800.0
_GONE: Final = "sweeper has interrupted the trial and will resume it later; stop training now"


class Connection:
    """The connection of one process of a script to its supervisor."""

    def __init__(self, path: str) -> None:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(path)
        except OSError as error:
            connection.close()
            raise SweeperError(
                f"sweeper.current_run(): cannot connect to {path} (SWEEPER_SOCKET): {error}; it "
                "exists while sweeper runs the script"
            ) from None
        self._channel = Channel(connection)

    def ask(self, message: dict[str, Any], seconds: float | None = None) -> dict[str, Any]:
        """Send a message and wait for the answer.

        Raises `TrialReleased` if the supervisor is gone, and `Interrupted` after `seconds`.
        """
        until = None if seconds is None else time.monotonic() + seconds
        try:
            self._channel.send(message)
            return self._channel.receive(lambda: until is not None and time.monotonic() > until)
        except ChannelClosed:
            raise TrialReleased(_GONE) from None

    def send(self, message: dict[str, Any]) -> None:
        """Send a message that has no answer."""
        with suppress(ChannelClosed):  # the supervisor was killed
            self._channel.send(message)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def exchange(self, message: FromTrainer) -> ToTrainer:
        """Send a report and return the answer."""
        return ToTrainer.from_dict(self.ask({"do": "report", "message": message.to_dict()}))

    def send_end(self, reporter: Reporter) -> None:
        """Tell the supervisor how the run ends, if this process exits with status 0."""
        ending = FromTrainer(endings=[reporter.training_end()]).to_dict()["endings"][0]
        self.send({"do": "end", "ending": ending})


class Follower:
    """The reports of a rank above 0: it sends nothing, and waits for the reply to rank 0."""

    def __init__(self, connection: Connection, rank: int, reporter: Reporter) -> None:
        self.losses: list[SmoothingLoss] = []
        self._connection, self._rank, self._reporter = connection, rank, reporter
        self._number = 0
        self._stopped: Exception | None = None

    @property
    def reported(self) -> bool:
        """Whether this rank has reported."""
        return self._number > 0

    def training_end(self, error: BaseException | None) -> TrainingEnd:
        """Return the end of the run on this rank."""
        key = self._reporter.start.key
        if error is None or isinstance(error, TrialPruned | TrialReleased):
            return TrainingEnd(key, "complete" if error is None else "stopped")
        failed = training_failure(error, self._reporter.run.device)
        return TrainingEnd(
            key, "failed", failure=str(failed), cause=failed.cause, problem=failed.problem
        )

    def report(self, evaluation: Evaluation) -> None:
        if self._stopped is not None:
            raise self._stopped
        # The same number as on rank 0, which has the same checkpoint.
        before = self._number
        self._number = before + 1 if before else self._reporter.next_number(evaluation.progress)
        message = {"do": "wait", "number": self._number}
        try:
            reply = Reply(**self._connection.ask(message, REPLY_SECONDS))
        except Interrupted:
            raise SweeperError(
                f"rank {self._rank} waited {REPLY_SECONDS:g} s for report {self._number} of rank "
                "0; every rank that calls run.report must call it as often as rank 0"
            ) from None
        self._stopped = stop_exception(reply.action)
        if self._stopped is not None:
            raise self._stopped


class _ScriptReporter(FunctionReporter):
    """Sends the grade, and a digest of the validation labels and their order."""

    def make_report(self, evaluation: object) -> Report:
        report = super().make_report(evaluation)
        if not report.environment:
            return report
        return replace(report, environment={**report.environment, EVIDENCE: "scored"})

    def digest_of(self, labels: Integers) -> str:
        return digest_of(labels)


def connected_run(path: str) -> TrainingRun:
    """Return the training run of the script that this process belongs to.

    `path` is the socket of its supervisor. The environment variable RANK, which torchrun sets, is
    the rank of this process. Raises `SweeperError` if the socket does not exist.
    """
    rank = int(os.environ.get("RANK") or 0)
    _hide_tracebacks()
    connection = Connection(path)
    answer = connection.ask({"do": "begin"})
    start, folder = Start.from_dict(answer["start"]), Path(answer["folder"])

    def environment_of(device: torch.device) -> dict[str, str]:
        return environment(device, folder)

    reporter = _ScriptReporter(
        start, answer["options"], environment_of, connection.exchange, checks_state=True
    )
    atexit.register(_end, connection, reporter, os.getpid())
    if rank:
        return replace(reporter.run, reporter=Follower(connection, rank, reporter))
    reporter.add_seconds(answer["seconds"])
    reporter.begin()
    return reporter.run


def _hide_tracebacks() -> None:
    """Print one line if the script ends because its trial has ended: that is not an error."""
    print_exception = sys.excepthook

    def excepthook(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if isinstance(error, TrialPruned | TrialReleased):
            print(f"sweeper: {error}", file=sys.stderr)
        else:
            print_exception(kind, error, trace)

    sys.excepthook = excepthook


def _end(connection: Connection, reporter: Reporter, process: int) -> None:
    if os.getpid() == process:
        if reporter.reported or reporter.failed:  # which are false on ranks above 0
            connection.send_end(reporter)
        connection.close()
