"""Slots of a worker: each runs one trainer, which trains one attempt or a pack of attempts."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from sweeper.errors import DatabaseFailed, SweeperError
from sweeper.store.outputs import Output, write_outputs
from sweeper.store.records import write_epochs
from sweeper.store.tickets import LeaseLost, Ticket, set_share
from sweeper.training.messages import FromTrainer, Reply, Report, Start, ToTrainer, TrainingEnd
from sweeper.worker.attempt import Attempt, epoch_row
from sweeper.worker.open_study import OpenStudy
from sweeper.worker.output import PrintedOutput

# Tolerance, because progress may be a sum of rounded fractions.
_ROUNDING: Final = 1e-6

# Takes the number of attempts in the slot; returns the next attempt for it, or None.
Claim = Callable[[int], Attempt | None]
# Returns the output of an attempt's training run, None if the run has not started.
GetOutput = Callable[[Attempt], PrintedOutput | None]


@dataclass(frozen=True)
class SlotWork:
    """What a slot works on.

    `places` is the maximum number of attempts at a time, which share the slot's cores and GPUs.
    `claim` returns the next attempt.
    `on_ended` is called with each attempt that has ended, for any reason.
    """

    study: OpenStudy
    places: int
    claim: Claim
    on_ended: Callable[[Attempt], None]


class Slot:
    """The attempts of one trainer, and the handling of its messages.

    `attempts` are being trained. More attempts can be prepared meanwhile. If `joins` is true, runs
    can join a running trainer, and prepared attempts start with the next answer to it. Otherwise
    they start with the next call of `fill`.
    """

    def __init__(self, work: SlotWork, prints: GetOutput, *, joins: bool) -> None:
        self.study = work.study
        self.attempts: dict[str, Attempt] = {}
        self._prepared: dict[str, tuple[Attempt, Start]] = {}
        self._work, self._get_output, self._joins = work, prints, joins
        self._answered = math.inf
        self._sharing = frozenset[str]()

    # ---- attempts ------------------------------------------------------------------------

    @property
    def has_prepared(self) -> bool:
        """Whether prepared attempts wait to be started."""
        return bool(self._prepared)

    def fill(self) -> list[Start]:
        """Claim tickets for all free places; return the training runs to start."""
        while len(self.attempts) + len(self._prepared) < self._work.places and self.prepare():
            pass
        starts = self._start_prepared()
        self._share()
        return starts

    def prepare(self) -> bool:
        """Claim a ticket for a place that is free or will be free very soon.

        Returns False if no ticket was claimed. Places that will be free soon count only if epochs
        are short; otherwise another worker may be free earlier.
        """
        soon = self._joins and self.study.durations.are_short
        ending = sum(map(_is_last_report, self.attempts.values())) if soon else 0
        held = len(self.attempts) + len(self._prepared) - ending
        if held >= self._work.places or self.runs_alone:
            return False
        attempt = self._work.claim(held)
        if attempt is None:
            return False
        try:
            start = attempt.begin()
        except LeaseLost:
            attempt.on_lease_lost()
            start = None
        except DatabaseFailed:
            raise
        except BaseException:
            self._abandon(attempt)
            raise
        if start is None:
            self._work.on_ended(attempt)
        else:
            self._prepared[attempt.key] = attempt, start
        return True

    def _start_prepared(self) -> list[Start]:
        """Move prepared attempts to free places; return their training runs."""
        starts = []
        for key, (attempt, start) in list(self._prepared.items()):
            if len(self.attempts) < self._work.places:
                del self._prepared[key]
                self.attempts[key] = attempt
                starts.append(start)
        return starts

    def _share(self) -> None:
        """Store which part of the slot each attempt of a pack uses, if it has changed."""
        if self._work.places > 1 and self._sharing != self.attempts.keys():
            self._sharing = frozenset(self.attempts)
            held = [attempt.ticket for attempt in self.attempts.values()]
            if held:
                set_share(self.study.store, held, 1 / len(held))

    @property
    def runs_alone(self) -> bool:
        """Whether the slot has a ticket with failed earlier attempts; such a ticket runs alone."""
        held = [*self.attempts.values(), *(attempt for attempt, _ in self._prepared.values())]
        return any(attempt.ticket.attempts > 1 for attempt in held)

    def conclude(self, attempt: Attempt, conclude: Callable[[], None]) -> None:
        """Store the output and the end of an attempt, and remove it from the slot."""
        outputs = self._new_output([attempt])
        if outputs:
            write_outputs(self.study.store, outputs)
        try:
            conclude()
        except LeaseLost:  # another worker holds the ticket, and its result counts
            attempt.on_lease_lost()
        self._remove(attempt)

    def release(self) -> None:
        """Return all tickets to the queue."""
        for attempt in list(self.attempts.values()):
            self.conclude(attempt, attempt.release)
        self.release_prepared(lambda _: True)

    def release_prepared(self, which: Callable[[Attempt], bool]) -> None:
        """Return the tickets of prepared attempts for which `which` is true to the queue."""
        for key, (attempt, _) in list(self._prepared.items()):
            if which(attempt):
                del self._prepared[key]
                with suppress(LeaseLost):
                    attempt.release()
                self._work.on_ended(attempt)

    def abandon(self) -> None:
        """Return all tickets to the queue without storing anything else, after a study failed."""
        attempts = [*self.attempts.values(), *(attempt for attempt, _ in self._prepared.values())]
        self.attempts.clear()
        self._prepared.clear()
        for attempt in attempts:
            self._abandon(attempt)

    def _abandon(self, attempt: Attempt) -> None:
        with suppress(SweeperError):  # then its lease expires
            attempt.abandon()
        self._work.on_ended(attempt)

    def _remove(self, attempt: Attempt) -> None:
        del self.attempts[attempt.key]
        self._work.on_ended(attempt)

    # ---- messages ------------------------------------------------------------------------

    def handle(self, message: FromTrainer) -> ToTrainer:
        """Handle a message of the trainer; return the answer, including runs that join."""
        if message.reports:
            self.study.durations.add(time.monotonic() - self._answered)
        if message.sources and not self.study.sources.record_imports(message.sources):
            for attempt in self.attempts.values():
                attempt.interrupt()
        replies = self._replies([report for report in message.reports if self._is_expected(report)])
        for ending in message.endings:
            self._handle_end(ending, message.memory)
        starts = self._start_prepared() if self._joins else []
        self._share()
        self.restart_hang_timer()
        return ToTrainer(replies, starts)

    def _is_expected(self, report: Report) -> bool:
        """Return whether this is the next report of an attempt of this slot."""
        attempt = self.attempts.get(report.key)
        before = 0 if attempt is None or attempt.last is None else attempt.last.number
        return attempt is not None and (before == 0 or report.number == before + 1)

    def restart_hang_timer(self) -> None:
        """Restart the hang detection: until now the trainer has waited for this worker."""
        self._answered = time.monotonic()

    def exclude_suspension(self, seconds: float) -> None:
        """Exclude a time in which this machine was suspended from all time limits."""
        self._answered += seconds
        for attempt in self.attempts.values():
            attempt.suspended += seconds

    @property
    def hung(self) -> bool:
        """Whether the trainer has sent no message for longer than an epoch may take."""
        return (
            bool(self.attempts)
            and time.monotonic() - self._answered > self.study.durations.hang_seconds
        )

    def _replies(self, reports: Sequence[Report]) -> dict[str, Reply]:
        """Store the reports of an epoch in one transaction; return the reply to each."""
        attempts = [self.attempts[report.key] for report in reports]
        rows = [
            (attempt.ticket, epoch_row(report))
            for attempt, report in zip(attempts, reports, strict=True)
            if attempt.decided is None
        ]
        lost = write_epochs(self.study.store, rows, self._new_output(attempts))
        for attempt in attempts:
            if attempt.ticket in lost:
                attempt.on_lease_lost()
        return {
            attempt.key: self._reply(attempt, report)
            for attempt, report in zip(attempts, reports, strict=True)
        }

    def _reply(self, attempt: Attempt, report: Report) -> Reply:
        try:
            return attempt.on_report(report)
        except LeaseLost:
            attempt.on_lease_lost()
            return Reply("drop")

    def _handle_end(self, ending: TrainingEnd, memory: int | None) -> None:
        attempt = self.attempts.get(ending.key)
        if attempt is not None:
            attempt.peak = memory
            self.conclude(attempt, lambda: attempt.on_end(ending))

    def _new_output(self, attempts: Sequence[Attempt]) -> list[tuple[Ticket, Output]]:
        """Return the output of each attempt that has printed more than what is stored."""
        outputs = []
        for attempt in attempts:
            printed = self._get_output(attempt)
            size = 0 if printed is None else printed.size()
            if printed is not None and size > attempt.printed:
                attempt.printed = size
                output = Output(attempt.ticket.claims, size, printed.end())
                outputs.append((attempt.ticket, output))
        return outputs


def _is_last_report(attempt: Attempt) -> bool:
    """Return whether the next report will be the last one, assuming equal progress per epoch."""
    last = attempt.last
    return last is not None and last.progress * (1 + 1 / last.number) >= 1 - _ROUNDING
