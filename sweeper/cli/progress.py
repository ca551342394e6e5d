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
    """Estimates the time left from what this launch has done itself."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None

    def left(self, counts: Counts) -> str:
        """Return the time left in words; empty until there is something to go by."""
        now = time.monotonic()
        if self._first is None or self._first[1] == counts.ended:
            # Not before the first trial has ended: until then the workers were starting.
            self._first = (now, counts.ended)
        since, ended = self._first
        done = counts.ended - ended
        if not done or counts.ended >= counts.trials:
            return ""
        seconds = (now - since) / done * (counts.trials - counts.ended)
        return f"{seconds:.0f} s left" if seconds < 120 else f"{seconds / 60:.0f} min left"


def words(counts: Counts, left: str) -> str:
    """Return the state of a sweep as one line."""
    if counts.confirming and counts.ended >= counts.trials:
        return (
            f"confirming {counts.confirmed}/{counts.confirming} trainings on fresh seeds · "
            f"{counts.running} running" + (" · paused" if counts.paused else "")
        )
    best = "" if counts.best is None else f"best NLL {counts.best:.4f}"
    parts = (
        f"{counts.complete} done",
        f"{counts.running} running",
        f"{counts.pruned} pruned",
        f"{counts.failed} failed",
        best,
        "paused" if counts.paused else left,
    )
    return f"{counts.ended}/{counts.trials}  " + " · ".join(part for part in parts if part)


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
        whole = counts.ended == counts.trials and counts.confirmed in (0, counts.confirming)
        due = now - self._last[0] >= PLAIN_SECONDS or whole
        if due and text != self._last[1]:
            self._console.print(text, highlight=False, soft_wrap=True)
            self._last = (now, text)
