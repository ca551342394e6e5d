"""The progress of a study as text."""

import time

from sweeper.metrics import METRICS
from sweeper.study.progress import Progress


class RemainingTime:
    """Estimate the remaining time of the search, then of the confirmation.

    The estimate uses the rate at which trials have ended, and counts down until the next one ends.
    There is no estimate once the countdown reaches zero, as with trials of very unequal length.
    """

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None
        self._last = (0.0, 0)
        self._total: int | None = None

    def left(self, counts: Progress) -> str:
        """Return the remaining time as text; empty while there is no estimate."""
        now, (ended, total) = time.monotonic(), current_phase(counts)
        if self._first is None or self._first[1] == ended or self._total != total:
            # Start measuring when the first trial ends: before that the workers were starting.
            self._first, self._total = (now, ended), total
        if self._last[1] != ended or self._first[1] == ended:
            self._last = (now, ended)
        first_time, first_ended = self._first
        last_time = self._last[0]
        if ended == first_ended or ended >= total:
            return ""
        seconds_per_trial = (last_time - first_time) / (ended - first_ended)
        seconds = seconds_per_trial * (total - ended) - (now - last_time)
        if seconds < 1:
            return ""
        return f"{seconds:.0f} s left" if seconds < 120 else f"{seconds / 60:.0f} min left"


def _in_confirmation(counts: Progress) -> bool:
    return counts.confirming > 0 and counts.ended >= counts.trials


def current_phase(counts: Progress) -> tuple[int, int]:
    """Return the ended and the total number of trials, or of confirmation runs in that phase."""
    if _in_confirmation(counts):
        return counts.confirmed, counts.confirming
    return counts.ended, counts.trials


def counted(counts: Progress) -> str:
    """Return the count of the current phase, as `12/64` or `confirmation: 3/40`."""
    ended, total = current_phase(counts)
    return f"{'confirmation: ' if _in_confirmation(counts) else ''}{ended}/{total}"


def words(counts: Progress, left: str, metric: str) -> str:
    """Return what is running and what has ended; `left` is the remaining time as text."""
    running = f"{counts.running} running{' in packs' if counts.in_packs else ''}"
    if _in_confirmation(counts):
        parts = [f"{running} on fresh seeds"]
    else:
        heading, write = METRICS[metric].heading, METRICS[metric].write
        best = "" if counts.best is None else f"best {heading} {write(counts.best)}"
        parts = [
            f"{counts.complete} done",
            running,
            f"{counts.pruned} pruned",
            f"{counts.failed} failed",
            best,
        ]
    return " · ".join(part for part in (*parts, "paused" if counts.paused else left) if part)


def line(counts: Progress, left: str, metric: str) -> str:
    """Return the whole progress as one line."""
    return f"{counted(counts)}  {words(counts, left, metric)}"
