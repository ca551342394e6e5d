"""How far a study is."""

from dataclasses import asdict, dataclass
from typing import Any

from sweeper.store.database import Store
from sweeper.store.studies import StudyRecord, states_of
from sweeper.store.tickets import count_tickets
from sweeper.store.trials import count_trials


@dataclass(frozen=True)
class Progress:
    """Counts of a study's trials; `best` and `baseline` are values of its metric.

    `paused` says that nothing is trained until the study is resumed.
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
    done = ended.complete + ended.pruned + ended.failed
    return Progress(
        trials=tickets.laid,
        complete=ended.complete,
        pruned=ended.pruned,
        failed=ended.failed,
        running=tickets.leased,
        waiting=max(0, tickets.laid - done - tickets.leased),
        best=ended.best,
        baseline=ended.baseline,
        retried=tickets.retried,
        paused=states_of(store, [study.id]).get(study.id) == "paused",
    )
