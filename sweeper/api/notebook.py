"""The progress of a launch in a notebook: one display that is updated."""

import sys
from collections.abc import Callable
from html import escape
from typing import Any

from sweeper.study.progress import Progress
from sweeper.study.progress_text import RemainingTime, counted, words

OnProgress = Callable[[Progress], None]


def progress_display(name: str, metric: str = "nll") -> OnProgress:
    """Return a function that displays the progress it is called with, if this is a notebook.

    `metric` is the metric that the study minimizes.
    """
    return _Display(name, metric) if in_notebook() else lambda _: None


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


class _Display:
    def __init__(self, name: str, metric: str) -> None:
        self._name, self._metric = name, metric
        self._clock = RemainingTime()
        self._shown = ""
        self._handle: Any = None

    def __call__(self, counts: Progress) -> None:
        text = words(counts, self._clock.left(counts), self._metric)
        ended, total = counts.ended + counts.confirmed, counts.trials + counts.confirming
        html = (
            f"<div><b>{escape(self._name)}</b> <progress value='{ended}' max='{total}'></progress> "
            f"{escape(counted(counts))} <small>{escape(text)}</small></div>"
        )
        if html == self._shown:
            return
        self._shown = html
        from IPython.display import HTML, display

        if self._handle is None:
            self._handle = display(HTML(html), display_id=True)
        else:
            self._handle.update(HTML(html))
