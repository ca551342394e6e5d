"""The trainer of a script: starts it, reads what it delivers, reports it, and ends it."""

import logging
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from sweeper.smoothing import Smoothing
from sweeper.trainers import system
from sweeper.training.directory import prepare_directory
from sweeper.training.failures import TrainingFailed, training_failure
from sweeper.training.messages import (
    EVIDENCE,
    LABELS,
    Action,
    FromTrainer,
    Grade,
    Reply,
    Report,
    Start,
    ToTrainer,
    TrainingEnd,
)
from sweeper.training.reporting import STOPS, Exchange, first_number
from sweeper.training.scripts.command import command_of, variables_of
from sweeper.training.scripts.config import REQUEUE, ScriptConfig
from sweeper.training.scripts.delivered import Delivered, FileReader, read_file
from sweeper.training.scripts.evidence import (
    Measured,
    has_test_file,
    measure_file,
    measure_line,
    progress_of,
    test_file,
)
from sweeper.training.scripts.observed import save_record
from sweeper.training.scripts.output import ScriptOutput, SelfReport
from sweeper.training.scripts.ranks import Ranks
from sweeper.training.scripts.signals import die_of, kill_group, signal_in
from sweeper.training.trainer import Environment

# Interval between checks for new files and lines of a script.
POLL_SECONDS: Final = 0.1

_FILES_AND_REPORTS: Final = (
    "the script delivered results twice: in files valid-….npz and with "
    "sweeper.current_run().report; use one of them"
)

_log = logging.getLogger(__name__)


class ScriptTrainer:
    """Runs the script of a study once per training run. It never imports the script."""

    def __init__(self, script: ScriptConfig, environment: Environment) -> None:
        self._script, self._environment = script, environment

    def train(self, message: ToTrainer, exchange: Exchange, *, at_once: int = 1) -> None:
        """Do the runs of a message and the runs that are started by the answers."""
        waiting = list(message.starts)
        while waiting:
            start = waiting.pop(0)
            ending = _ScriptRun(self._script, start, self._environment, exchange).train()
            waiting += exchange(FromTrainer(endings=[ending])).starts


class _ScriptRun:
    """One training run of a script."""

    def __init__(
        self, script: ScriptConfig, start: Start, environment: Environment, exchange: Exchange
    ) -> None:
        self._script, self._start = script, start
        self._environment, self._exchange = environment, exchange
        self._directory = Path(start.directory or "").absolute()
        self._smoothing = Smoothing(*start.smoothing)
        # What the study file says, and what the script delivers.
        self._stated: Grade | None = "self-reported" if script.pattern else script.evidence
        self._grade: Grade | None = None
        self._last: Report | None = None
        self._action: Action = "continue"
        self._connected = False  # whether the script reports over the socket
        self._notes: list[str] = []
        self._paused = 0.0  # seconds spent on waiting for replies
        self._began = time.monotonic()
        self._unreported: Delivered | SelfReport | None = None  # without progress
        self._reported: Delivered | SelfReport | None = None  # the last one
        self._line: SelfReport | None = None  # used only if there is nothing better

    # ---- the process ---------------------------------------------------------------------

    def train(self) -> TrainingEnd:
        """Run the script and return the end of the training run."""
        try:
            first = self._start.claim == 1
            prepare_directory(self._directory, self._start.identity, first_claim=first)
            self._files = FileReader(self._directory, "valid")
            self._output = ScriptOutput(self._script.pattern)
        except OSError as error:
            return self._failed(training_failure(error, torch.device("cpu")))
        try:
            with Ranks(Path(self._start.socket), self._begin, self._on_report) as ranks:
                status = self._run(ranks)
                return self._ending(status, ranks)
        except Exception as error:
            return self._failed(training_failure(error, torch.device("cpu")))
        finally:
            self._output.close()

    def _run(self, ranks: Ranks) -> int:
        """Start the script, follow it until it ends, and return its exit status."""
        command = command_of(self._script, self._start, self._directory)
        environment = variables_of(
            self._script, self._start, self._directory, Path(self._start.socket)
        )
        try:
            process = subprocess.Popen(
                command,
                cwd=self._script.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise TrainingFailed(
                f"task.command: cannot run {command[0]!r}: {error.strerror or error}"
            ) from error
        watched = system.descriptor_of(process.pid)
        try:
            if watched >= 0:
                ranks.watch(watched)
            while process.poll() is None:
                ranks.serve(POLL_SECONDS)
                self._read()
                if self._action in STOPS and not self._connected:
                    break
            status = process.poll()
            if status is not None:
                ranks.drain()
            return -signal.SIGKILL if status is None else status
        finally:
            kill_group(process)
            if watched >= 0:
                os.close(watched)

    # ---- what the script delivers --------------------------------------------------------

    def _begin(self) -> Mapping[str, Any]:
        """Return what `current_run` in the script needs."""
        return {
            "start": ToTrainer(starts=[self._start]).to_dict()["starts"][0],
            "options": dict(self._script.options),
            "folder": self._script.folder,
            "seconds": self._seconds,
        }

    def _on_report(self, message: FromTrainer) -> ToTrainer:
        """Pass a report of rank 0 on to the worker."""
        self._check_grade("scored")
        if not self._connected and (self._last is not None or self._unreported is not None):
            raise TrainingFailed(_FILES_AND_REPORTS)
        self._connected = True
        report = replace(message.reports[0], key=self._start.key)
        return ToTrainer({report.key: self._send(report)})

    def _read(self, *, ended: bool = False) -> None:
        """Report the new files and lines that have a progress; `ended`: the script has ended.

        Lines are reported at once only if the study file says that they are the results. A line may
        come before the first file, so the grade would depend on the timing otherwise.
        """
        if self._connected:
            return
        for path in self._files.new():
            self._deliver(read_file(path))
        for line in self._output.reports(ended=ended):
            if self._stated == "self-reported":
                self._deliver(line)
            elif self._stated is None:
                self._line = line

    def _deliver(self, item: Delivered | SelfReport) -> None:
        self._check_grade(item.grade)
        progress = progress_of(item) if isinstance(item, SelfReport) else item.progress
        if self._action in STOPS:
            return
        # In a confirmation, the file of the test split may be written after the last file.
        if progress is None or progress == 1.0:
            self._unreported = item
        else:
            self._unreported = None
            self._report(item, progress)

    def _check_grade(self, grade: Grade) -> None:
        if self._script.calibrates and grade != "scored":
            raise TrainingFailed(
                f"objective.metric = nll_calibrated needs logits and labels, but the script "
                f'delivered {grade} results; set objective.metric = "nll"'
            )
        if self._script.pattern and grade != "self-reported":
            raise TrainingFailed(
                f"the script delivered {grade} results, but task.pattern makes its output the "
                "result; remove task.pattern, or deliver nothing else"
            )
        if self._stated not in (None, grade):
            raise TrainingFailed(
                f"the script delivered {grade} results, but task.evidence is "
                f'"{self._stated}"; set task.evidence = "{grade}"'
            )
        self._grade = self._grade or grade
        if self._grade != grade:
            raise TrainingFailed(
                f"the script delivered {self._grade} and then {grade} results; deliver only one "
                "kind"
            )

    def _report(self, item: Delivered | SelfReport, progress: float) -> None:
        first = first_number(self._start, progress)
        number = first if self._last is None else self._last.number + 1
        before = None if self._last is None else self._last.progress
        full = self._start.full.includes(number, progress, before)
        measured = self._measure(item, final=progress == 1.0, full=full)
        self._reported = item
        if self._start.observed is not None:
            save_record(self._start.observed, number, item, progress)
        if before is not None and progress <= before:
            self._note(f"progress {progress:g} was reported after {before:g}; it must increase")
        self._send(
            Report(
                key=self._start.key,
                number=number,
                progress=progress,
                epsilon=self._smoothing.at(progress),
                scores=measured.scores,
                classes=measured.classes,
                seconds=self._seconds,
                extra=dict(measured.extra or {}),
                splits=self._splits(measured.grade, final=progress == 1.0),
                notes=tuple(self._notes),
                replicate_result=measured.result,
                environment=self._environment_of(measured) if self._last is None else {},
            )
        )

    def _splits(self, grade: Grade, *, final: bool) -> tuple[str, ...]:
        """Return the splits besides validation. The file of a test split may be written last."""
        if grade == "self-reported":
            return ()
        return ("test",) if not final or has_test_file(self._directory) else ()

    def _measure(self, item: Delivered | SelfReport, *, final: bool, full: bool) -> Measured:
        if isinstance(item, SelfReport):
            return measure_line(item)
        arrays = self._start.arrays
        test = test_file(self._directory) if final and arrays is not None else None
        return measure_file(item, test, None if arrays is None else Path(arrays), full=full)

    def _environment_of(self, measured: Measured) -> dict[str, str]:
        # The CPU, because this process does not know on which device the script trains.
        known = dict(self._environment(torch.device("cpu")))
        known[EVIDENCE] = measured.grade
        if measured.labels:
            known[LABELS.format(self._start.data_seed)] = measured.labels
        return known

    def _send(self, report: Report) -> Reply:
        """Send a report to the worker and return the reply."""
        began = time.monotonic()
        answer = self._exchange(FromTrainer([report]))
        self._paused += time.monotonic() - began
        self._last = report
        reply = answer.replies.get(report.key, Reply("drop"))
        self._action = reply.action
        return reply

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._began - self._paused

    # ---- the end -------------------------------------------------------------------------

    def _ending(self, status: int, ranks: Ranks) -> TrainingEnd:
        if self._action in STOPS:
            return self._ended("stopped")
        if status < 0:
            die_of(-status)
        if status == REQUEUE:
            reason = f"the script asked to be started again (exit status {REQUEUE})"
            return replace(self._ended("stopped"), failure=reason)
        if ranks.ending is not None and ranks.ending.state == "failed":
            return replace(ranks.ending, key=self._start.key)  # a report could not be scored
        if status:
            die_of(signal_in(self._output.end()))
            raise self._exit_failure(status)
        if self._connected:
            return self._connected_ending(ranks)
        self._read(ended=True)
        self._report_last()
        return self._ended("stopped" if self._action in STOPS else "complete")

    def _report_last(self) -> None:
        """Report what was delivered last as the result of the run."""
        item = self._unreported
        if item is None and self._last is None:
            path = self._files.last()  # written by an earlier attempt that was interrupted later
            item = self._line if path is None else read_file(path)
        if item is not None:
            self._check_grade(item.grade)
            if isinstance(item, SelfReport) and self._stated is None:
                self._note_late_lines(item)
            self._report(item, 1.0)
            return
        if self._last is None or self._reported is None:
            raise TrainingFailed(
                f"{self._nothing_delivered}{_after(self._output.last_lines())}", "exited"
            )
        measured = self._measure(self._reported, final=True, full=True)
        self._last = replace(
            self._last,
            scores=measured.scores,
            replicate_result=measured.result,
            splits=self._splits(measured.grade, final=True),
        )
        self._note_early_end(self._last.progress)

    def _note_late_lines(self, line: SelfReport) -> None:
        progress = progress_of(line)
        if progress is None:
            return
        self._note(
            "JSON lines were read when the script had ended, so it could not be pruned; set "
            'task.evidence = "self-reported" to read them at once'
        )
        if progress < 1:
            self._note_early_end(progress)

    def _note_early_end(self, progress: float) -> None:
        self._note(
            f"the script ended at progress {progress:g}, not 1; its last report is used as the "
            "result"
        )

    @property
    def _nothing_delivered(self) -> str:
        if self._script.pattern:
            return (
                "the script exited with status 0, but no line of its output matched task.pattern "
                "with a number in the group; correct the pattern or print the NLL"
            )
        if self._stated in ("scored", "per-example"):
            return (
                f"the script exited with status 0 but delivered no {self._stated} results, which "
                "task.evidence requires; deliver them, or remove task.evidence"
            )
        return (
            "the script exited with status 0 but delivered nothing; call "
            "sweeper.current_run().report, write valid-0001.npz to SWEEPER_DIR, or print JSON "
            "lines with nll and progress"
        )

    def _connected_ending(self, ranks: Ranks) -> TrainingEnd:
        if any(self._files.new()):
            raise TrainingFailed(_FILES_AND_REPORTS)
        if ranks.ending is not None:
            return replace(ranks.ending, key=self._start.key)
        if self._last is not None and self._last.progress == 1.0:
            return self._ended("complete")
        raise TrainingFailed(
            "the script exited with status 0 before its training run ended: rank 0 exited without "
            "running Python's exit handlers, for example with os._exit; report progress 1 first",
            "exited",
        )

    def _exit_failure(self, status: int) -> TrainingFailed:
        printed = self._output.last_lines()
        problem = f"exit status {status}: {printed.splitlines()[-1] if printed else ''}"
        text = f"the script exited with status {status}{_after(printed)}"
        return TrainingFailed(text, "exited", problem)

    def _failed(self, failure: TrainingFailed) -> TrainingEnd:
        return replace(
            self._ended("failed"),
            failure=str(failure),
            cause=failure.cause,
            problem=failure.problem,
        )

    def _ended(self, state: Any) -> TrainingEnd:
        return TrainingEnd(
            self._start.key, state, self._last, self._seconds, notes=tuple(self._notes)
        )

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)


def _after(printed: str) -> str:
    return f"; the last lines of its output:\n{printed}" if printed else "; it printed nothing"
