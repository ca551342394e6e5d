"""The table [resources] of a study file: what a training run gets."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from sweeper import limits
from sweeper.study.schema_errors import KeyErrors
from sweeper.study.section import Section

if TYPE_CHECKING:
    from sweeper.study.spec import StudySpec, TaskSection


class ResourcesSection(Section):
    """Resources of training runs; a job of ray, slurm or kubernetes requests them."""

    cpus: Annotated[
        int | None,
        Field(
            ge=1,
            le=limits.CORES,
            description="CPU cores of a job; default: task.threads for each rank.",
        ),
    ] = None
    gpus: Annotated[
        float,
        Field(
            ge=0,
            le=limits.GPUS,
            description="GPUs per training run: 0.5 shares a GPU between two, and 2 trains a "
            "function on two GPUs under torch.distributed; 0: one on a machine with GPUs.",
        ),
    ] = 0
    ranks: Annotated[
        int | None,
        Field(
            ge=1,
            le=limits.GPUS,
            description="Processes of a training function under torch.distributed; default: one "
            "per GPU. With task.device = 'cpu', they train on CPUs.",
        ),
    ] = None
    memory: Annotated[
        float | None,
        Field(gt=0, le=limits.MEMORY_GIB, description="Memory per training run, in GiB."),
    ] = None

    @model_validator(mode="after")
    def _whole_gpus(self) -> "ResourcesSection":
        if self.gpus > 1 and not self.gpus.is_integer():
            raise KeyErrors(
                [("gpus", f"must be an integer or a fraction below 1, got {self.gpus:g}")]
            )
        if self.ranks is not None and self.gpus and self.ranks != self.gpus:
            text = f"must be equal to gpus = {self.gpus:g}, one rank per GPU, got {self.ranks}"
            raise KeyErrors([("ranks", text)])
        return self


def resource_problems(task: "TaskSection", resources: ResourcesSection) -> list[tuple[str, str]]:
    """Return pairs of a key of the study file and what is wrong with it."""
    problems = list[tuple[str, str]]()
    device = task.device
    if resources.gpus and device == "cpu":
        problems.append(
            (
                "resources.gpus",
                f'gpus = {resources.gpus:g} with task.device = "cpu"; remove one of them',
            )
        )
    if resources.gpus and device not in ("auto", "cpu", "cuda"):
        problems.append(
            (
                "task.device",
                f"a training run sees only its own GPUs (resources.gpus), as cuda:0 and so on; "
                f'set device = "auto", got {device!r}',
            )
        )
    ranks = resources.ranks or 1
    if ranks > 1 and task.is_script:
        problems.append(
            (
                "resources.ranks",
                "a script starts its ranks itself, for example with torchrun in task.command; "
                "remove the key",
            )
        )
    elif ranks > 1 and not resources.gpus and device != "cpu":
        problems.append(
            (
                "resources.ranks",
                f"each rank needs a GPU or CPUs; set resources.gpus = {ranks}, or "
                'task.device = "cpu" for ranks on CPUs',
            )
        )
    return problems


def ranks_of(spec: "StudySpec") -> int:
    """Return the number of processes of a training run that sweeper starts."""
    if spec.task.is_script:
        return 1
    return spec.resources.ranks or max(1, int(spec.resources.gpus))


def job_cores(spec: "StudySpec") -> int:
    """Return the CPU cores of a job."""
    return spec.resources.cpus or spec.task.threads * ranks_of(spec)


def job_slots(spec: "StudySpec") -> int:
    """Return the number of training runs that a job does at a time: one if it has GPUs."""
    if spec.resources.gpus:
        return 1
    return max(1, job_cores(spec) // (spec.task.threads * ranks_of(spec)))


def slot_cores(spec: "StudySpec") -> float:
    """Return the CPU cores of a slot."""
    return job_cores(spec) / job_slots(spec)
