"""The progress of a study."""

from dataclasses import asdict, dataclass
from typing import Any

from sweeper.store.confirmations import last_confirmation
from sweeper.store.damage import reports_damage
from sweeper.store.database import Store
from sweeper.store.studies import StudyRecord, states_of
from sweeper.store.tickets import TicketCounts, count_tickets, leaseholders
from sweeper.store.trials import count_trials
from sweeper.store.worker_names import parse_worker_name


@dataclass(frozen=True)
class Progress:
    """Counts of a study's trials; `best` and `baseline` are validation values of its metric.

    The confirmation has `confirming` training runs, of which `confirmed` have ended. If `paused`,
    nothing is trained until the study is resumed. `slots` is the number of slots of the workers
    that run something. The hours are those of all attempts of the search, and of the confirmation
    (`confirmation_…`).
    """

    trials: int
    complete: int
    pruned: int
    failed: int
    running: int
    waiting: int
    best: float | None
    baseline: float | None
    retried: int
    confirming: int = 0
    confirmed: int = 0
    paused: bool = False
    slots: int = 0
    core_hours: float = 0.0
    gpu_hours: float = 0.0
    confirmation_core_hours: float = 0.0
    confirmation_gpu_hours: float = 0.0

    @property
    def in_packs(self) -> bool:
        """Whether more trials are running than there are slots, so that slots train packs."""
        return self.running > self.slots > 0

    @property
    def ended(self) -> int:
        """Number of complete, pruned and failed trials."""
        return self.complete + self.pruned + self.failed

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "slots"}


@reports_damage
def read_progress(store: Store, study: StudyRecord, trials: int) -> Progress:
    """Count a study's trials and tickets under its budget of `trials`."""
    tickets = count_tickets(store, study, below=trials)
    ended = count_trials(store, study.name, below=trials)
    last = last_confirmation(store, study)
    no_tickets = TicketCounts(0, 0, 0, 0)
    confirmation = (
        no_tickets if last is None else count_tickets(store, study, last.training_runs, last.phase)
    )
    return Progress(
        trials=tickets.planned,
        complete=ended.complete,
        pruned=ended.pruned,
        failed=ended.failed,
        running=tickets.leased + confirmation.leased,
        waiting=max(0, tickets.planned - ended.ended - tickets.leased),
        best=ended.best,
        baseline=ended.baseline,
        retried=tickets.retried + confirmation.retried,
        confirming=confirmation.planned,
        confirmed=confirmation.closed,
        slots=sum(parse_worker_name(name).slots for name in leaseholders(store, study)),
        core_hours=tickets.core_seconds / 3600,
        gpu_hours=tickets.gpu_seconds / 3600,
        confirmation_core_hours=confirmation.core_seconds / 3600,
        confirmation_gpu_hours=confirmation.gpu_seconds / 3600,
        paused=states_of(store, [study.id]).get(study.id) == "paused",
    )
