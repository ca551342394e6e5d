"""The figures of a study's page: drawn once for all who look, anew where something has changed."""

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, NamedTuple

from sweeper.report import Page, page_of
from sweeper.report.page import context
from sweeper.service.pages.templates import Views
from sweeper.service.study_reader import Library, Snapshot, version_of

# Between two drawings of a page; and of one core, so as not to slow trainings on this machine.
SECONDS: Final = 5.0
SHARE: Final = 0.05
_MOST: Final = 64


class Drawn(NamedTuple):
    """The sections of a page as HTML; `version` changes when they do, `of` when the study does."""

    html: bytes
    version: str
    of: str


@dataclass
class _Slot:
    """One page of figures: as it was drawn last, being drawn, and not to be drawn before.

    `tried` is what it was to be drawn of last, whatever became of it.
    """

    last: Drawn | None = None
    drawing: "Future[None] | None" = None
    due: float = 0.0
    tried: str = ""


class Drawings:
    """Pages of figures by study and page; one thread draws, and nobody waits long for it."""

    def __init__(self, library: Library, views: Views, pages: Mapping[str, Page]) -> None:
        self._library, self._views, self._pages = library, views, pages
        self._lock = threading.Lock()
        self._slots: OrderedDict[tuple[str, str], _Slot] = OrderedDict()
        self._drawer = ThreadPoolExecutor(1, "drawings")

    async def page(self, study: Snapshot, page: str, wait: float = 0.0) -> Drawn | None:
        """Return a study's page of figures as it was drawn last, and see that it is drawn anew.

        Where it never was, or not since the study is finished, it is waited for so many seconds.
        None where that was not enough. Raises `SweeperError` where it cannot be drawn.
        """
        slot, drawing = self._slot(study, page)
        if drawing is not None and wait and (slot.last is None or study.state == "finished"):
            drawn = asyncio.wrap_future(drawing)
            # It may fail when nobody waits any more.
            drawn.add_done_callback(lambda late: late.cancelled() or late.exception())
            await asyncio.wait([drawn], timeout=wait)
            if drawn.done():
                drawn.result()
        return slot.last

    def close(self) -> None:
        """Draw nothing any more."""
        self._drawer.shutdown(wait=False, cancel_futures=True)

    def _slot(self, study: Snapshot, page: str) -> tuple[_Slot, "Future[None] | None"]:
        key, of = (study.name, page), version_of(study)
        with self._lock:
            slot = self._slots.setdefault(key, _Slot())
            self._slots.move_to_end(key)
            while len(self._slots) > _MOST:
                self._slots.popitem(last=False)
            changed = slot.last is None or slot.last.of != of
            # What is finished is drawn once more and then never again, so it need not wait.
            now = study.state == "finished" and slot.tried != of
            if slot.drawing is None and changed and (now or time.monotonic() >= slot.due):
                slot.tried = of
                slot.drawing = self._drawer.submit(self._draw, key, of, slot)
            return slot, slot.drawing

    def _draw(self, key: tuple[str, str], of: str, slot: _Slot) -> None:
        first, began = slot.last is None, time.thread_time()
        try:
            name, page = key
            shown = page_of(self._pages, page).without("trials")
            html = self._views.sections(context(self._library.report_input((name, of)), shown))
            slot.last = Drawn(html, sha256(html).hexdigest()[:16], of)
        finally:
            # What the first time takes says little of the next: of few trials, and all is fresh.
            share = 0.0 if first else (time.thread_time() - began) / SHARE
            with self._lock:
                slot.due = time.monotonic() + max(SECONDS, share)
                slot.drawing = None
