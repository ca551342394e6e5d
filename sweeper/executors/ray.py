"""Workers as tasks in a Ray cluster.

A task starts the command as a process on its node and waits for it. If the node is lost, Ray runs
the task on another node, and the ticket of the lost worker becomes free when its lease expires.
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
from sweeper.executors.local import preview, read_log, start_process
from sweeper.extras import require

# Number of characters of a command's output that are returned with its exit status.
TAIL: Final = 64 * 1024
# Interval between checks of the command. Ray can interrupt a task only between Python instructions,
# so a task must not block.
POLL_SECONDS: Final = 0.2
# Timeout for connecting to the head of a cluster.
ANSWER_SECONDS: Final = 10.0


def run_command(
    name: str, command: Sequence[str], env: Mapping[str, str], logs: str
) -> tuple[int, str]:
    """Run a command on this node; return its exit status and the last part of its output.

    Canceling the task interrupts it, and the command then gets SIGTERM. Arguments and results are
    plain texts and numbers, so that Ray can send them to nodes.
    """
    local_command = (sys.executable, *command[1:])
    process, output = start_process(
        JobSpec(name, local_command, _log_folder(name, Path(logs)), env)
    )
    while process.poll() is None:
        try:
            time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            process.terminate()
    return process.returncode, read_log(output)[-TAIL:]


def _log_folder(name: str, logs: Path) -> Path:
    """Return the folder for logs, or a temporary one if it cannot be created on this node."""
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(gettempdir()) / "sweeper" / name
    return logs


@dataclass
class RayJob:
    """One task in a cluster."""

    ray: Any = field(repr=False)  # the module
    task: Any  # its ObjectRef
    _ended: tuple[int, str] | None = None

    def state(self) -> JobState:
        """Return the state; a task that waits for resources counts as running."""
        if self._ended is None:
            ready, _ = self.ray.wait([self.task], timeout=0)
            if not ready:
                return JobState.RUNNING
            self._ended = self._result()
        return JobState.SUCCEEDED if self._ended[0] == 0 else JobState.FAILED

    def cancel(self) -> None:
        """Interrupt the task, which sends SIGTERM to its command."""
        self.ray.cancel(self.task)

    def kill(self) -> None:
        """Kill the task; its worker notices this and releases its trial."""
        self.ray.cancel(self.task, force=True)

    def log(self) -> str:
        """Return the last part of an ended task's output; "" while it is running."""
        return "" if self._ended is None else self._ended[1]

    def _result(self) -> tuple[int, str]:
        try:
            status, output = self.ray.get(self.task)
        except self.ray.exceptions.RayError as error:
            return 1, f"Ray: {type(error).__name__} {str(error).strip()}"
        return status, output


@dataclass
class RayExecutor:
    """Starts tasks in the cluster at an address, or in a new cluster on this machine."""

    address: str | None = None
    _connected_here: bool = field(default=False, init=False, repr=False)

    @property
    def traits(self) -> Traits:
        """Properties; a cluster with an address may have several machines."""
        return Traits("ray", max_jobs=10_000, multiple_machines=self.address is not None)

    def check(self, spec: JobSpec, count: int) -> None:
        """Connect to the cluster, and check that a node has the resources of a job."""
        _check_resources(spec.resources, self._connected().nodes())

    def start(self, spec: JobSpec, count: int) -> Sequence[RayJob]:
        """Submit `count` tasks; each starts when a node has enough free resources."""
        ray = self._connected()
        run = ray.remote(run_command).options(
            name=f"sweeper-{spec.name}",
            num_cpus=spec.resources.cpus,
            num_gpus=spec.resources.gpus,
            memory=spec.resources.memory and int(spec.resources.memory * 2**30),
            max_retries=-1,  # Ray only retries lost nodes; the launcher handles failed commands
        )
        arguments = (spec.name, list(spec.command), dict(spec.env), str(spec.logs))
        return [RayJob(ray, run.remote(*arguments)) for _ in range(count)]

    def preview(self, spec: JobSpec, count: int) -> str:
        """Return the command line, the resources and the names of added environment variables."""
        needs = spec.resources
        memory = f", {needs.memory:g} GiB" if needs.memory else ""
        cluster = self.address or "a cluster on this machine"
        resources = f"each with {needs.cpus} CPUs, {needs.gpus:g} GPUs{memory}"
        tasks = "1 Ray task" if count == 1 else f"{count} Ray tasks"
        return preview(spec, f"{tasks} at {cluster}, {resources}")

    def close(self) -> None:
        """Disconnect from the cluster, if this object connected; a local cluster then ends."""
        if self._connected_here:
            sys.modules["ray"].shutdown()
            self._connected_here = False

    def _connected(self) -> Any:
        # Disables Ray's usage reports and their message.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        require("ray", "executor ray")
        import ray

        if not ray.is_initialized():
            with _readable_ray_errors(self.address):
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
def _readable_ray_errors(address: str | None) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        message = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise SweeperError(
            f"executor ray: no cluster at {address or 'this machine'}: {message}; start one with "
            "ray start --head, and give its address with --set address=HOST:PORT"
        ) from None


def _check_answers(address: str) -> None:
    """Raise `OSError` if nobody listens at the address: Ray would retry for ten minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), ANSWER_SECONDS).close()


def _check_resources(needs: Resources, nodes: Sequence[Mapping[str, Any]]) -> None:
    """Raise `SweeperError` if no node could run a task: Ray would wait silently."""
    requested = {"CPU": needs.cpus, "GPU": needs.gpus, "memory": (needs.memory or 0) * 2**30}
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    if any(all(node.get(kind, 0) >= n for kind, n in requested.items()) for node in alive):
        return
    available = "; ".join(
        f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs, "
        f"{node.get('memory', 0) / 2**30:.0f} GiB"
        for node in alive
    )
    memory = f", {needs.memory:g} GiB" if needs.memory else ""
    raise SweeperError(
        f"executor ray: no node has the {needs.cpus} CPUs, {needs.gpus:g} GPUs{memory} of "
        f"[resources]; the nodes have {available}"
    )
