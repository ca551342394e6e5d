"""How far a study is."""

from dataclasses import asdict, dataclass
from typing import Any

from sweeper.store.confirmations import last_confirmation
from sweeper.store.database import Store
from sweeper.store.studies import StudyRecord, states_of
from sweeper.store.tickets import TicketCounts, count_tickets
from sweeper.store.trials import count_trials


@dataclass(frozen=True)
class Progress:
    """Counts of a study's trials; `best` and `baseline` are values of its metric.

    `confirmed` of `confirming` trainings of the confirmation have ended; `paused` says that
    nothing is trained until the study is resumed.
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

    @property
    def ended(self) -> int:
        """How many trials have come to an end, whichever."""
        return self.complete + self.pruned + self.failed

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as plain data."""
        return asdict(self)


def read_progress(store: Store, study: StudyRecord, trials: int) -> Progress:
    """Count a study's trials and tickets under its budget of `trials`."""
    tickets = count_tickets(store, study, below=trials)
    ended = count_trials(store, study.name, below=trials)
    last = last_confirmation(store, study)
    none = TicketCounts(0, 0, 0, 0)
    again = none if last is None else count_tickets(store, study, last.trainings, last.phase)
    return Progress(
        trials=tickets.laid,
        complete=ended.complete,
        pruned=ended.pruned,
        failed=ended.failed,
        running=tickets.leased + again.leased,
        waiting=max(0, tickets.laid - ended.ended - tickets.leased),
        best=ended.best,
        baseline=ended.baseline,
        retried=tickets.retried + again.retried,
        confirming=again.laid,
        confirmed=again.closed,
        paused=states_of(store, [study.id]).get(study.id) == "paused",
    )
