"""The worker's side: the server that imports a study's code, and the slots for its trainers."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from sweeper.errors import SweeperError
from sweeper.trainers import system
from sweeper.trainers.channel import Channel, ChannelClosed, Message

# Keep forks safe: importing NumPy starts no threads, and checking for a GPU does not initialize
# CUDA.
_SAFE_FORK: Final = {"OPENBLAS_NUM_THREADS": "1", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
# The default that sweeper.training.device sets in the zygote. Servers need it too, because they
# take their environment from the worker.
_DEFAULTS: Final = {"MKL_CBWR": "AUTO"}


class RemoteTraceback(Exception):
    """The traceback of an exception in another process, as text."""

    def __str__(self) -> str:
        return "\n" + str(self.args[0])


class ServerEnded(SweeperError):
    """The process that imports the code of a study ended during the import."""


@dataclass(frozen=True)
class TrainerEnd:
    """How a trainer process ended; `status` is its exit code, or minus the signal number.

    `cause` is "timeout" or "memory" if it exceeded a limit, "killed" if the worker killed it,
    "gone" if its keeper ended, and "" if it ended by itself. `peak` is the peak memory of all of
    its processes in bytes, None if it was not measured.
    """

    status: int
    cause: str
    peak: int | None = None


@dataclass(frozen=True)
class TrainerLimits:
    """Limits for one trainer: training time in seconds, and memory in bytes; None: no limit.

    Time spent waiting for replies does not count. With `by_report`, only the time since the last
    reply counts. `memory` covers all processes of the trainer; shared memory counts once.
    """

    seconds: float | None = None
    memory: int | None = None
    by_report: bool = False


NO_LIMITS: Final = TrainerLimits()
# The module that a zygote imports and that trainers run, by name to avoid importing it here.
PROGRAM: Final = "sweeper.tasks.program"
# Environment variables that trainers must not inherit: the database with its password, and settings
# of processes that do not train.
_WORKER_VARIABLES: Final = (
    *("SWEEPER_STORAGE", "SWEEPER_PASSWORD_FILE"),
    *("SWEEPER_PARENT", "SWEEPER_PREPARE", "SWEEPER_PICKLED", "SWEEPER_THREADS_SET"),
)


class Zygote:
    """A process that has imported torch, and from which the servers of studies are forked.

    Start it from a thread that outlives it: until it has imported its program, the kernel kills it
    when that thread ends.
    """

    def __init__(self) -> None:
        self._prepared = False
        self._channel, other = Channel.pair()
        # User code prints to standard error, because another program may read our standard output.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sweeper.trainers.server", str(other.fileno()), PROGRAM],
            pass_fds=[other.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=2,
            env={**_environment(), "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        other.close()

    def prepare(self) -> None:
        """Import what training functions need; raises `ChannelClosed` if the zygote has ended."""
        if not self._prepared:
            self._prepared = True
            self._channel.send({"do": "prepare"})

    def serve(self, descriptor: int) -> None:
        """Fork a server that uses this socket; raises `ChannelClosed` if the zygote has ended."""
        message = {"do": "serve", "environment": _environment(), "folder": os.getcwd()}
        self._channel.send(message, [descriptor])

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the zygote and wait for it; close its servers first."""
        self._channel.close()
        if self.alive and not system.wait_for_end(self._process.pid, 10.0):
            self._process.kill()
        self._process.wait()


def _environment() -> dict[str, str]:
    removed = {*_WORKER_VARIABLES, *os.environ.get("SWEEPER_THREADS_SET", "").split(",")}
    inherited = {name: value for name, value in os.environ.items() if name not in removed}
    return {**_DEFAULTS, **inherited, **_SAFE_FORK}


class _SharedZygote:
    """A zygote that is started on first use, and restarted if it has ended."""

    def __init__(self) -> None:
        self._zygote: Zygote | None = None

    def get(self) -> Zygote:
        if self._zygote is None or not self._zygote.alive:
            self.close()
            self._zygote = Zygote()
        return self._zygote

    def close(self) -> None:
        if self._zygote is not None:
            self._zygote.close()
            self._zygote = None


_shared: list[_SharedZygote] = []


@contextmanager
def shared_zygote(*, start: bool = False, prepare: bool = False) -> Iterator[None]:
    """Fork all servers that are created inside the block from one zygote.

    `start` starts the zygote immediately, and `prepare` also prepares it for training functions.
    """
    zygote = _shared[-1] if _shared else _SharedZygote()
    if start:
        started = zygote.get()
        if prepare:
            started.prepare()
    if _shared:
        yield
        return
    _shared.append(zygote)
    try:
        yield
    finally:
        _shared.remove(zygote)
        zygote.close()


class TrainerServer:
    """The process that imports the code of a study; `close` ends it and its child processes.

    With `trains`, the imports that training functions need are done before the fork.
    """

    def __init__(self, *, trains: bool = False) -> None:
        self._own = None if _shared else Zygote()
        self._channel, other = Channel.pair()
        with suppress(ChannelClosed):  # `load` then raises `ServerEnded`
            zygote = self._own or _shared[-1].get()
            if trains:
                zygote.prepare()
            zygote.serve(other.fileno())
        other.close()

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        return self._channel.open

    def load(
        self, request: Mapping[str, Any], interrupted: Callable[[], object] | None = None
    ) -> Message:
        """Import the code, and return facts about it.

        Raises `SweeperError` if the import fails, `ServerEnded` if the process ends during the
        import, and `Interrupted` when `interrupted` returns true.
        """
        try:
            self._channel.send({"do": "load", "program": PROGRAM, "request": request})
            answer = self._channel.receive(interrupted)
        except ChannelClosed:
            raise ServerEnded(
                "task.use: the process that imported the code ended; see its output above"
            ) from None
        if "refused" in answer:
            raise SweeperError(answer["refused"]) from RemoteTraceback(answer["traceback"])
        facts: Message = answer["facts"]
        return facts

    def slot(self) -> "TrainerSlot":
        """Start a keeper, and return the slot for its trainers."""
        channel, other = Channel.pair()
        with suppress(ChannelClosed):  # the slot then reports that its keeper is gone
            self._channel.send({"do": "keep"}, [other.fileno()])
        other.close()
        return TrainerSlot(channel)

    def close(self) -> None:
        """End the server; close its slots first."""
        self._channel.close()
        if self._own is not None:
            self._own.close()


def start_loaded_server(
    request: Mapping[str, Any],
    *,
    trains: bool = False,
    interrupted: Callable[[], object] | None = None,
) -> tuple[TrainerServer, Message]:
    """Start a server that imports code; return the server and facts about the code.

    Raises the exceptions of `TrainerServer.load`. If the server ends during the import, it is
    started a second time, because it may have been killed from outside.
    """
    try:
        return _load_server(request, trains, interrupted)
    except ServerEnded:
        return _load_server(request, trains, interrupted)


def _load_server(
    request: Mapping[str, Any], trains: bool, interrupted: Callable[[], object] | None
) -> tuple[TrainerServer, Message]:
    server = TrainerServer(trains=trains)
    try:
        return server, server.load(request, interrupted)
    except BaseException:
        server.close()
        raise


class TrainerSlot:
    """A slot, which runs one trainer at a time.

    `keeper` and `trainer` are channels for a selector; `trainer` is None while no trainer runs.
    """

    def __init__(self, keeper: Channel) -> None:
        self.keeper = keeper
        self.trainer: Channel | None = None
        self.output: Path | None = None
        self._process = -1  # pidfd of the keeper

    def start(
        self,
        output: Path,
        limits: TrainerLimits = NO_LIMITS,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Start a trainer.

        Its output is appended to the file `output`, and `environment` is added to its
        environment. Raises `ChannelClosed` if the keeper has ended.
        """
        channel, other = Channel.pair()
        message = {
            "do": "train",
            "output": str(output),
            "environment": dict(environment),
            "limits": asdict(limits),
        }
        self.keeper.send(message, [other.fileno()])
        other.close()
        self.trainer, self.output = channel, output

    def kill(self, cause: str = "killed") -> None:
        """Kill the trainer and its child processes; `ends` reports its end."""
        with suppress(ChannelClosed):  # `ends` reports the trainer's end in this case too
            self.keeper.send({"do": "kill", "cause": cause})

    def finish(self) -> None:
        """Close the channel of the trainer, so that it ends by itself."""
        if self.trainer is not None:
            self.trainer.close()
            self.trainer = None

    def kill_keeper(self) -> None:
        """Kill an unresponsive keeper with its trainer; the cause of the end is then "gone"."""
        if self._process >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process, signal.SIGKILL)

    def ends(self) -> list[TrainerEnd]:
        """Return how trainers ended; call this when a selector reports `keeper` as readable."""
        ends = []
        try:
            for message in self.keeper.read_messages():
                if "keeper" in message:
                    self._process = system.descriptor_of(message["keeper"])
                else:
                    ends.append(TrainerEnd(message["status"], message["cause"], message["peak"]))
        except ChannelClosed:
            ends.append(TrainerEnd(0, "gone"))
        return ends

    def wait(self) -> TrainerEnd:
        """Wait until the trainer ends, and return how it ended."""
        while not (ends := self.ends()):
            pass
        return ends[0]

    def close(self) -> None:
        """End the keeper, which kills the trainer if one is running."""
        self.finish()
        self.keeper.close()
        if self._process >= 0:
            os.close(self._process)
            self._process = -1
