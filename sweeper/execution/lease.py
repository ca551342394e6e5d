"""Keeps a worker's leases alive from a thread of its own."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sweeper.errors import SweeperError
from sweeper.store.database import Store
from sweeper.store.tickets import RENEW_SECONDS, renew


@contextmanager
def renewed_leases(store: Store, worker: str) -> Iterator[None]:
    """Renew the worker's leases until the block ends; a database error only skips a turn."""
    done = threading.Event()

    def renewing() -> None:
        while not done.wait(RENEW_SECONDS):
            try:
                renew(store, worker)
            except SweeperError:
                continue  # tried again at the next turn; a lease outlives two missed ones

    thread = threading.Thread(target=renewing, name="leases", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
