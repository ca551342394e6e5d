"""A worker: claims tickets of one study and runs their trials until there is nothing to do."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Final

import torch

from sweeper.execution.attempt import OpenStudy, Stopped, open_for_work, run_ticket
from sweeper.execution.identity import worker_name
from sweeper.execution.lease import Leases, renewed_leases
from sweeper.execution.presence import free_dead
from sweeper.execution.stopping import StopRequest
from sweeper.store.database import Store
from sweeper.store.studies import StudyRecord
from sweeper.store.tickets import LeaseLost, Ticket, all_closed, claim, hand_back
from sweeper.study.load import read_stored
from sweeper.study.patience import out_of_patience

# Between two looks for a ticket while other workers hold the last ones.
IDLE_SECONDS: Final = 0.5


class Ended(Enum):
    """Why a worker left."""

    FINISHED = "the study is finished"
    STOPPED = "it was asked to stop"


def work(store: Store, record: StudyRecord, stop: StopRequest) -> Ended:
    """Run trials of a study until it is finished or a stop is asked for."""
    worker, spec = worker_name(), read_stored(record.spec).spec
    with _threads(spec.task.threads), renewed_leases(store) as leases:
        study = open_for_work(store, record)
        with _imports_frozen():
            return _work(study, worker, leases, stop)


def _work(study: OpenStudy, worker: str, leases: Leases, stop: StopRequest) -> Ended:
    store, record, budget = study.store, study.record, study.file.spec.budget
    while not stop:
        if store.call(lambda: out_of_patience(study.optuna, budget.patience)):
            return Ended.FINISHED
        ticket = claim(store, record.id, worker, below=budget.trials)
        if ticket is not None:
            with leases.held(ticket):
                _attempt(study, ticket, stop)
        elif all_closed(store, record, budget.trials):
            return Ended.FINISHED
        elif not free_dead(store, record):
            stop.wait(IDLE_SECONDS)
    return Ended.STOPPED


def _attempt(study: OpenStudy, ticket: Ticket, stop: StopRequest) -> None:
    try:
        run_ticket(study, ticket, stop)
    except LeaseLost:
        pass  # another worker has the ticket; its result is the one that counts
    except Stopped:
        hand_back(study.store, ticket)
    except KeyboardInterrupt:
        hand_back(study.store, ticket)
        raise


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _imports_frozen() -> Iterator[None]:
    # Full collections over all that is imported by now cost 3 % of a short trial. Undone at the
    # end, since the process may be a notebook.
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
