"""Workers as the jobs of an array in Slurm."""

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar, Final

from sweeper.errors import SweeperError
from sweeper.executors.base import JobSpec, JobState, Traits
from sweeper.executors.local import read_log
from sweeper.executors.templates import OURS, Template
from sweeper.executors.tools import Look, Refused, run_tool

TEMPLATE: Final = OURS / "slurm.sh.j2"

# https://slurm.schedmd.com/squeue.html#SECTION_JOB-STATE-CODES; those not here have ended badly.
_WAITING: Final = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD")
_RUNNING: Final = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT")
_STATES: Final = {
    **dict.fromkeys(_WAITING, JobState.WAITING),
    **dict.fromkeys(_RUNNING, JobState.RUNNING),
    "COMPLETED": JobState.SUCCEEDED,
}

_NUMBER: Final = '"${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}.log"'

_tool = partial(run_tool, engine="slurm")


@dataclass(frozen=True)
class SlurmJob:
    """One job of an array."""

    id: str
    logs: Path
    look: Look[Mapping[str, str]] = field(repr=False)

    def state(self) -> JobState:
        """Return where the job stands; one that Slurm knows nothing of has been lost."""
        words = self.look()
        if words is None:
            return JobState.WAITING
        return _STATES.get(words.get(self.id, "").partition(" ")[0], JobState.FAILED)

    def cancel(self) -> None:
        """Have Slurm send SIGTERM, and SIGKILL after its KillWait; a waiting job never runs."""
        if not self.state().ended:
            self._scancel()

    def kill(self) -> None:
        """Have Slurm send SIGKILL."""
        self._scancel("--signal=KILL", "--batch")

    def log(self) -> str:
        """Return what the job printed so far, or what Slurm says of one that printed nothing."""
        words = (self.look() or {}).get(self.id, "it knows nothing of the job any more")
        return read_log(self.logs / f"slurm-{self.id}.log") or f"Slurm: {words}"

    def _scancel(self, *options: str) -> None:
        with suppress(Refused):  # it has ended meanwhile
            _tool(["scancel", *options, self.id])


@dataclass(frozen=True)
class SlurmExecutor:
    """Submits an array job, rendered from a template; Slurm's commands are on this machine."""

    template: Template
    traits: ClassVar[Traits] = Traits("slurm", most=10_000, machines=True, survives=True)

    def check(self, spec: JobSpec, count: int) -> None:
        """Have Slurm say whether it would take the array."""
        _tool([*_sbatch(spec, count), "--test-only"], text=self._script(spec))

    def start(self, spec: JobSpec, count: int) -> Sequence[SlurmJob]:
        """Submit an array of `count` jobs."""
        spec.logs.mkdir(parents=True, exist_ok=True)
        said = _tool(_sbatch(spec, count), text=self._script(spec), env=spec.env)
        array = said.strip().partition(";")[0]  # ID or ID;CLUSTER
        look = Look(partial(_words, array))
        return [SlurmJob(f"{array}_{index}", spec.logs, look) for index in range(count)]

    def preview(self, spec: JobSpec, count: int) -> str:
        """Return the command and the script that it is given."""
        return f"{shlex.join(_sbatch(spec, count))} << 'END'\n{self._script(spec)}END\n"

    def close(self) -> None:
        """Do nothing."""

    def _script(self, spec: JobSpec) -> str:
        needs = spec.resources
        if needs.gpus != int(needs.gpus):
            raise SweeperError(
                f"resources.gpus: {needs.gpus:g}; Slurm gives whole GPUs to a job, or none"
            )
        return self.template.render(
            needed=["command", "log"],
            command=shlex.join(spec.command),
            log=shlex.quote(f"{spec.logs}/slurm-") + _NUMBER,
            cpus=needs.cpus,
            gpus=int(needs.gpus),
            memory=needs.mebibytes,
        )


def _sbatch(spec: JobSpec, count: int) -> list[str]:
    # What stands here goes before what the script says. The script says where its output goes: in
    # --output, % and \ of a folder's name would mean something else.
    return [
        "sbatch",
        "--parsable",
        f"--job-name=sweeper-{spec.name}",
        f"--array=0-{count - 1}",
        "--chdir=/",
        "--output=/dev/null",
        "--export=ALL",
    ]


def _words(array: str) -> Mapping[str, str]:
    """Return state and reason of each job of an array that Slurm knows, minutes after its end."""
    options = ["--array", "--states=all", "--noheader", "--format=%i %T (%r)"]
    try:
        said = _tool(["squeue", f"--jobs={array}", *options])
    except Refused as error:
        if "Invalid job id" in str(error):
            return {}
        raise
    lines = (line.strip().partition(" ") for line in said.splitlines())
    return {job: words for job, _, words in lines}
