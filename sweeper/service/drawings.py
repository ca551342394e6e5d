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
from sweeper.service.library import Library, version_of
from sweeper.service.views import Views

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
    """One page of figures: as it was drawn last, being drawn, and not to be drawn before."""

    last: Drawn | None = None
    drawing: "Future[None] | None" = None
    due: float = 0.0


class Drawings:
    """Pages of figures by study and page; one thread draws, and nobody waits long for it."""

    def __init__(self, library: Library, views: Views, pages: Mapping[str, Page]) -> None:
        self._library, self._views, self._pages = library, views, pages
        self._lock = threading.Lock()
        self._slots: OrderedDict[tuple[str, str], _Slot] = OrderedDict()
        self._drawer = ThreadPoolExecutor(1, "drawings")

    async def page(self, name: str, page: str, wait: float = 0.0) -> Drawn | None:
        """Return a study's page of figures as it was drawn last, and see that it is drawn anew.

        Where it never was, it is waited for so many seconds; None where that was not enough.
        Raises what `Library` does while there is nothing to return.
        """
        slot, drawing = self._slot((name, page))
        if slot.last is None and drawing is not None and wait:
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

    def _slot(self, key: tuple[str, str]) -> tuple[_Slot, "Future[None] | None"]:
        with self._lock:
            slot = self._slots.setdefault(key, _Slot())
            self._slots.move_to_end(key)
            while len(self._slots) > _MOST:
                self._slots.popitem(last=False)
            if slot.drawing is None and time.monotonic() >= slot.due:
                slot.drawing = self._drawer.submit(self._draw, key, slot)
            return slot, slot.drawing

    def _draw(self, key: tuple[str, str], slot: _Slot) -> None:
        began = time.monotonic()
        try:
            self._draw_changed(key, slot)
        finally:
            took = time.monotonic() - began
            with self._lock:
                slot.due = began + took + max(SECONDS, took / SHARE)
                slot.drawing = None

    def _draw_changed(self, key: tuple[str, str], slot: _Slot) -> None:
        name, page = key
        of = version_of(self._library.snapshot(name))
        if slot.last is not None and slot.last.of == of:
            return
        shown = page_of(self._pages, page).without("trials")
        html = self._views.sections(context(self._library.report_input((name, of)), shown))
        slot.last = Drawn(html, sha256(html).hexdigest()[:16], of)
