"""Keeps a worker's leases alive from a thread of its own."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from sweeper.errors import SweeperError
from sweeper.store.database import Store
from sweeper.store.tickets import RENEW_SECONDS, Ticket, renew

# After a database error: soon enough that a lease is renewed before others take it.
RETRY_SECONDS: Final = 1.0


class Leases:
    """The tickets that this worker is at; only these are renewed.

    A ticket that was claimed by a transaction whose answer was lost is nobody's work: its lease
    runs out, and it is claimed again.
    """

    def __init__(self) -> None:
        self._held: list[Ticket] = []

    @contextmanager
    def held(self, ticket: Ticket) -> Iterator[None]:
        """Renew the ticket's lease until the block ends."""
        self._held = [*self._held, ticket]
        try:
            yield
        finally:
            self._held = [other for other in self._held if other != ticket]

    def renew(self, store: Store) -> None:
        """Renew all that are held now."""
        held = self._held
        if held:
            renew(store, held)


@contextmanager
def renewed_leases(store: Store) -> Iterator[Leases]:
    """Renew leases until the block ends; they outlive errors of the database."""
    done, leases = threading.Event(), Leases()
    unwaiting = replace(store, outage_seconds=0.0)

    def renewing() -> None:
        pause = RENEW_SECONDS
        while not done.wait(pause):
            try:
                leases.renew(unwaiting)
                pause = RENEW_SECONDS
            except SweeperError:
                pause = RETRY_SECONDS

    thread = threading.Thread(target=renewing, name="leases", daemon=True)
    thread.start()
    try:
        yield leases
    finally:
        done.set()
        thread.join()
