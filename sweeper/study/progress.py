"""How far a study is."""

from dataclasses import asdict, dataclass
from typing import Any

from optuna.trial import TrialState

from sweeper.store.database import Store
from sweeper.store.studies import StudyRecord
from sweeper.store.tickets import ticket_states
from sweeper.study.frames import our_trials
from sweeper.study.trials import TICKET


@dataclass(frozen=True)
class Progress:
    """Counts of a study's trials; `best` and `baseline` are values of its metric."""

    trials: int
    complete: int
    pruned: int
    failed: int
    running: int
    waiting: int
    best: float | None
    baseline: float | None
    retried: int

    @property
    def ended(self) -> int:
        """How many trials have come to an end, whichever."""
        return self.complete + self.pruned + self.failed

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as plain data."""
        return asdict(self)


def read_progress(store: Store, study: StudyRecord, trials: int) -> Progress:
    """Count a study's trials and tickets under its budget of `trials`."""
    tickets = [t for t in ticket_states(store, study) if t.number < trials]
    found = [t for t in our_trials(store, study.name) if t.user_attrs[TICKET] < trials]
    states = [trial.state for trial in found]
    values = {
        trial.user_attrs[TICKET]: trial.value
        for trial in found
        if trial.state == TrialState.COMPLETE and trial.value is not None
    }
    ended = sum(state.is_finished() for state in states)
    running = sum(ticket.leased for ticket in tickets)
    return Progress(
        trials=len(tickets),
        complete=states.count(TrialState.COMPLETE),
        pruned=states.count(TrialState.PRUNED),
        failed=states.count(TrialState.FAIL),
        running=running,
        waiting=max(0, len(tickets) - ended - running),
        best=min(values.values(), default=None),
        baseline=values.get(0),
        retried=sum(max(0, ticket.attempts - 1) for ticket in tickets),
    )
