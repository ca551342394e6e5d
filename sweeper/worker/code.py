"""Load the code of a study for its training runs, in separate processes or in this one."""

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.errors import SweeperError
from sweeper.study.code import code_request
from sweeper.study.load import StoredStudy
from sweeper.study.spec import StudySpec
from sweeper.tasks.facts import CodeFacts
from sweeper.tasks.given import GivenObject
from sweeper.trainers.channel import ChannelClosed
from sweeper.trainers.client import (
    TrainerEnd,
    TrainerLimits,
    TrainerServer,
    TrainerSlot,
    start_loaded_server,
)
from sweeper.training.messages import FromTrainer, Reply, Report, Start, ToTrainer, TrainingEnd
from sweeper.worker.attempt import failure_of

if TYPE_CHECKING:
    from sweeper.tasks.program import Program

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LoadedCode:
    """The loaded code of a study.

    `server` is the process that has imported the code. When training runs in this process (for a
    debugger), `program` holds the code and `server` is None.
    """

    facts: CodeFacts
    server: TrainerServer | None = None
    program: "Program | None" = None

    @property
    def alive(self) -> bool:
        """Whether training runs can be started."""
        return self.server is None or self.server.alive

    def close(self) -> None:
        """Stop the server process."""
        if self.server is not None:
            self.server.close()


def load_code(
    stored: StoredStudy,
    folder: Path,
    *,
    in_process: bool,
    pickled: str = "",
    interrupted: Callable[[], object] | None = None,
) -> LoadedCode:
    """Load the code of a study from `folder`.

    `pickled` is the path of the function of a study that was launched from a notebook or a script.
    Raises `SweeperError` if it cannot be loaded, and `Interrupted` if `interrupted` returns true
    while another process imports it.
    """
    request = replace(code_request(stored.spec, folder), pickled=pickled)
    if in_process and request.script is not None:
        raise SweeperError(
            "task.program: a script cannot be trained in the process of the worker; use one or "
            "more workers (--workers 1)"
        )
    if in_process:
        from sweeper.tasks.program import Program  # imported here because it imports torch

        program = Program(request)
        return LoadedCode(program.facts, program=program)
    server, plain = start_loaded_server(
        vars(request), trains=request.has_files and request.script is None, interrupted=interrupted
    )
    try:
        facts = CodeFacts.from_dict(plain)
    except BaseException:
        server.close()
        raise
    if facts.unsafe_fork and not facts.is_task:
        _log.warning(
            "study %r: %s, so its training runs cannot be forked; the runs of a slot share one "
            "process until a run fails",
            stored.name,
            facts.unsafe_fork,
        )
    return LoadedCode(facts, server=server)


@contextmanager
def loaded_code(
    stored: StoredStudy, folder: Path, given: GivenObject | None = None
) -> Iterator[LoadedCode]:
    """Load the code of a study for the block; user code is loaded in a separate process.

    `given` is the object that the study was launched with in place of a file.
    """
    in_process = not code_request(stored.spec, folder).has_files
    pickled = "" if given is None else given.path
    code = load_code(stored, folder, in_process=in_process, pickled=pickled)
    try:
        yield code
    finally:
        code.close()


def train_once(
    code: LoadedCode, start: Start, on_report: Callable[[Report], Reply], spec: StudySpec
) -> TrainingEnd:
    """Do one training run within the limits of the study, and return how it ended.

    `on_report` returns the reply to each report. The run's directory is a temporary folder.
    """
    with tempfile.TemporaryDirectory(prefix="sweeper-") as folder:
        directory, socket = (str(Path(folder, name)) for name in ("run", "socket"))
        start = replace(start, directory=directory, socket=socket)
        return _train(code, start, on_report, spec)


def _train(
    code: LoadedCode, start: Start, on_report: Callable[[Report], Reply], spec: StudySpec
) -> TrainingEnd:
    endings = list[TrainingEnd]()

    def exchange(message: FromTrainer) -> ToTrainer:
        endings.extend(message.endings)
        return ToTrainer({report.key: on_report(report) for report in message.reports})

    if code.program is not None:
        from sweeper.training.device import torch_threads

        with torch_threads(spec.task.threads):
            code.program.train(ToTrainer(starts=[start]), exchange, at_once=0)
    elif code.server is not None:
        with _trainer(code.server, spec) as slot:
            end = _train_once(slot, start, exchange, endings)
        if end is not None:
            crashed = f"the training process ended with status {end.status}"
            failure, cause = failure_of(end, spec) or (crashed, "crashed")
            endings.append(TrainingEnd(start.key, "failed", failure=failure, cause=cause))
    return endings[0]


@contextmanager
def _trainer(server: TrainerServer, spec: StudySpec) -> Iterator[TrainerSlot]:
    """Start a trainer for the block; its output is discarded."""
    with tempfile.TemporaryDirectory(prefix="sweeper-") as folder:
        slot = server.slot()
        try:
            # The time limit is per report, because in a pack a trial is charged only its share of
            # the time.
            slot.start(Path(folder, "output"), limits_of(spec, runs=1))
            yield slot
        finally:
            slot.close()


def _train_once(
    slot: TrainerSlot,
    start: Start,
    exchange: Callable[[FromTrainer], ToTrainer],
    endings: list[TrainingEnd],
) -> TrainerEnd | None:
    """Do a training run; return how its process ended, or None if the run ended normally."""
    trainer = slot.trainer
    assert trainer is not None
    message = ToTrainer(starts=[start]).to_dict()
    try:
        trainer.send({"do": "train", "at_once": 0, "message": message})
        while not endings:
            received = FromTrainer.from_dict(trainer.receive())
            trainer.send(exchange(received).to_dict())
    except ChannelClosed:
        if not endings:
            return slot.wait()
    return None


def limits_of(spec: StudySpec, *, runs: int | None = None) -> TrainerLimits:
    """Return the time and memory limits of a trainer.

    `runs` is None for a trainer that does one run; its time limit is for the whole run. A trainer
    that does several runs, `runs` at a time, has a time limit per report.
    """
    memory, seconds = spec.resources.memory, spec.budget.trial_timeout
    return TrainerLimits(
        seconds=None if seconds is None else seconds * (runs or 1),
        memory=None if memory is None else round(memory * 2**30),
        by_report=runs is not None,
    )
