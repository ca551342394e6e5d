"""The workers of a study, read from the database."""

from dataclasses import asdict, dataclass
from typing import Any

from sweeper.store.damage import reports_damage
from sweeper.store.database import Store
from sweeper.store.studies import StudyRecord
from sweeper.store.tickets import (
    SEARCH,
    held_tickets,
    last_workers,
    leaseholders,
    revoke_leases,
)
from sweeper.store.trials import trial_numbers
from sweeper.store.worker_names import parse_worker_name
from sweeper.worker.identity import is_dead


@dataclass(frozen=True)
class WorkerState:
    """A ticket that a worker holds.

    `slots` is the number of training runs, or packs, that the worker runs at a time. `trial` is
    None until the trial is created; in a confirmation (see `phase`) it is the number of the
    training run. `unseen` is the number of seconds since the lease was renewed. `stale` is true
    after the lease has expired: the worker is dead or cannot reach the database, and another
    worker takes the ticket over.
    """

    host: str
    pid: int
    slots: int
    phase: str
    trial: int | None
    attempt: int
    unseen: float
    stale: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@reports_damage
def read_workers(store: Store, study: StudyRecord) -> list[WorkerState]:
    """Return one `WorkerState` per ticket of the study that a worker holds, by ticket number."""
    held = held_tickets(store, study)
    trials = trial_numbers(store, study.name, [t.number for t in held if t.phase == SEARCH])
    return [
        WorkerState(
            *parse_worker_name(ticket.worker),
            phase=ticket.phase,
            trial=trials.get(ticket.number) if ticket.phase == SEARCH else ticket.number,
            attempt=ticket.attempts,
            unseen=round(ticket.unseen, 1),
            stale=not ticket.leased,
        )
        for ticket in held
        if ticket.worker is not None and ticket.unseen is not None
    ]


@reports_damage
def read_trial_workers(store: Store, study: StudyRecord) -> dict[int, str]:
    """Return the last worker of each trial as HOST:PID, by trial number."""
    numbers = trial_numbers(store, study.name)
    workers = {
        ticket: parse_worker_name(name) for ticket, name in last_workers(store, study).items()
    }
    return {
        numbers[ticket]: f"{worker.host}:{worker.pid}"
        for ticket, worker in workers.items()
        if ticket in numbers
    }


def revoke_dead_leases(store: Store, study: StudyRecord) -> int:
    """Revoke the leases of dead workers on this host; return the number of leases."""
    dead = [worker for worker in leaseholders(store, study) if is_dead(worker)]
    return revoke_leases(store, dead) if dead else 0
