"""The requests that a trainer process gets from its worker."""

from dataclasses import replace
from typing import Any, Protocol

from sweeper.errors import SweeperError
from sweeper.training.messages import FromTrainer, Start, ToTrainer
from sweeper.training.reporting import Exchange


class MessageChannel(Protocol):
    """The connection of a trainer process to its worker."""

    def receive(self) -> dict[str, Any]:
        """Wait for a message."""
        ...

    def send(self, message: dict[str, Any]) -> None: ...

    def begin_peak(self) -> None:
        """Forget the peak memory of earlier training runs."""
        ...

    def peak_memory(self) -> int:
        """Return the peak memory of the training runs in bytes."""
        ...


class Trains(Protocol):
    """What a trainer process runs: the code of a study, or its script."""

    def check(self) -> None:
        """Raise `SweeperError` if no trial could run."""
        ...

    def pack_size(self, first: Start, trials: int) -> tuple[int, str]:
        """Return the number of runs to train in one step, and the reason."""
        ...

    def train(self, message: ToTrainer, exchange: Exchange, *, at_once: int) -> None:
        """Do the runs of a message and the runs that are started by the answers."""
        ...


def serve(program: Trains, worker: MessageChannel) -> None:
    """Handle the requests of a worker until it closes the connection."""

    def exchange(message: FromTrainer) -> ToTrainer:
        if message.endings:
            message = replace(message, memory=worker.peak_memory())
        worker.send(message.to_dict())
        return ToTrainer.from_dict(worker.receive())

    while True:
        request = worker.receive()
        match request["do"]:
            case "check":
                worker.send({"problem": _problem(program)})
            case "size":
                size, reason = program.pack_size(
                    Start.from_dict(request["start"]), request["trials"]
                )
                worker.send({"size": size, "reason": reason})
            case "train":
                message = ToTrainer.from_dict(request["message"])
                worker.begin_peak()
                program.train(message, exchange, at_once=request["at_once"])


def _problem(program: Trains) -> str:
    try:
        program.check()
    except SweeperError as error:
        return str(error)
    return ""
