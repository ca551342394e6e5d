"""Renew a worker's leases in a background thread."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from sweeper.errors import SweeperError
from sweeper.store.database import Store
from sweeper.store.studies import states_of
from sweeper.store.tickets import RENEW_SECONDS, Ticket, renew

# Interval between checks of the study states. It is short enough that after a database error a
# lease is renewed before it expires.
CHECK_SECONDS: Final = 2.0


class Leases:
    """The tickets that this worker works on; only their leases are renewed.

    If the database claimed a ticket but its answer was lost, no worker knows of the ticket. Its
    lease expires and it is claimed again.
    """

    def __init__(self, store: Store) -> None:
        # No retries within a call: a failed check is repeated at the next interval.
        self._store = replace(store, outage_seconds=0.0)
        self._tickets: tuple[Ticket, ...] = ()
        self._interrupted = frozenset[int]()
        self._renewed = time.monotonic()

    def hold(self, ticket: Ticket) -> None:
        """Start to renew the lease of a ticket."""
        self._tickets = (*self._tickets, ticket)

    def drop(self, ticket: Ticket) -> None:
        """Stop renewing the lease of a ticket."""
        self._tickets = tuple(other for other in self._tickets if other is not ticket)

    def interrupted(self, study_id: int) -> bool:
        """Return whether a study was paused, stopped or deleted, as of the last check."""
        return study_id in self._interrupted

    def check(self) -> None:
        """Read the states of the studies, and renew the leases if they are due."""
        tickets = self._tickets
        if not tickets:
            return
        studies = {ticket.study_id for ticket in tickets}
        states = states_of(self._store, list(studies))
        self._interrupted = frozenset(study for study in studies if states.get(study) != "running")
        if time.monotonic() - self._renewed >= RENEW_SECONDS:
            renew(self._store, tickets)
            self._renewed = time.monotonic()


@contextmanager
def renewed_leases(store: Store) -> Iterator[Leases]:
    """Renew leases in a thread until the block ends; database errors are retried."""
    done, leases = threading.Event(), Leases(store)

    def keep_renewing() -> None:
        while not done.wait(CHECK_SECONDS):
            try:
                leases.check()
            except SweeperError:
                continue  # database error: try again at the next interval

    thread = threading.Thread(target=keep_renewing, name="leases", daemon=True)
    thread.start()
    try:
        yield leases
    finally:
        done.set()
        thread.join()
