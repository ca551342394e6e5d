"""The program of a trainer process: load the code of a study, check it, and train."""

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sweeper.errors import SweeperError
from sweeper.smoothing import SCHEDULES, Smoothing, register_schedule
from sweeper.tasks.facts import CodeFacts, CodeRequest
from sweeper.tasks.importing import StudyModules
from sweeper.tasks.loading import load_function, load_task, with_precision
from sweeper.tasks.script import ScriptProgram
from sweeper.tasks.serving import MessageChannel, serve
from sweeper.training.conversion import in_one_line
from sweeper.training.device import environment, pick_device
from sweeper.training.loop import check_logits, predict, start
from sweeper.training.messages import FromTrainer, Start, ToTrainer
from sweeper.training.packed.sizing import measure_pack_size
from sweeper.training.random_state import restored_random_state
from sweeper.training.reporting import Exchange
from sweeper.training.run import TrainingRun
from sweeper.training.task import Task
from sweeper.training.trainer import FunctionTrainer, TaskTrainer

if TYPE_CHECKING:
    # Importing torch.distributed takes time that other studies do not need.
    from sweeper.training.distributed.rank import RankedFunction
    from sweeper.training.distributed.trainer import DistributedTrainer


class Program:
    """The code of a study, loaded in this process.

    Raises `SweeperError`, with the key of the study file, if it cannot be loaded.
    """

    def __init__(self, request: CodeRequest) -> None:
        self._request = request
        self._modules = modules = StudyModules(Path(request.folder))
        for name in request.schedules:
            with _under("space.schedule"):
                _register(name, load_function(name, modules))
        with _under("task.use"):
            self._loaded = load_task(request.use, request.options, modules, request.pickled)
        if request.precision is not None:
            self._loaded = with_precision(self._loaded, request.use, request.precision)
        self.facts = self._facts(modules.new_sources())
        self._trainer: FunctionTrainer | TaskTrainer | DistributedTrainer | None = None
        self._isolated = False

    def check(self) -> None:
        """Raise `SweeperError` if no trial could run, because of the device, the data or the model.

        The model of a task is built and applied to two validation rows on the CPU. A training
        function is not checked.
        """
        with _under("task.device"):
            pick_device(self._request.device)
        task = self._loaded.task
        if task is not None:
            with _under("task.use"), _task_errors(self._request.use):
                _check_model(task, self._request.seed)

    def pack_size(self, first: Start, trials: int) -> tuple[int, str]:
        """Return the number of runs to train in one step, 0 to train each alone, and the reason.

        If the task raises an exception, each run is trained alone, so that its trial reports it.
        """
        task = self._loaded.task
        if task is None:
            return 0, "each trial is trained alone: a training function cannot be packed"
        device = pick_device(first.device)
        run = TrainingRun(
            Smoothing(0.1, "cosine", 1.0), first.seed, first.data_seed, device, first.hparams
        )
        try:
            sizing = measure_pack_size(task, run, trials)
        except Exception as error:
            return 0, f"each trial is trained alone: measuring the pack size failed: {error}"
        return sizing.size, sizing.reason

    def train(self, message: ToTrainer, exchange: Exchange, *, at_once: int) -> None:
        """Do the runs of a message and the runs that are started by the answers."""
        if self._trainer is None:
            self._trainer = self._new_trainer()

        def with_sources(sent: FromTrainer) -> ToTrainer:
            sources = {**sent.sources, **self._modules.new_sources()}
            return exchange(replace(sent, sources=sources))

        self._trainer.train(message, with_sources, at_once=at_once)

    def _new_trainer(self) -> "FunctionTrainer | TaskTrainer | DistributedTrainer":
        loaded, request = self._loaded, self._request

        @cache
        def of_device(device: torch.device) -> Mapping[str, str]:
            return environment(device, Path(request.folder))

        if loaded.task is not None:
            return TaskTrainer(loaded.task, of_device)
        if request.ranks == 1:
            return FunctionTrainer(
                loaded.trainer, request.options, of_device, isolated=self._isolated
            )
        from sweeper.training.distributed.trainer import DistributedTrainer

        again = partial(import_for_rank, request)
        return DistributedTrainer(self.for_rank, again, request.ranks)

    def for_rank(self) -> "RankedFunction":
        """Return the training function for a rank in a process that was forked from this one."""
        from sweeper.training.distributed.rank import RankedFunction

        request = self._request
        return RankedFunction(
            self._loaded.trainer,
            request.options,
            lambda device: environment(device, Path(request.folder)),
            self._modules.new_sources,
            request.threads,
        )

    def serve(self, worker: MessageChannel) -> None:
        """Handle the requests of a worker until it closes the connection."""
        torch.set_num_threads(self._request.threads)
        self._isolated = True
        serve(self, worker)

    def _facts(self, sources: Mapping[str, str]) -> CodeFacts:
        task = self._loaded.task
        if task is None:
            return CodeFacts(False, sources)
        return CodeFacts(
            True,
            sources,
            sorted(task.accepts()),
            task.defaults(),
            dict(task.label_source),
            {
                name: _refused(task, name, values, self._request.contexts.get(name, [{}]))
                for name, values in self._request.values.items()
                if name in task.accepts()
            },
        )


def prepare() -> None:
    """Import the modules that torch imports when the first optimizer is created.

    This takes longer than importing torch, and each trainer would repeat it.
    """
    import_module("torch._dynamo")


def load(request: Mapping[str, Any]) -> Program | ScriptProgram:
    """Load the code of a study. Raises `SweeperError` if it cannot be loaded."""
    torch.set_num_threads(1)  # a process forked while torch has threads may hang
    return program_of(CodeRequest(**request))


def program_of(request: CodeRequest) -> Program | ScriptProgram:
    """Load the code of a study, or find the files of its script."""
    return Program(request) if request.script is None else ScriptProgram(request)


def import_for_rank(request: CodeRequest) -> "RankedFunction":
    """Return the training function for a rank; its process imports the code again."""
    return Program(request).for_rank()


def _register(name: str, function: Any) -> None:
    """Register a schedule, replacing an earlier schedule with the same name."""
    earlier = SCHEDULES.pop(name, None)
    try:
        register_schedule(name, function)
    except ValueError as error:
        if earlier is not None:
            SCHEDULES[name] = earlier
        raise SweeperError(str(error)) from None


def _refused(
    task: Task, name: str, values: Sequence[Any], contexts: Sequence[Mapping[str, Any]]
) -> list[tuple[int, str]]:
    refused = dict[int, str]()
    accepted = task.accepts()
    for context in contexts:
        others = {key: value for key, value in context.items() if key in accepted}
        for index, value in enumerate(values):
            try:
                task.settings({**others, name: value})
            except (TypeError, ValueError) as error:
                refused.setdefault(index, str(error))
    return sorted(refused.items())


def _check_model(task: Task, seed: int) -> None:
    cpu = torch.device("cpu")
    with restored_random_state(cpu):
        _, fit = start(task, TrainingRun(Smoothing(0.0), seed, seed, cpu))
        check_logits(task, predict(fit.model, fit.valid[0][:2]))


@contextmanager
def _task_errors(use: str) -> Iterator[None]:
    """Convert exceptions of the code of a task to one line with the file and line number."""
    try:
        yield
    except SweeperError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        what = in_one_line(error)
        raise SweeperError(f"{use}: {what} ({frame.filename}:{frame.lineno})") from error


@contextmanager
def _under(key: str) -> Iterator[None]:
    """Prefix errors with the key of the study file, unless they start with such a key."""
    try:
        yield
    except SweeperError as error:
        if str(error).startswith(key.partition(".")[0] + "."):
            raise
        raise SweeperError(f"{key}: {error}") from error
