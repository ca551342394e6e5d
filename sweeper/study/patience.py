"""Early stopping of a search."""

import math

from sweeper.store.database import Store
from sweeper.store.trials import ended_values


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
