"""One attempt at a ticket: from the claim of the ticket to the stored result of its trial."""

import logging
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from sweeper.store.records import (
    EpochRow,
    Result,
    drop_result,
    read_epochs_of,
)
from sweeper.store.schema import LONGEST_NOTES, LONGEST_PROBLEM
from sweeper.store.tickets import Ticket, abandon_ticket, close_ticket, release_ticket
from sweeper.study.space import Point, effective_smoothing, run_hparams
from sweeper.study.spec import StudySpec
from sweeper.trainers.client import TrainerEnd
from sweeper.training.messages import PACKED, Cause, Reply, Report, Start, TrainingEnd
from sweeper.worker.open_study import OpenStudy

# A trial whose worker or trainer died or hung this often is not retried.
MAX_ATTEMPTS: Final = 5
# Crashes, for example segmentation faults, usually repeat, so they are retried less often.
MAX_CRASHES: Final = 2
CRASHES: Final = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)

_DEATH_MESSAGE: Final = "its worker or training process died or hung %d times%s; not retried"

_log = logging.getLogger(__name__)

# How an attempt ends. After "released" and "lost" the ticket is claimed again.
Decision = Literal["pruned", "released", "failed", "lost"]


class TrialRecord(Protocol):
    """Handle the reports of a trial and store its result.

    Implemented by `SearchTrial` for the search and by `ReplicateTrial` for confirmations.
    """

    def begin(self) -> bool:
        """Find or create the trial; return False if no training is needed."""
        ...

    @property
    def number(self) -> int:
        """The number of the trial, or of the training run in a confirmation."""
        ...

    def start(self) -> Mapping[str, Any]:
        """Return the trial-specific fields of `Start`."""
        ...

    def on_report(self, report: Report) -> Reply:
        """Handle a report; return what the training run does next."""
        ...

    def write(self, state: str, last: Report | None, result: Result) -> None:
        """Store the result of the trial. `state` is its final state in Optuna."""
        ...

    def on_close(self) -> None:
        """Clean up after the ticket is closed."""
        ...


@dataclass(eq=False)
class Attempt:
    """A claimed ticket and its trial.

    `decided` is the outcome that the worker chose before the training run ended, None if none.
    `printed` is the size of the output that is stored. `suspended` is the number of seconds
    that the machine was suspended. `peak` is the peak memory in bytes, None if not measured.
    """

    study: OpenStudy
    ticket: Ticket
    record: TrialRecord
    stopping: Callable[[], bool]
    decided: Decision | None = None
    printed: int = 0
    failure: str = ""
    cause: Cause = ""
    problem: str = ""
    last: Report | None = None
    environment: Mapping[str, str] | None = None
    suspended: float = 0.0
    peak: int | None = None

    @property
    def key(self) -> str:
        """The key that identifies this attempt in messages of the trainer."""
        return f"{self.ticket.phase}:{self.ticket.number}:{self.ticket.claims}"

    # ---- from the claim to the end -------------------------------------------------------

    def begin(self) -> Start | None:
        """Find or create the trial; return the run to start, or None if nothing is to be trained.

        Raises `LeaseLost` if another worker holds the ticket.
        """
        study, ticket = self.study, self.ticket
        if not self.record.begin():
            self._close()
            return None
        if ticket.attempts > MAX_ATTEMPTS:
            self.fail(_DEATH_MESSAGE % (MAX_ATTEMPTS, ""), "lost")
            self.conclude()
            return None
        files = study.files
        reported = list[float]()
        if ticket.claims > 1:
            drop_result(study.store, ticket)
            earlier = read_epochs_of(study.store, study.record, ticket.number, ticket.phase)
            reported = [row.progress for row in earlier]
        else:
            # There are some if an older backup of the database was restored.
            files.discard_checkpoints(ticket)
        return Start(
            key=self.key,
            device=study.spec.task.device,
            claim=ticket.claims,
            reported=reported,
            identity=files.checkpoint_key(ticket, study.record.code),
            checkpoint=str(files.checkpoint(ticket)),
            number=self.record.number,
            directory=str(files.directory(ticket.phase, self.record.number)),
            socket=str(study.arrays / f"{self.key.replace(':', '-')}.sock"),
            **self.record.start(),
        )

    def on_report(self, report: Report) -> Reply:
        """Handle a report that is already stored; return what the training run does next."""
        self.last = report
        self.environment = report.environment or self.environment
        if self.decided is not None:
            return Reply("drop")
        difference = self.study.difference(report.environment)
        if difference:
            self.fail(difference, "raised")
            return Reply("drop")
        if report.progress == 1.0:
            return self.record.on_report(report)
        if self.stopping():
            self._decide("released")
            return Reply("release")
        limit = self.study.spec.budget.trial_timeout
        if limit is not None and report.seconds - self.suspended > limit:
            self.fail(timeout_failure(limit), "timeout")
            return Reply("drop")
        reply = self.record.on_report(report)
        if reply.action == "prune":
            self._decide("pruned")
        return reply

    def on_end(self, ending: TrainingEnd) -> None:
        """Handle the end of the training run and store its result."""
        if ending.last is not None:
            self.last = ending.last
            self.environment = ending.last.environment or self.environment
        if self.decided is None:
            if ending.state == "failed":
                self.fail(ending.failure, ending.cause, ending.problem)
            elif ending.state == "stopped":
                self._count_stop(ending.failure)  # the worker did not ask it to stop
        self.conclude(ending)

    def on_trainer_death(self, end: TrainerEnd, *, shared: bool) -> None:
        """Handle the death of the trainer before it sent the end of this training run.

        If the trainer was `shared` by several runs, any of them may be the cause. Each
        is then retried alone.
        """
        self.peak = end.peak
        if self.decided is None:
            if self.stopping():
                self._decide("released")
            elif shared:
                self._decide("lost")
            else:
                self._handle_death(end)
        self.conclude()

    def release(self) -> None:
        """Return the ticket to the queue; the attempt does not count."""
        self.interrupt()
        self.conclude()

    def interrupt(self) -> None:
        """Return the ticket to the queue as soon as the training run has ended."""
        if self.decided is None:
            self._decide("released")

    def abandon(self) -> None:
        """Return the ticket to the queue at once, because its study failed on this worker."""
        self._decide("released")
        release_ticket(self.study.store, self.ticket)

    def on_lease_lost(self) -> None:
        """Stop storing results, because another worker may hold the ticket."""
        if self.decided != "lost":
            _log.warning(
                "study %r, ticket %d: abandoned; its lease expired or the study was deleted",
                self.study.record.name,
                self.ticket.number,
            )
        self._decide("lost")

    def on_hang(self) -> None:
        """Return the ticket to the queue when the trainer has ended; the attempt counts."""
        _log.warning("ticket %d hangs: no report within the time limit", self.ticket.number)
        self._count_failure()

    def fail(self, failure: str, cause: Cause, problem: str = "") -> None:
        """Fail the trial as soon as its training run has ended.

        `problem` is used to recognize equal failures; it defaults to `failure`.
        """
        self._decide("failed")
        self.failure, self.cause, self.problem = failure, cause, problem or failure

    # ---- the end -------------------------------------------------------------------------

    def conclude(self, ending: TrainingEnd | None = None) -> None:
        """Store the outcome. Raises `LeaseLost` if another worker holds the ticket."""
        match self.decided:
            case "released":
                release_ticket(self.study.store, self.ticket, self.peak)
            case "lost":
                abandon_ticket(self.study.store, self.ticket, self.peak)
            case _:
                state = self.decided or "complete"
                result = self._result(ending)
                self.record.write(state, self.last, result)
                self._close()

    def _result(self, ending: TrainingEnd | None) -> Result:
        last = self.last
        notes = ending.notes if ending is not None else last.notes if last is not None else ()
        packed = {PACKED: "yes"} if last is not None and last.packed else {}
        environment = self.environment or {}
        seconds = 0.0 if last is None else last.seconds
        return Result(
            scores={} if last is None else last.scores,
            extra={} if last is None else last.extra,
            environment={**environment, **packed},
            classes=None if last is None else last.classes,
            epochs=0 if last is None else last.number,
            seconds=seconds if ending is None else ending.seconds,
            failure=self.failure,
            cause=self.cause,
            splits="" if last is None else ",".join(last.splits),
            notes="\n".join(notes)[:LONGEST_NOTES],
            code=self.study.record.code,
            problem=self.problem[:LONGEST_PROBLEM],
        )

    def _close(self) -> None:
        close_ticket(self.study.store, self.ticket, self.peak)
        self.study.files.discard_checkpoints(self.ticket)
        self.record.on_close()

    def _decide(self, decision: Decision) -> None:
        self.decided = decision

    def _handle_death(self, end: TrainerEnd) -> None:
        """Decide how to continue after the trainer has died."""
        failure = failure_of(end, self.study.spec)
        if failure is not None:
            self.fail(*failure)
        elif -end.status in CRASHES and self.ticket.attempts >= MAX_CRASHES:
            name = signal.Signals(-end.status).name
            self.fail(
                f"the training process crashed {MAX_CRASHES} times with {name}; not retried",
                "crashed",
            )
        else:
            detail = f" (last signal: {signal_name(-end.status)})" if end.status < 0 else ""
            self._count_failure(detail)

    def _count_stop(self, reason: str) -> None:
        """Count an attempt that ended early, for example a script that asked to be requeued."""
        if reason and self.ticket.attempts >= MAX_ATTEMPTS:
            self.fail(f"{reason}, {MAX_ATTEMPTS} times; not retried", "exited")
        else:
            self._count_failure()

    def _count_failure(self, detail: str = "") -> None:
        """Count a failed attempt; fail the trial if it was the last one allowed."""
        if self.ticket.attempts >= MAX_ATTEMPTS:
            self.fail(_DEATH_MESSAGE % (MAX_ATTEMPTS, detail), "lost")
        else:
            self._decide("lost")


def timeout_failure(limit: float) -> str:
    """Return the failure message of a trial that exceeded `budget.trial_timeout` seconds."""
    return f"the trial took longer than {limit:g} s (budget.trial_timeout)"


def signal_name(number: int) -> str:
    """Return the name of a signal, or its number if it has no name (real-time signals)."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def failure_of(end: TrainerEnd, spec: StudySpec) -> tuple[str, Cause] | None:
    """Return the failure of a training process, or None if a retry may succeed."""
    limit = spec.budget.trial_timeout
    if end.cause == "timeout" and limit is not None:
        return timeout_failure(limit), "timeout"
    if end.cause == "memory":
        return _memory_failure(spec), "memory"
    if end.cause == "" and end.status >= 0:
        failure = (
            f"the training process exited with status {end.status} before training was finished; "
            "see its output for the reason"
        )
        return failure, "exited"
    return None


def _memory_failure(spec: StudySpec) -> str:
    if spec.resources.memory is None:
        return "out of memory: the operating system killed the training process"
    limit = f"{spec.resources.memory:g} GiB"
    return f"the training process used more than {limit} of memory (resources.memory)"


def epoch_row(report: Report) -> EpochRow:
    """Return the database row of a report."""
    scores = report.scores
    return EpochRow(
        epoch=report.number,
        progress=report.progress,
        epsilon=report.epsilon,
        train_loss=report.train_loss,
        nll=scores["nll"],
        accuracy=scores["accuracy"],
        brier=scores["brier"],
        ece=scores["ece"],
        mean_epsilon=report.mean_epsilon,
    )


def run_fields(spec: StudySpec, point: Point) -> dict[str, Any]:
    """Return the fields of `Start` that describe the configuration to train."""
    return {
        "smoothing": tuple(effective_smoothing(point)),
        "seed": spec.study.seed,
        "data_seed": spec.study.seed,
        "hparams": run_hparams(point, spec.space),
    }
