"""A slot that trains in this process, for use with a debugger; nothing is isolated."""

import sys
from dataclasses import replace
from io import StringIO

from sweeper.training.device import torch_threads
from sweeper.training.messages import FromTrainer, ToTrainer
from sweeper.worker.attempt import Attempt
from sweeper.worker.code import LoadedCode
from sweeper.worker.output import InProcessOutput
from sweeper.worker.slots import Slot, SlotWork


class InProcessSlot:
    def __init__(self, code: LoadedCode, work: SlotWork) -> None:
        assert code.program is not None
        self._program = code.program
        self._printed = StringIO()
        self._beginnings: dict[str, InProcessOutput] = {}
        self.slot = Slot(work, self._get_output, joins=False)

    def work(self, size: int) -> bool:
        """Train until no ticket can be claimed; return whether anything was trained.

        `size` is the number of runs trained in one step, 0 to train each run alone.
        """
        starts = self.slot.fill()
        self._note_beginnings()
        if not starts:
            return False
        self.slot.restart_hang_timer()
        streams = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = self._printed
        try:
            with torch_threads(self.slot.study.spec.task.threads):
                self._program.train(ToTrainer(starts=starts), self._exchange, at_once=size)
        except KeyboardInterrupt:
            self.slot.release()
            raise
        finally:
            sys.stdout, sys.stderr = streams
        return True

    def _exchange(self, message: FromTrainer) -> ToTrainer:
        captured = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        try:
            answer = self.slot.handle(message)
            return replace(answer, starts=self.slot.fill()) if message.endings else answer
        finally:
            self._note_beginnings()
            sys.stdout, sys.stderr = captured

    def _note_beginnings(self) -> None:
        now = InProcessOutput(self._printed, self._printed.tell())
        attempts = self.slot.attempts
        self._beginnings = {key: self._beginnings.get(key, now) for key in attempts}

    def _get_output(self, attempt: Attempt) -> InProcessOutput | None:
        return self._beginnings.get(attempt.key)
