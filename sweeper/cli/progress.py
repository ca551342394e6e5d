"""A sweep while it runs: a live bar in a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from sweeper.study.progress import Progress as Counts

# Between two plain lines: a log file should stay readable.
PLAIN_SECONDS = 5.0


@contextmanager
def shown(console: Console, name: str) -> Iterator[Callable[[Counts], None]]:
    """Yield what to call with each state of the sweep."""
    clock = Clock()
    if not console.is_terminal:
        yield Lines(console, clock)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[words]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=None, words="starting workers")
        yield Bar(bar, task, clock)


class Clock:
    """Estimates the time left of the search, then of the confirmation, from what was seen done."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None
        self._of: int | None = None

    def left(self, counts: Counts) -> str:
        """Return the time left in words; empty until there is something to go by."""
        now, (ended, of) = time.monotonic(), under_way(counts)
        if self._first is None or self._first[1] == ended or self._of != of:
            # Not before the first trial has ended: until then the workers were starting.
            self._first, self._of = (now, ended), of
        since, before = self._first
        if ended == before or ended >= of:
            return ""
        seconds = (now - since) / (ended - before) * (of - ended)
        return f"{seconds:.0f} s left" if seconds < 120 else f"{seconds / 60:.0f} min left"


def under_way(counts: Counts) -> tuple[int, int]:
    """Return how many of how many have ended: of the trials, then of the confirmation."""
    if counts.confirming and counts.ended >= counts.trials:
        return counts.confirmed, counts.confirming
    return counts.ended, counts.trials


def words(counts: Counts, left: str) -> str:
    """Return the state of a sweep as one line."""
    ended, of = under_way(counts)
    if counts.confirming and counts.ended >= counts.trials:
        parts = [f"confirming {ended}/{of} trainings on fresh seeds", f"{counts.running} running"]
    else:
        best = "" if counts.best is None else f"best NLL {counts.best:.4f}"
        parts = [
            f"{ended}/{of}  {counts.complete} done",
            f"{counts.running} running",
            f"{counts.pruned} pruned",
            f"{counts.failed} failed",
            best,
        ]
    return " · ".join(part for part in (*parts, "paused" if counts.paused else left) if part)


class Bar:
    """A live bar."""

    def __init__(self, bar: Progress, task: TaskID, clock: Clock) -> None:
        self._bar, self._task, self._clock = bar, task, clock

    def __call__(self, counts: Counts) -> None:
        """Show a state."""
        text = words(counts, self._clock.left(counts))
        total, done = counts.trials + counts.confirming, counts.ended + counts.confirmed
        self._bar.update(self._task, total=total, completed=done, words=text)


class Lines:
    """A line when something has changed, at most every few seconds, and at the end."""

    def __init__(self, console: Console, clock: Clock) -> None:
        self._console, self._clock = console, clock
        self._last: tuple[float, str] = (float("-inf"), "")

    def __call__(self, counts: Counts) -> None:
        """Show a state."""
        text, now = words(counts, self._clock.left(counts)), time.monotonic()
        ended, of = under_way(counts)
        whole = ended == of
        due = now - self._last[0] >= PLAIN_SECONDS or whole
        if due and text != self._last[1]:
            self._console.print(text, highlight=False, soft_wrap=True)
            self._last = (now, text)
