"""The progress display of a launch: a live bar in a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.cells import cell_len, set_cell_size
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from sweeper.study.progress import Progress as Counts
from sweeper.study.progress_text import RemainingTime, counted, current_phase, line, words

# Minimum time between two plain lines, so that a log file stays readable.
PLAIN_SECONDS = 5.0


@contextmanager
def progress_display(
    console: Console, name: str, metric: str = "nll"
) -> Iterator[Callable[[Counts], None]]:
    """Yield a function that displays the progress it is called with.

    `metric` is the metric that the study minimizes.
    """
    clock = RemainingTime()

    if not console.is_terminal:
        yield Lines(console, lambda counts: line(counts, clock.left(counts), metric))
        return
    with _TwoLines(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
        console=console,
    ) as bar:
        yield Bar(bar, name, lambda counts: words(counts, clock.left(counts), metric))


class _TwoLines(Progress):
    """A bar with its count in one line, and the other words below it, so that both are visible."""

    def get_renderables(self) -> Iterator[RenderableType]:
        """Yield the line of the bar, then the words, which are wrapped in a narrow terminal."""
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            yield Text(task.fields["words"])


class Bar:
    """A live progress bar for a terminal."""

    def __init__(self, bar: Progress, name: str, describe: Callable[[Counts], str]) -> None:
        self._bar, self._describe = bar, describe
        # A long name is shortened: in a narrow terminal the bar and the count need the space.
        shown = shortened(name, max(8, bar.console.width // 3))
        self._task = bar.add_task(shown, total=None, count="", words="starting workers")

    def __call__(self, counts: Counts) -> None:
        self._bar.update(
            self._task,
            total=counts.trials + counts.confirming,
            completed=counts.ended + counts.confirmed,
            count=counted(counts),
            words=self._describe(counts),
        )


def shortened(text: str, width: int) -> str:
    """Return the text, cut off with an ellipsis if it is wider than `width` in a terminal."""
    return text if cell_len(text) <= width else f"{set_cell_size(text, width - 1).rstrip()}…"


class Lines:
    """Print a line when the progress has changed, at most every `PLAIN_SECONDS`, and at the end."""

    def __init__(self, console: Console, describe: Callable[[Counts], str]) -> None:
        self._console, self._describe = console, describe
        self._last: tuple[float, str] = (float("-inf"), "")

    def __call__(self, counts: Counts) -> None:
        text, now = self._describe(counts), time.monotonic()
        ended, total = current_phase(counts)
        due = now - self._last[0] >= PLAIN_SECONDS or ended == total
        if due and text != self._last[1]:
            self._console.print(text, highlight=False, soft_wrap=True)
            self._last = (now, text)
