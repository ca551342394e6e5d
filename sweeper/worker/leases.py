"""Keeps a worker's leases alive from a thread of its own, and watches the trials they are for."""

import logging
import math
import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, NoReturn

from sweeper.errors import SweeperError
from sweeper.store.database import Store
from sweeper.store.studies import states_of
from sweeper.store.tickets import RENEW_SECONDS, Ticket, give_up, hand_back, renew
from sweeper.worker.stopping import StopRequest

# Between two looks at the trials and at the states of their studies. After a database error it
# is soon enough that a lease is renewed before others take it.
LOOK_SECONDS: Final = 2.0
# A trial without a new epoch for this long hangs, or for ten times its study's median epoch.
HUNG_SECONDS = 300.0
HUNG_EPOCHS: Final = 10
# Nothing is known of how long the first epoch may take: it loads the data, too.
FIRST_EPOCH_SECONDS = 3600.0
# Exit status of a worker that could only leave its trial by ending: sysexits.h's EX_TEMPFAIL.
GAVE_UP: Final = 75

_log = logging.getLogger(__name__)


class Pace:
    """How long the epochs of a study take in this process."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=101)

    def add(self, seconds: float) -> None:
        """Take note of an epoch."""
        self._seconds.append(seconds)

    @property
    def longest(self) -> float:
        """How many seconds an epoch may take before its trial is said to hang."""
        if not self._seconds:
            return FIRST_EPOCH_SECONDS
        return max(HUNG_SECONDS, HUNG_EPOCHS * statistics.median(self._seconds))


class Vigil:
    """One trial as the lease thread sees it: alive, hung or late, still to be run or not.

    `sharing` trials have their time together: each may take as many times longer.
    """

    def __init__(self, ticket: Ticket, pace: Pace, sharing: int = 1) -> None:
        self.ticket = ticket
        self._sharing = sharing
        self.interrupted = False  # its study was paused, stopped or deleted
        self._pace = pace
        self._since = math.inf  # when its epoch began; inf while it is not training
        self._deadline = math.inf
        self._end_late: Callable[[Store], None] | None = None
        self._ended = threading.Lock()

    def limit(self, seconds: float, end_late: Callable[[Store], None]) -> None:
        """Let the trial have so many seconds from now; `end_late` records that it had them."""
        self._end_late = end_late
        self._deadline = time.monotonic() + seconds * self._sharing

    def epoch_begins(self) -> None:
        """Watch the training from here on: what comes before waits for the database alone."""
        self._since = time.monotonic()

    def epoch_ended(self) -> None:
        """Take the sign of life, and watch no more until the next epoch begins."""
        self._pace.add(time.monotonic() - self._since)
        self._since = math.inf

    def rests(self) -> None:
        """Watch no more: the training is over."""
        self._since = math.inf

    @property
    def late(self) -> bool:
        """Whether the trial has taken longer than it may."""
        return time.monotonic() > self._deadline

    @property
    def hung(self) -> bool:
        """Whether there has been no new epoch for too long."""
        return time.monotonic() - self._since > self._pace.longest

    def first_to_end(self) -> bool:
        """Return whether nobody else has ended the trial for its lateness."""
        return self._ended.acquire(blocking=False)

    def ended_late(self, store: Store) -> bool:
        """Record that the trial took too long; return False where its own thread does."""
        if self._end_late is None or not self.first_to_end():
            return False
        try:
            self._end_late(store)
        except BaseException:
            self._ended.release()  # not recorded: at the next look
            raise
        return True


class Leases:
    """The tickets that this worker is at; only these are renewed.

    A ticket that was claimed by a transaction whose answer was lost is nobody's work: its lease
    runs out, and it is claimed again.
    """

    def __init__(self, store: Store, stop: StopRequest) -> None:
        # A look that the database does not answer is made again at the next.
        self._store = replace(store, outage_seconds=0.0)
        self._stop = stop
        self._vigils: list[Vigil] = []
        self._renewed = time.monotonic()

    @contextmanager
    def held(self, vigil: Vigil) -> Iterator[None]:
        """Renew the ticket's lease until the block ends."""
        self._vigils = [*self._vigils, vigil]
        try:
            yield
        finally:
            self._drop(vigil)

    def look(self) -> None:
        """Renew what is due, and part with trials that cannot be waited for."""
        vigils = self._vigils
        if not vigils:
            return
        for vigil in vigils:
            self._part(vigil)
        states = states_of(self._store, [vigil.ticket.study_id for vigil in vigils])
        for vigil in vigils:
            vigil.interrupted = states.get(vigil.ticket.study_id) != "running"
        if time.monotonic() - self._renewed >= RENEW_SECONDS:
            renew(self._store, [vigil.ticket for vigil in vigils])
            self._renewed = time.monotonic()

    def _part(self, vigil: Vigil) -> None:
        if self._stop.overdue:
            hand_back(self._store, vigil.ticket)
            self._leave(vigil, "did not come to the end of its epoch in time; it is handed back")
        elif vigil.late and vigil.ended_late(self._store):
            self._leave(vigil, "took longer than budget.trial_timeout allows")
        elif vigil.hung:
            give_up(self._store, vigil.ticket)
            self._leave(vigil, "hangs: no new epoch for too long; its lease is given up")

    def _drop(self, vigil: Vigil) -> None:
        self._vigils = [other for other in self._vigils if other is not vigil]

    def _leave(self, vigil: Vigil, why: str) -> None:
        self._drop(vigil)
        _log.warning("trial of ticket %d %s", vigil.ticket.number, why)
        if self._stop.own_process:
            _exit()


def _exit() -> NoReturn:
    """End the process: nothing gentler ends a thread that does not listen."""
    logging.shutdown()
    os._exit(GAVE_UP)


@contextmanager
def renewed_leases(store: Store, stop: StopRequest) -> Iterator[Leases]:
    """Renew leases until the block ends; they outlive errors of the database."""
    done, leases = threading.Event(), Leases(store, stop)

    def looking() -> None:
        while not done.wait(LOOK_SECONDS):
            try:
                leases.look()
            except SweeperError:
                continue  # the database does not answer: again at the next look

    thread = threading.Thread(target=looking, name="leases", daemon=True)
    thread.start()
    try:
        yield leases
    finally:
        done.set()
        thread.join()
