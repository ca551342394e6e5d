"""The workers of a launch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Final

from sweeper.errors import SweeperError
from sweeper.executors import Executor, JobSpec, Resources, make_executor
from sweeper.store.urls import DEFAULT_STORAGE, absolute, parse_url, sqlite_path
from sweeper.study.code import code_request, inspect_code, inspect_here
from sweeper.study.resources import job_cores, job_slots
from sweeper.study.spec import StudySpec
from sweeper.tasks.facts import CodeFacts, CodeRequest
from sweeper.tasks.given import GivenObject
from sweeper.worker.gpus import check_slots, slots_that_fit, visible_gpus
from sweeper.worker.launcher import Jobs, worker_job

# Concurrent training runs of a launch on a machine without GPUs.
DEFAULT_SLOTS: Final = 2


@dataclass(frozen=True)
class RunOptions:
    """Options for executing training runs.

    Attributes:
        workers: The number of workers; 0 trains in this process. None means 1 with the executor
            "inline", one per GPU with "local" on a machine with GPUs, and else 2.
        executor: The name of an executor, or the result of `make_executor`.
        storage: The database URL or the path of an SQLite file.
        timeout: The time limit in seconds; None means no limit.
        results: The results folder; files are written to RESULTS/NAME.
    """

    workers: int | None = None
    executor: str | Executor = "local"
    storage: str = DEFAULT_STORAGE
    timeout: float | None = None
    results: str | Path = "results"


@dataclass(frozen=True)
class WorkerPool:
    """The workers of a launch.

    `workers` is their number. `slots` is the number of slots of each; None derives it from the
    resources of a job, or with the executor "local" from the GPUs of this machine. `given` is the
    function or the task that was given in place of a file. `starts` is false if the workers are
    started separately.
    """

    executor: Executor
    workers: int
    slots: int | None
    given: GivenObject | None = None
    starts: bool = True

    @property
    def pickled(self) -> str:
        """The path of the pickled function, "" if workers can import it."""
        return "" if self.given is None else self.given.path

    def inspect(self, request: CodeRequest) -> CodeFacts:
        """Inspect the code of a study: in this process only if it also trains here."""
        inspect = inspect_here if self.executor.traits.name == "inline" else inspect_code
        return inspect(replace(request, pickled=self.pickled))

    def job(self, name: str, spec: StudySpec, options: RunOptions) -> JobSpec:
        """Return the specification of the job that starts one worker.

        Raises `SweeperError` if this machine is to train and does not have the GPUs.
        """
        requested, slots = spec.resources, self._local_slots(spec)
        needs = Resources(job_cores(spec), requested.gpus, requested.memory)
        if slots is None:
            slots = job_slots(spec)
            memory = None if requested.memory is None else slots * requested.memory
            needs = replace(needs, memory=memory)
        jobs = Jobs(
            study=name,
            count=self.workers,
            slots=slots,
            results=Path(options.results).absolute(),
            resources=needs,
            storage=absolute(options.storage),
            functions=code_request(spec, Path()).has_files,
            pickled=self.pickled,
        )
        return worker_job(jobs, self.executor)

    def _local_slots(self, spec: StudySpec) -> int | None:
        """Return the number of slots of a worker on this machine, None for other machines."""
        if self.executor.traits.name not in ("local", "inline"):
            return None
        if not self.starts:
            return DEFAULT_SLOTS if self.slots is None else self.slots
        gpus = visible_gpus()
        if self.slots is None:
            return slots_that_fit(spec, gpus) or DEFAULT_SLOTS
        check_slots(spec, gpus, self.slots)
        return self.slots


# Options of a launch; the others are those of each run.
_OF_LAUNCH: Final = ("confirm", "detach", "accept_code", "check")
# The types of options whose values are not checked elsewhere, and what they are.
_TYPES: Final[Mapping[str, tuple[tuple[type, ...], str]]] = {
    "workers": ((Integral,), "a whole number"),
    "storage": ((str,), "a text: a database URL or the path of an SQLite file"),
    "timeout": ((Real,), "a number of seconds"),
    "results": ((str, Path), "the path of a folder"),
    **dict.fromkeys(_OF_LAUNCH, ((bool,), "True or False")),
}


def check_types(options: RunOptions) -> None:
    """Raise `SweeperError` for an option of another type than its own."""
    for name, (types, allowed) in _TYPES.items():
        value = getattr(options, name, None)
        if value is None and name in ("workers", "timeout", *_OF_LAUNCH):
            continue
        number = isinstance(value, bool) and bool not in types  # True is an int in Python
        if number or not isinstance(value, types):
            raise SweeperError(f"{name}: must be {allowed}, got {value!r}")


def worker_pool(
    options: RunOptions, given: GivenObject | None = None, *, detach: bool = False
) -> WorkerPool:
    """Return the workers of a launch; raises `SweeperError` if the options do not fit together."""
    check_types(options)
    workers = options.workers
    executor = options.executor
    if isinstance(executor, str):
        executor = make_executor(executor)
    elif not hasattr(executor, "traits"):
        raise SweeperError(
            "executor: must be the name of an executor or the result of make_executor, got "
            f"{executor!r}"
        )
    if workers == 0 and executor.traits.name == "local":
        executor, workers = make_executor("inline"), 1
    traits = executor.traits
    if given is not None and given.pickled is not None:
        _check_sends(given, executor, detach=detach)
    count = min(DEFAULT_SLOTS, traits.max_jobs) if workers is None else workers
    if not 1 <= count <= traits.max_jobs:
        least = "0 (train in this process)" if traits.name == "local" else "1"
        with_executor = "" if traits.name == "local" else f" with {traits.name}"
        raise SweeperError(
            f"workers: must be from {least} to {traits.max_jobs}{with_executor}, got {count}"
        )
    if traits.multiple_machines and sqlite_path(parse_url(options.storage)) is not None:
        raise SweeperError(
            f"executor {traits.name}: workers on several machines cannot share an SQLite file; "
            "use a database server: --storage postgresql://USER@HOST/DATABASE"
        )
    # A detached launch with `local` starts no workers: they are started separately.
    if detach and not traits.outlives_parent and traits.name != "local":
        raise SweeperError(
            f"detach: not possible with executor {traits.name}, whose workers end with the "
            "launch; remove --detach"
        )
    match traits.name:
        case "local":
            slots = None if workers is None else count
            return WorkerPool(executor, 1, slots, given, starts=not detach)
        case "inline":
            return WorkerPool(executor, count, 0, given)
    return WorkerPool(executor, count, None, given)


def _check_sends(given: GivenObject, executor: Executor, *, detach: bool) -> None:
    """Raise `SweeperError` if workers cannot get a function that they cannot import."""
    name = executor.traits.name
    if name not in ("local", "inline") or detach:
        place = "detach" if detach else f"executor {name}"
        raise SweeperError(
            f"{place}: {given.name} is defined in a notebook, a script or a function, so only "
            "local workers of this launch can train it; move it to a module and import it"
        )
