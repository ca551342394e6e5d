"""Workers as the jobs of a Slurm array."""

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar, Final

from sweeper.executors.base import JobSpec, JobState, Traits
from sweeper.executors.local import read_log
from sweeper.executors.templates import TEMPLATES, Template
from sweeper.executors.tools import CommandFailed, PolledStatus, run_tool

TEMPLATE: Final = TEMPLATES / "slurm.sh.j2"

# https://slurm.schedmd.com/squeue.html#SECTION_JOB-STATE-CODES; all other states mean failed.
_WAITING: Final = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD")
_RUNNING: Final = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT")
_STATES: Final = {
    **dict.fromkeys(_WAITING, JobState.WAITING),
    **dict.fromkeys(_RUNNING, JobState.RUNNING),
    "COMPLETED": JobState.SUCCEEDED,
}

_LOG_NAME: Final = '"${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}.log"'

_tool = partial(run_tool, executor="slurm")


@dataclass(frozen=True)
class SlurmJob:
    id: str
    logs: Path
    states: PolledStatus[Mapping[str, str]] = field(repr=False)  # of all jobs of the array

    def state(self) -> JobState:
        """Return the state of the job; a job that Slurm does not list has failed."""
        states = self.states()
        if states is None:
            return JobState.WAITING
        return _STATES.get(states.get(self.id, "").partition(" ")[0], JobState.FAILED)

    def cancel(self) -> None:
        """Let Slurm send SIGTERM, and SIGKILL after its KillWait; a queued job is removed."""
        if not self.state().ended:
            self._scancel()

    def kill(self) -> None:
        """Let Slurm send SIGKILL."""
        self._scancel("--signal=KILL", "--batch")

    def log(self) -> str:
        """Return the output of the job so far, or its Slurm state if there is no output."""
        state = (self.states() or {}).get(self.id, "the job is unknown")
        return read_log(self.logs / f"slurm-{self.id}.log") or f"Slurm: {state}"

    def _scancel(self, *options: str) -> None:
        with suppress(CommandFailed):  # the job has already ended
            _tool(["scancel", *options, self.id])


@dataclass(frozen=True)
class SlurmExecutor:
    """Submits a job array, rendered from a template, with the Slurm commands on this machine."""

    template: Template
    traits: ClassVar[Traits] = Traits(
        "slurm", max_jobs=10_000, multiple_machines=True, outlives_parent=True
    )

    def check(self, spec: JobSpec, count: int) -> None:
        """Check with a test run of sbatch that Slurm accepts the array."""
        _tool([*_sbatch(spec, count), "--test-only"], text=self._script(spec))

    def start(self, spec: JobSpec, count: int) -> Sequence[SlurmJob]:
        """Submit an array of `count` jobs, and return one job per element."""
        spec.logs.mkdir(parents=True, exist_ok=True)
        output = _tool(_sbatch(spec, count), text=self._script(spec), env=spec.env)
        array = output.strip().partition(";")[0]  # ID or ID;CLUSTER
        states = PolledStatus(partial(_query_states, array))
        return [SlurmJob(f"{array}_{index}", spec.logs, states) for index in range(count)]

    def preview(self, spec: JobSpec, count: int) -> str:
        """Return the sbatch command and its script."""
        return f"{shlex.join(_sbatch(spec, count))} << 'END'\n{self._script(spec)}END\n"

    def close(self) -> None:
        """Do nothing: there are no resources to release."""

    def _script(self, spec: JobSpec) -> str:
        needs = spec.resources
        return self.template.render(
            needed=["command", "log"],
            command=shlex.join(spec.command),
            log=shlex.quote(f"{spec.logs}/slurm-") + _LOG_NAME,
            cpus=needs.cpus,
            gpus=needs.whole_gpus("Slurm"),
            memory=needs.mebibytes,
        )


def _sbatch(spec: JobSpec, count: int) -> list[str]:
    # These options override those in the script. The script redirects its output itself, because
    # --output interprets % and \ in the name of the folder.
    return [
        "sbatch",
        "--parsable",
        f"--job-name=sweeper-{spec.name}",
        f"--array=0-{count - 1}",
        "--chdir=/",
        "--output=/dev/null",
        "--export=ALL",
    ]


def _query_states(array: str) -> Mapping[str, str]:
    """Return `STATE (REASON)` by job id; Slurm forgets a job some minutes after its end."""
    options = ["--array", "--states=all", "--noheader", "--format=%i %T (%r)"]
    try:
        output = _tool(["squeue", f"--jobs={array}", *options])
    except CommandFailed as error:
        if "Invalid job id" in str(error):
            return {}
        raise
    lines = (line.strip().partition(" ") for line in output.splitlines())
    return {job: state for job, _, state in lines}
