"""Durations of the epochs of a study, used to detect training runs that hang."""

import statistics
from collections import deque
from typing import Final

# A training run hangs if it sends no report for HUNG_SECONDS or for HUNG_EPOCHS times the median
# epoch of its study, whichever is longer.
HUNG_SECONDS: float = 300.0
HUNG_EPOCHS: Final = 10
# Limit for the first epoch, which also loads the data.
FIRST_EPOCH_SECONDS: float = 3600.0
# If epochs are at most this long, the next trial is prepared during the last epoch of the previous.
SHORT_EPOCH_SECONDS: Final = 1.0


class EpochDurations:
    """Durations of the last 101 epochs of a study in this process."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=101)

    def add(self, seconds: float) -> None:
        self._seconds.append(seconds)

    @property
    def are_short(self) -> bool:
        """Whether the median epoch takes at most `SHORT_EPOCH_SECONDS`; False before any epoch."""
        return bool(self._seconds) and statistics.median(self._seconds) <= SHORT_EPOCH_SECONDS

    @property
    def hang_seconds(self) -> float:
        """The number of seconds after which an epoch counts as hanging."""
        if not self._seconds:
            return FIRST_EPOCH_SECONDS
        return max(HUNG_SECONDS, HUNG_EPOCHS * statistics.median(self._seconds))
