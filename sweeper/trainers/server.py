"""Servers, which import the code of a study once and fork the processes that train it.

`python -m sweeper.trainers.server DESCRIPTOR PROGRAM` runs the zygote of a worker. It imports the
program, which takes a second, and forks a server for each study. A server forks one keeper per
slot, and a keeper forks one trainer at a time. All of them end when the worker ends.
"""

import gc
import importlib
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NoReturn

from sweeper.trainers import system
from sweeper.trainers.channel import Channel, ChannelClosed, Message
from sweeper.trainers.keeper import run_keeper
from sweeper.trainers.process import finish, forget_exit_functions, hide_program

# After the worker has ended, child processes have this time to end by themselves.
END_SECONDS: Final = 2.0


class _ForkingProcess:
    """A process that forks child processes when the worker requests it over a channel.

    It adopts orphaned descendants and kills them.
    """

    def __init__(self, worker: Channel) -> None:
        self._worker = worker
        self._forked = set[int]()
        self._spared = frozenset[int]()
        self._wakeup, self._woken = socket.socketpair()
        self._selector = selectors.DefaultSelector()

    def run(self) -> NoReturn:
        """Serve until the worker closes its end, and then end all child processes."""
        for end in (self._wakeup, self._woken):
            end.setblocking(False)
        signal.set_wakeup_fd(self._woken.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, system.ignore)
        self._selector.register(self._worker, selectors.EVENT_READ)
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        with suppress(ChannelClosed):
            while True:
                for key, _ in self._selector.select():
                    if key.fileobj is self._wakeup:
                        self._wakeup.recv(4096)
                    else:
                        for message in self._worker.read_messages():
                            self.handle(message)
                self._reap()
        signal.set_wakeup_fd(-1)
        # Child processes notice the end of the worker and clean up, except while they import code.
        deadline = time.monotonic() + END_SECONDS
        for process in self._forked:
            with suppress(ChildProcessError):
                system.wait_for_end(process, max(0.0, deadline - time.monotonic()))
        system.kill_children()
        finish(0)

    def handle(self, message: Message) -> None:
        """Handle a message of the worker."""
        raise NotImplementedError

    def fork(self, work: Callable[[Channel], None]) -> None:
        """Fork a process that calls `work` with the socket received with the message."""
        descriptor = self._worker.next_descriptor()
        process = os.fork()
        if process:
            os.close(descriptor)
            self._forked.add(process)
            return
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._worker.close()
            self._selector.close()
            self._wakeup.close()
            self._woken.close()
            forget_exit_functions()
            work(Channel(socket.socket(fileno=descriptor)))
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)

    def _reap(self) -> None:
        """Reap ended child processes, and kill the processes that they leave behind."""
        while True:
            try:
                ended, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not ended:
                break
            self._forked.discard(ended)
        system.kill_children(frozenset(self._forked) | self._spared)


class _Zygote(_ForkingProcess):
    """The process from which all servers of a worker are forked."""

    def __init__(self, worker: Channel, program: Any) -> None:
        super().__init__(worker)
        self._program = program

    def handle(self, message: Message) -> None:
        match message["do"]:
            case "prepare":
                self._program.prepare()
            case "serve":
                self.fork(lambda worker: _serve(worker, message))


def _serve(worker: Channel, message: Message) -> None:
    os.environ.clear()
    os.environ.update(message["environment"])
    with suppress(OSError):
        os.chdir(message["folder"])
    os.setsid()
    system.adopt_orphans()
    _Server(worker).run()


class _Server(_ForkingProcess):
    """The server of a study, which loads the study's code."""

    def __init__(self, worker: Channel) -> None:
        super().__init__(worker)
        self._program: Any = None
        self._request: Message = {}
        self._unsafe = ""

    def handle(self, message: Message) -> None:
        match message["do"]:
            case "load":
                self._worker.send(self._load(message))
            case "keep":
                self.fork(self._keep)

    def _load(self, request: Message) -> Message:
        # During the import nobody reads the socket, so the kernel must signal the worker's end.
        system.die_with_parent(signal.SIGKILL)
        try:
            loaded = load(request)
        except CodeRefused as error:
            trace = "".join(traceback.format_exception(error.__cause__))
            return {"refused": str(error), "traceback": trace}
        finally:
            system.die_with_parent(0)
        self._program, self._request = loaded, request
        # Otherwise a garbage collection in each trainer would copy all shared memory pages.
        gc.collect()
        gc.freeze()
        # Processes that the code started during the import.
        self._spared = frozenset(system.children_of(os.getpid()))
        self._unsafe = unsafe_fork()
        return {"facts": {**loaded.facts.to_dict(), "unsafe_fork": self._unsafe}}

    def _keep(self, worker: Channel) -> None:
        program = None if self._unsafe else self._program
        run_keeper(worker, program, self._request)


class CodeRefused(Exception):
    """The code of a study cannot be loaded; the text says why."""


def load(request: Message) -> Any:
    """Load the code of a study in this process; raises `CodeRefused`."""
    from sweeper.errors import SweeperError

    program = importlib.import_module(request["program"])
    try:
        return program.load(request["request"])
    except SweeperError as error:
        raise CodeRefused(str(error)) from error


def unsafe_fork() -> str:
    """Return why forking this process is not safe, or "" if it is."""
    if not system.LINUX:
        return f"on {sys.platform}, torch does not work after a fork"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return "importing the code has initialized CUDA"
    threads = system.count_threads()
    return f"importing the code has started {threads - 1} threads" if threads > 1 else ""


def main() -> NoReturn:
    """Run the zygote: fork a server per request of the worker, until the worker ends."""
    worker = Channel(socket.socket(fileno=int(sys.argv[1])))
    program = sys.argv[2]
    system.on_job_signals(system.ignore)
    system.adopt_orphans()
    os.environ.pop("PYTHONUNBUFFERED", None)
    hide_program()
    system.die_with_parent(signal.SIGKILL)
    loaded = importlib.import_module(program)
    system.die_with_parent(0)
    _Zygote(worker, loaded).run()


if __name__ == "__main__":
    main()
