"""A slot that trains in a separate process."""

import logging
import math
import selectors
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from sweeper.trainers.channel import Channel, ChannelClosed, Interrupted
from sweeper.trainers.client import TrainerEnd, TrainerLimits, TrainerSlot
from sweeper.trainers.system import JOB_SIGNALS
from sweeper.training.messages import FromTrainer, Start, ToTrainer
from sweeper.worker.attempt import Attempt
from sweeper.worker.code import LoadedCode, limits_of
from sweeper.worker.output import OutputFile, RunOutput, remove_if_empty
from sweeper.worker.slots import Slot, SlotWork
from sweeper.worker.stopping import StopRequest

# scancel and systemd signal every process of a job. If such a signal ended a trainer, the worker
# waits this long for a stop request of its own before it counts the death as a failed attempt.
SIGNAL_SECONDS: Final = 5.0
# A keeper that does not kill its trainer within this time is killed together with it.
KILL_SECONDS: Final = 5.0
# Time limit for measuring the pack size; the other slots wait meanwhile.
MEASURE_SECONDS: float = 120.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SlotSettings:
    """What a slot gets from its worker.

    `environment` is that of its trainer processes. `on_close` is called when the slot is closed.
    """

    name: str
    environment: Mapping[str, str]
    on_close: Callable[[], None]
    selector: selectors.BaseSelector
    stop: StopRequest


class ProcessSlot:
    """A slot with a keeper process and at most one trainer process.

    A trainer of a task does all runs of the slot. A trainer of a training function does one run,
    unless it cannot be forked: then it is reused until a run fails. `size` is the number of runs
    trained in one step, 0 to train each run alone.
    """

    def __init__(self, code: LoadedCode, size: int, place: SlotSettings, work: SlotWork) -> None:
        assert code.server is not None
        self.code, self._size, self._place = code, size, place
        self._selector, self._stop = place.selector, place.stop
        self._processes: TrainerSlot = code.server.slot()
        self._file: OutputFile | None = None
        self._printed: dict[str, RunOutput] = {}
        self._running = False  # whether a trainer process is running
        self._kill_at = math.inf
        self._killed: float | None = None  # when the keeper was told to kill the trainer
        self._signaled: tuple[TrainerEnd, float] | None = None
        self.slot = Slot(work, self._printed_by, joins=code.facts.is_task)
        self.closed = False
        self._watch(self._processes.keeper, self._read_keeper)

    # ---- work ----------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether the slot can start new work."""
        waits = self._reused and self._processes.trainer is not None
        return not self.slot.attempts and (waits or not self._running)

    @property
    def _reused(self) -> bool:
        return self.code.facts.is_task or bool(self.code.facts.unsafe_fork)

    def begin(self) -> bool:
        """Claim tickets and start to train them; return False if no ticket was claimed."""
        starts = self.slot.fill()
        if starts:
            self._train(starts)
        return bool(starts)

    def prepare(self) -> bool:
        """Claim a ticket in advance; return False if no ticket was claimed.

        The trainer continues meanwhile, because sampling a point can take longer than an epoch.
        """
        return bool(self.slot.attempts) and self.slot.prepare()

    def size(self, first: Start, trials: int) -> tuple[int, str]:
        """Let a trainer measure the pack size; return it with the reason.

        The size is the number of runs trained in one step, 0 to train each run alone. Raises
        `Interrupted` if the worker is asked to stop meanwhile.
        """
        self._start(self._trainer_output, replace(self._limits(1), seconds=None))
        until = time.monotonic() + MEASURE_SECONDS
        try:
            self._send({"do": "size", "start": _plain(first), "trials": trials})
            assert self._processes.trainer is not None
            answer = self._processes.trainer.receive(lambda: self._stop or time.monotonic() > until)
        except ChannelClosed:
            return 0, "each trial is trained alone: the process that measured the pack size died"
        except Interrupted:
            if self._stop:
                raise
            limit = f"{MEASURE_SECONDS:g} s"
            return 0, f"each trial is trained alone: measuring the pack size took over {limit}"
        return int(answer["size"]), str(answer["reason"])

    def _train(self, starts: list[Start]) -> None:
        study = self.slot.study
        alone = None if self._reused else next(iter(self.slot.attempts.values()))
        if not self._running:
            output = self._trainer_output if alone is None else study.files.output(alone.ticket)
            self._start(output, self._limits(len(starts)))
        self._note_outputs()
        self.slot.restart_hang_timer()
        message = ToTrainer(starts=starts).to_dict()
        self._send({"do": "train", "at_once": self._size, "message": message})

    @property
    def _trainer_output(self) -> Path:
        return self.slot.study.files.folder / "logs" / "trials" / f"{self._place.name}.log"

    def _limits(self, starts: int) -> TrainerLimits:
        if not self._reused:
            return limits_of(self.slot.study.spec)
        # A guarded run stays alone; otherwise more runs may join the pack.
        runs = 1 if self.slot.runs_alone else max(starts, self._size)
        return limits_of(self.slot.study.spec, runs=runs)

    def _start(self, output: Path, limits: TrainerLimits) -> None:
        if self._running:
            return
        try:
            self._processes.start(output, limits, self._place.environment)
        except ChannelClosed:
            return  # the keeper has died, which the selector reports
        self._running = True
        assert self._processes.trainer is not None
        self._watch(self._processes.trainer, self._read_trainer)

    def _send(self, message: dict[str, Any]) -> None:
        if self._processes.trainer is not None:
            with suppress(ChannelClosed):  # the trainer has ended, which its keeper reports
                self._processes.trainer.send(message)

    def _watch(self, channel: Channel, read: Callable[[], None]) -> None:
        """Register `read`, which the worker calls when the channel is readable."""
        self._selector.register(channel, selectors.EVENT_READ, (self, read))

    # ---- messages ------------------------------------------------------------------------

    def _read_trainer(self) -> None:
        trainer = self._processes.trainer
        if trainer is None:
            return
        messages = list[FromTrainer]()
        closed, problem = False, ""
        try:
            messages.extend(FromTrainer.from_dict(message) for message in trainer.read_messages())
        except ChannelClosed:
            closed = True
        except (ValueError, TypeError, KeyError) as error:
            problem = f"the training process sent an invalid message: {error}"
        for message in messages:
            self._handle(message)
        if problem:
            _log.warning("%s", problem)
            for attempt in self.slot.attempts.values():
                attempt.fail(problem, "exited")
            self._kill()
        if closed or problem:
            self._finish()

    def _handle(self, message: FromTrainer) -> None:
        answer = self.slot.handle(message)
        failed = any(ending.state == "failed" for ending in message.endings)
        if message.endings and not self.code.facts.is_task and (failed or not self._reused):
            self._finish()  # the trainer exits now
            return
        if message.endings:
            self._kill_at = math.inf
        self._note_outputs()
        self._send(answer.to_dict())
        alone = not self.code.facts.is_task
        if alone and any(reply.action != "continue" for reply in answer.replies.values()):
            self._kill_at = time.monotonic() + self._stop.grace

    def _finish(self) -> None:
        """Close the channel, so that the trainer exits; it is killed after the grace period."""
        if self._processes.trainer is not None:
            self._selector.unregister(self._processes.trainer)
            self._processes.finish()
            self._kill_at = min(self._kill_at, time.monotonic() + self._stop.grace)

    def _read_keeper(self) -> None:
        for end in self._processes.ends():
            self._drain()
            self._finish()
            self._running, self._kill_at, self._killed = False, math.inf, None
            if self._processes.output is not None:
                remove_if_empty(self._processes.output)
            if end.cause == "gone":
                self.close()
            foreign = not end.cause and -end.status in JOB_SIGNALS
            if foreign and self.slot.attempts:
                self._signaled = end, time.monotonic() + SIGNAL_SECONDS
            else:
                self._on_trainer_death(end)

    def _drain(self) -> None:
        """Handle the messages that a trainer sent before it ended."""
        while self._processes.trainer is not None:
            self._read_trainer()

    def _on_trainer_death(self, end: TrainerEnd) -> None:
        attempts = list(self.slot.attempts.values())
        for attempt in attempts:
            self.slot.conclude(
                attempt, partial(attempt.on_trainer_death, end, shared=len(attempts) > 1)
            )

    # ---- time ----------------------------------------------------------------------------

    def check(self) -> None:
        """Kill a trainer that hangs or does not stop in time."""
        self.slot.release_prepared(lambda attempt: attempt.stopping())
        now = time.monotonic()
        if self._signaled is not None:
            end, until = self._signaled
            if now > until or self._stop:
                self._signaled = None
                self._on_trainer_death(end)
            return
        if not self._running:
            return
        if self._killed is not None:
            if now > self._killed + KILL_SECONDS:
                self._processes.kill_keeper()
        elif self.slot.hung and not self._has_message and not self._may_be_silent:
            for attempt in self.slot.attempts.values():
                attempt.on_hang()
            self._kill()
        elif now > self._kill_at or (self._stop.overdue and self.slot.attempts):
            self._kill()

    def exclude_suspension(self, seconds: float) -> None:
        """Exclude a time in which this machine was suspended from all time limits."""
        self.slot.exclude_suspension(seconds)
        self._kill_at += seconds
        if self._killed is not None:
            self._killed += seconds

    @property
    def _may_be_silent(self) -> bool:
        """Whether no report is expected yet: a script may deliver its only result at its end."""
        is_script = self.slot.study.spec.task.is_script
        return is_script and all(attempt.last is None for attempt in self.slot.attempts.values())

    @property
    def _has_message(self) -> bool:
        """Whether the trainer has sent a message that this worker has not read yet."""
        trainer = self._processes.trainer
        return trainer is not None and trainer.readable()

    def _kill(self) -> None:
        for attempt in self.slot.attempts.values():
            _log.warning("ticket %d: killing its training process", attempt.ticket.number)
        self._processes.kill()
        self._killed = time.monotonic()

    # ---- the end -------------------------------------------------------------------------

    def close(self) -> None:
        """Stop the trainer and the keeper."""
        if self.closed:
            if not self.slot.attempts:
                self._close_output()
            return
        self.closed = True
        try:
            self.slot.release_prepared(lambda _: True)
        finally:
            self._finish()
            self._selector.unregister(self._processes.keeper)
            self._processes.close()
            self._place.on_close()
        if not self.slot.attempts:
            self._close_output()
        if self._processes.output is not None:
            remove_if_empty(self._processes.output)

    def abandon(self) -> None:
        """Stop the trainer and the keeper, and return all tickets to the queue."""
        self.slot.abandon()
        self.close()

    # ---- output --------------------------------------------------------------------------

    def _note_outputs(self) -> None:
        path = self._processes.output
        if path is None:
            return
        if self._file is None or self._file.path != path:
            self._close_output()
            self._file = OutputFile(path)
        self._printed = {
            key: self._printed.get(key) or RunOutput(self._file) for key in self.slot.attempts
        }

    def _close_output(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _printed_by(self, attempt: Attempt) -> RunOutput | None:
        return self._printed.get(attempt.key)


def _plain(start: Start) -> dict[str, Any]:
    plain: dict[str, Any] = ToTrainer(starts=[start]).to_dict()["starts"][0]
    return plain
