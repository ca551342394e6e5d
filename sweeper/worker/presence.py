"""Which workers are at a study, as its database knows it."""

from dataclasses import asdict, dataclass
from typing import Any

from sweeper.store.database import Store
from sweeper.store.studies import StudyRecord
from sweeper.store.tickets import SEARCH, free_leases, held_tickets, leaseholders
from sweeper.store.trials import trial_numbers
from sweeper.worker.identity import host_and_pid, is_dead


@dataclass(frozen=True)
class WorkerState:
    """A worker that holds a ticket; `trial` is None before its trial is born.

    In a confirmation `trial` is the number of its training there, and `phase` says so. `unseen`
    is how many seconds ago it renewed its lease; `stale` after it ran out: the worker is dead or
    cut off, and the next writer that looks takes the ticket over.
    """

    host: str
    pid: int
    phase: str
    trial: int | None
    attempt: int
    unseen: float
    stale: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)


def read_workers(store: Store, study: StudyRecord) -> list[WorkerState]:
    """Return the workers that hold a ticket of a study, by ticket."""
    held = held_tickets(store, study)
    born = trial_numbers(store, study.name, [t.number for t in held if t.phase == SEARCH])
    return [
        WorkerState(
            *host_and_pid(ticket.worker),
            phase=ticket.phase,
            trial=born.get(ticket.number) if ticket.phase == SEARCH else ticket.number,
            attempt=ticket.attempts,
            unseen=round(ticket.unseen, 1),
            stale=not ticket.leased,
        )
        for ticket in held
        if ticket.worker is not None and ticket.unseen is not None
    ]


def free_dead(store: Store, study: StudyRecord) -> int:
    """Free the leases of workers of this host that are no more; return how many."""
    dead = [worker for worker in leaseholders(store, study) if is_dead(worker)]
    return free_leases(store, dead) if dead else 0
