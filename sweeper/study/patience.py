"""The end of a search before all of its trials are started."""

import math

from sweeper.store.database import Store
from sweeper.store.studies import StudyRecord
from sweeper.store.tickets import SEARCH
from sweeper.store.trials import ended_values
from sweeper.store.usage import Hours, hours_used
from sweeper.study.budget import BudgetSection


def patience_exceeded(store: Store, name: str, patience: int | None) -> bool:
    """Return whether none of the last `patience` ended trials improved the best value.

    Always False if `patience` is None.
    """
    if patience is None:
        return False
    best, without_improvement = math.inf, 0
    for value in ended_values(store, name):
        if value is not None and value < best:
            best, without_improvement = value, 0
        else:
            without_improvement += 1
    return without_improvement >= patience


def hours_exceeded(used: Hours, budget: BudgetSection) -> str:
    """Return the key of [budget] whose hours are used, "" if none."""
    pairs = (("core_hours", budget.core_hours), ("gpu_hours", budget.gpu_hours))
    for key, limit in pairs:
        if limit is not None and getattr(used, key) >= limit:
            return key
    return ""


def early_end(store: Store, record: StudyRecord, budget: BudgetSection) -> str:
    """Return the key of [budget] for which a search starts no more trials, "" if none.

    The number of trials is not one of these keys.
    """
    if patience_exceeded(store, record.name, budget.patience):
        return "patience"
    if budget.core_hours is None and budget.gpu_hours is None:
        return ""
    return hours_exceeded(hours_used(store, record.id, SEARCH), budget)
