"""A worker: claims tickets and runs their trials, of one study or of all, until told to leave."""

import gc
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Final

from sweeper.confirmation.design import finished, to_confirm
from sweeper.errors import SweeperError
from sweeper.store.confirmations import Confirmation
from sweeper.store.database import Store
from sweeper.store.studies import StudyRecord, get_study, studies_with_work
from sweeper.store.tickets import SEARCH, LeaseLost, Ticket, claim, count_open, hand_back
from sweeper.study.load import read_stored
from sweeper.study.objective import train_alone
from sweeper.study.patience import out_of_patience
from sweeper.training.device import torch_threads
from sweeper.worker.attempt import run_ticket
from sweeper.worker.identity import worker_name
from sweeper.worker.leases import Leases, Vigil, renewed_leases
from sweeper.worker.open_study import OpenStudy, open_for_work
from sweeper.worker.packing import TicketPack, pack_size
from sweeper.worker.presence import free_dead
from sweeper.worker.replicate import run_replicate
from sweeper.worker.stopping import StopRequest
from sweeper.worker.watched import Stopped

# Between two looks for a ticket while there is none.
IDLE_SECONDS: Final = 0.5
# Between two looks at which studies there are and what has become of them, while there is work.
REFRESH_SECONDS: Final = 5.0
# Points that a model is asked for before the results of those before them are there, by all
# workers together, and as a share of the budget: docs/search.md says what more would cost.
MOST_ASKED: Final = 32
ASKED_SHARE: Final = 1 / 8

_log = logging.getLogger(__name__)


class Ended(Enum):
    """Why a worker left."""

    FINISHED = "the study is finished"
    STOPPED = "it was asked to stop"
    STUDY_STOPPED = "the study was stopped"
    IDLE = "there was nothing to do"
    ENOUGH = "it has run its trials"


@dataclass(frozen=True)
class Terms:
    """What a worker works on, with what, and when it leaves by itself.

    `name` is a study, None for every running one; `results` the folder of checkpoints, which
    workers may share; `folder` where task files lie on this machine, if not where the launch
    read them; `idle` (seconds) and `trials` are limits, None for none; `workers` is how many
    there are, as far as is known: a pack leaves the others their share.
    """

    name: str | None = None
    results: Path = Path("results")
    folder: Path | None = None
    idle: float | None = None
    trials: int | None = None
    workers: int = 1


def work(
    store: Store,
    terms: Terms,
    stop: StopRequest,
    on_finished: Callable[[str], None] | None = None,
) -> Ended:
    """Run trials until the terms are met or a stop is asked for.

    `on_finished` is given the name of a study that this worker trained for and that is finished.
    Raises `SweeperError` where the one study of the terms cannot be worked on here.
    """
    with renewed_leases(store, stop) as leases, _imports_unfrozen():
        return _Worker(store, terms, stop, leases, on_finished).run()


class _Worker:
    def __init__(
        self,
        store: Store,
        terms: Terms,
        stop: StopRequest,
        leases: Leases,
        on_finished: Callable[[str], None] | None,
    ) -> None:
        self._store, self._terms, self._stop, self._leases = store, terms, stop, leases
        self._on_finished = on_finished
        self._trained: dict[str, OpenStudy] = {}
        self._name = worker_name()
        self._studies = _Studies(store, terms)
        self._sizes: dict[StudyRecord, int] = {}
        self._done = 0
        self._busy_until = time.monotonic()

    def run(self) -> Ended:
        while not self._stop:
            ended = self._worked() or self._idle()
            if ended is not None:
                return ended
        return Ended.STOPPED

    def _worked(self) -> Ended | None:
        """Run trials, of the oldest study first, until there is none to run."""
        while not self._stop:
            if self._done == self._terms.trials:
                return Ended.ENOUGH
            if not any(self._served(study) for study in self._studies.to_serve()):
                return None
        return Ended.STOPPED

    def _served(self, study: OpenStudy) -> bool:
        """Run a trial of the study, or those of a pack; return whether there was one."""
        with torch_threads(study.file.spec.task.threads):
            size = self._size(study)
            return self._run_one(study) if size == 0 else self._run_pack(study, size)

    def _size(self, study: OpenStudy) -> int:
        """Return how many trials of the study are trained in one step, 0 for one by itself."""
        if study.record not in self._sizes:
            self._sizes[study.record] = pack_size(study)
        return self._sizes[study.record]

    def _run_one(self, study: OpenStudy) -> bool:
        """Claim a ticket of the study and run it; return whether there was one."""
        ticket = self._claimed(study)
        if ticket is None:
            return False
        vigil = Vigil(ticket, study.pace)
        with self._leases.held(vigil):
            self._attempt(study, ticket, vigil)
        self._ended(study, ticket)
        return True

    def _run_pack(self, study: OpenStudy, size: int) -> bool:
        """Claim tickets of the study and train them together; return whether there was one."""
        return TicketPack(
            study,
            size,
            partial(self._claimed, study),
            partial(self._ended, study),
            self._leases,
            self._stop,
        ).run()

    def _ended(self, study: OpenStudy, ticket: Ticket) -> None:
        self._done += 1
        self._trained[study.record.name] = study
        self._busy_until = time.monotonic()
        if ticket.phase == SEARCH:
            self._to_confirm(study)  # now: this worker may leave, and be the last one

    def _claimed(self, study: OpenStudy, held: int = 0) -> Ticket | None:
        """Claim a ticket of the search, or of the confirmation when the search has ended.

        `held` are in this worker's pack already: another one is left to others where it is theirs.
        """
        if held and held + self._done == self._terms.trials:
            return None
        store, record, budget = self._store, study.record, study.file.spec.budget
        if not store.call(lambda: out_of_patience(study.optuna, budget.patience)):
            ticket = self._claim(record, SEARCH, budget.trials, held)
            if ticket is not None:
                return ticket
        laid = self._to_confirm(study)
        return None if laid is None else self._claim(record, laid.phase, laid.trainings, held)

    def _claim(self, study: StudyRecord, phase: str, below: int, held: int) -> Ticket | None:
        take = partial(claim, self._store, study.id, self._name, below=below, phase=phase)
        if held == 0:
            return take()
        workers = self._terms.workers
        enough = (held + 1) * workers
        count = partial(count_open, self._store, study.id, below=below, phase=phase)
        if workers == 1 or count(points="laid", most=enough) == enough:
            ticket = take(points="laid", fresh=True)
            if ticket is not None:
                return ticket
        may_ask = enough <= min(MOST_ASKED, ASKED_SHARE * below)
        return take(points="asked", fresh=True) if may_ask else None

    def _to_confirm(self, study: OpenStudy) -> Confirmation | None:
        """Return the confirmation that is due, laid out now where nobody has."""
        return to_confirm(self._store, study.record, study.file.spec, study.optuna)

    def _attempt(self, study: OpenStudy, ticket: Ticket, vigil: Vigil) -> None:
        run = run_ticket if ticket.phase == SEARCH else run_replicate
        try:
            train_alone(study.file.task.trainer, run(study, ticket, self._stop, vigil))
        except LeaseLost:
            pass  # another worker has the ticket; its result is the one that counts
        except Stopped:
            hand_back(self._store, ticket)
        except KeyboardInterrupt:
            hand_back(self._store, ticket)
            raise

    def _idle(self) -> Ended | None:
        """Wait for a while for more to do; return why there will be nothing."""
        self._say_finished()
        ended = self._studies.over()
        if ended is not None:
            return ended
        limit = self._terms.idle
        if limit is not None and time.monotonic() - self._busy_until >= limit:
            return Ended.IDLE
        if not self._studies.free_dead():
            self._stop.wait(IDLE_SECONDS)
        self._studies.refresh()
        return None

    def _say_finished(self) -> None:
        if self._on_finished is None:
            return
        for name, study in list(self._trained.items()):
            if finished(self._store, study.record, study.file.spec, study.optuna):
                self._on_finished(name)
                del self._trained[name]


class _Studies:
    """The studies that a worker serves, opened once and again when they have changed."""

    def __init__(self, store: Store, terms: Terms) -> None:
        self._store, self._terms = store, terms
        self._opened: dict[StudyRecord, OpenStudy | None] = {}
        self._looked = time.monotonic()
        self._records: list[StudyRecord] = []
        self.refresh()

    def refresh(self) -> None:
        """Look which studies there are now."""
        self._looked = time.monotonic()
        name = self._terms.name
        self._records = (
            studies_with_work(self._store) if name is None else [get_study(self._store, name)]
        )
        self._opened = {
            record: self._opened[record] if record in self._opened else self._open(record)
            for record in self._records
        }

    def to_serve(self) -> list[OpenStudy]:
        """Return the studies that this worker can work on, oldest first."""
        if time.monotonic() - self._looked > REFRESH_SECONDS:
            self.refresh()
        return [study for study in self._opened.values() if study is not None]

    def over(self) -> Ended | None:
        """Return why there will be no more work on the one study that is served, if so."""
        if self._terms.name is None:
            return None
        (study,) = self.to_serve()
        if study.record.state == "stopped":
            return Ended.STUDY_STOPPED
        over = finished(self._store, study.record, study.file.spec, study.optuna)
        return Ended.FINISHED if over else None

    def free_dead(self) -> int:
        """Free the leases of dead workers of this host; return how many."""
        return sum(free_dead(self._store, record) for record in self._records)

    def _open(self, record: StudyRecord) -> OpenStudy | None:
        threads = read_stored(record.spec).spec.task.threads
        try:
            with torch_threads(threads):
                study = open_for_work(self._store, record, self._terms.results, self._terms.folder)
        except SweeperError as error:
            if self._terms.name is not None:
                raise
            _log.warning("not served here: %s", error)
            return None
        # Full collections over all that is imported by now cost 3 % of a short trial.
        gc.freeze()
        return study


@contextmanager
def _imports_unfrozen() -> Iterator[None]:
    # The process may be a notebook, which has to get its garbage collected again.
    try:
        yield
    finally:
        gc.unfreeze()
