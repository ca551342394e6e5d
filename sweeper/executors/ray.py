"""Workers as the tasks of a Ray cluster.

A task starts the command as a process of its node and waits for it. Ray runs it again elsewhere
where the node is lost; the ticket that its worker held comes back when the lease runs out.
"""

import logging
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Final

from sweeper.errors import SweeperError
from sweeper.executors.base import JobSpec, JobState, Resources, Traits
from sweeper.executors.local import preview, read_log, started

# Of what a command printed, this much comes back with its exit status.
TAIL: Final = 64 * 1024
# Between two looks at the command: Ray interrupts a task between two steps of Python, and does
# not wake one that waits.
LOOK_SECONDS: Final = 0.2
# What a cluster's head may take to answer.
ANSWER_SECONDS: Final = 10.0


def run_command(
    name: str, command: Sequence[str], env: Mapping[str, str], logs: str
) -> tuple[int, str]:
    """Run a command on this node; return its exit status and the end of what it printed.

    Where the task is cancelled, and so interrupted, the command is sent SIGTERM. Texts are all
    that is sent, and all that comes back.
    """
    here = (sys.executable, *command[1:])
    process, output = started(JobSpec(name, here, _logs_here(name, Path(logs)), env))
    while process.poll() is None:
        try:
            time.sleep(LOOK_SECONDS)
        except KeyboardInterrupt:
            process.terminate()
    return process.returncode, read_log(output)[-TAIL:]


def _logs_here(name: str, logs: Path) -> Path:
    """Return the folder for logs, or another where this node cannot have it."""
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(gettempdir()) / "sweeper" / name
    return logs


@dataclass
class RayJob:
    """One task of a cluster."""

    ray: Any = field(repr=False)  # the module
    task: Any  # its ObjectRef
    _ended: tuple[int, str] | None = None

    def state(self) -> JobState:
        """Return where the task stands; one that waits for its resources counts as running."""
        if self._ended is None:
            ready, _ = self.ray.wait([self.task], timeout=0)
            if not ready:
                return JobState.RUNNING
            self._ended = self._result()
        return JobState.SUCCEEDED if self._ended[0] == 0 else JobState.FAILED

    def cancel(self) -> None:
        """Interrupt the task, which sends its command SIGTERM."""
        self.ray.cancel(self.task)

    def kill(self) -> None:
        """Kill the task; its worker finds itself alone and hands its trial back."""
        self.ray.cancel(self.task, force=True)

    def log(self) -> str:
        """Return the end of what an ended task printed; until then it is on its node."""
        return "" if self._ended is None else self._ended[1]

    def _result(self) -> tuple[int, str]:
        try:
            status, said = self.ray.get(self.task)
        except self.ray.exceptions.RayError as error:
            return 1, f"Ray: {type(error).__name__} {str(error).strip()}"
        return status, said


@dataclass
class RayExecutor:
    """Starts tasks in a cluster that runs at an address, or in one of this machine alone."""

    address: str | None = None
    _connected_here: bool = field(default=False, init=False, repr=False)

    @property
    def traits(self) -> Traits:
        """What a launch has to know: a cluster with an address may have many machines."""
        return Traits("ray", most=10_000, machines=self.address is not None)

    def check(self, spec: JobSpec, count: int) -> None:
        """Connect to the cluster, and look whether a node has what a job needs."""
        _check_resources(spec.resources, self._connected().nodes())

    def start(self, spec: JobSpec, count: int) -> Sequence[RayJob]:
        """Start `count` tasks, each as soon as a node has what it needs."""
        ray = self._connected()
        run = ray.remote(run_command).options(
            name=f"sweeper-{spec.name}",
            num_cpus=spec.resources.cpus,
            num_gpus=spec.resources.gpus,
            memory=spec.resources.memory and int(spec.resources.memory * 2**30),
            max_retries=-1,  # a lost node is Ray's to replace; a command that fails is ours
        )
        given = (spec.name, list(spec.command), dict(spec.env), str(spec.logs))
        return [RayJob(ray, run.remote(*given)) for _ in range(count)]

    def preview(self, spec: JobSpec, count: int) -> str:
        """Return the command line."""
        needs = spec.resources
        memory = f", {needs.memory:g} GiB" if needs.memory else ""
        at = self.address or "a cluster of this machine"
        each = f"each with {needs.cpus} CPUs, {needs.gpus:g} GPUs{memory}"
        return preview(spec, count, f"tasks of Ray at {at}, {each}")

    def close(self) -> None:
        """Leave the cluster, if it was entered here; one of this machine alone ends with that."""
        if self._connected_here:
            sys.modules["ray"].shutdown()
            self._connected_here = False

    def _connected(self) -> Any:
        # Ray would otherwise report its use to its makers, and say so.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
        except ImportError:
            raise SweeperError(
                "executor ray: Ray is not installed; pip install 'sweeper[ray]', or take "
                "--executor local"
            ) from None
        if not ray.is_initialized():
            with _readable(self.address):
                if self.address is not None:
                    _check_answers(self.address)
                ray.init(
                    address=self.address or "local",
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    include_dashboard=None if self.address else False,
                )
            self._connected_here = True
        return ray


@contextmanager
def _readable(address: str | None) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SweeperError(
            f"executor ray: no cluster at {address or 'this machine'}: {said}; ray start --head "
            "makes one, and --set address=HOST:PORT names it"
        ) from None


def _check_answers(address: str) -> None:
    """Raise where nobody listens: Ray would try for ten minutes, and print each try."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), ANSWER_SECONDS).close()


def _check_resources(needs: Resources, nodes: Sequence[Mapping[str, Any]]) -> None:
    """Raise where no node could ever run a task: Ray would wait for one without a word."""
    asked = {"CPU": needs.cpus, "GPU": needs.gpus, "memory": (needs.memory or 0) * 2**30}
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    if any(all(has.get(kind, 0) >= n for kind, n in asked.items()) for has in alive):
        return
    has = "; ".join(
        f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs, "
        f"{node.get('memory', 0) / 2**30:.0f} GiB"
        for node in alive
    )
    memory = f", {needs.memory:g} GiB" if needs.memory else ""
    raise SweeperError(
        f"executor ray: no node has the {needs.cpus} CPUs, {needs.gpus:g} GPUs{memory} of "
        f"[resources]; the cluster's have {has}"
    )
