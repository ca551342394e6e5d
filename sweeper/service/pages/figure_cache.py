"""Cached figures of study pages: drawn once for all users, and again when the study changes."""

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, NamedTuple

from sweeper.errors import StudyDamaged
from sweeper.report import Page, page_of
from sweeper.report.page import context
from sweeper.service.pages.templates import PageRenderer
from sweeper.service.study_reader import StudyReader, StudyStatus, version_of

# Minimum seconds between two drawings of a page, and the maximum share of one core for drawing,
# so that training runs on this machine are not slowed down.
SECONDS: Final = 5.0
SHARE: Final = 0.05
_MAX_CACHED: Final = 64


class CachedFigure(NamedTuple):
    """The sections of a page as HTML, their hash, and the version of the study they show.

    `verdict` is the recommended configuration and its verdict, which every page shows first.
    """

    verdict: str
    html: bytes
    version: str
    study_version: str


@dataclass
class _CacheEntry:
    """One page of figures: its last version, the drawing in progress, and the next time to draw.

    `tried` is the version of the study in the last attempt to draw, successful or not.
    """

    last: CachedFigure | None = None
    drawing: "Future[None] | None" = None
    due: float = 0.0
    tried: str = ""
    problem: StudyDamaged | None = None


class FigureCache:
    """Figures by study and page; a single thread draws them in the background."""

    def __init__(
        self, study_reader: StudyReader, renderer: PageRenderer, pages: Mapping[str, Page]
    ) -> None:
        self._study_reader, self._views, self._pages = study_reader, renderer, pages
        self._lock = threading.Lock()
        self._slots: OrderedDict[tuple[str, str], _CacheEntry] = OrderedDict()
        self._drawer = ThreadPoolExecutor(1, "drawings")

    async def page(self, study: StudyStatus, page: str, wait: float = 0.0) -> CachedFigure | None:
        """Return the last drawn figures of a page; draw them again if the study has changed.

        Waits at most `wait` seconds if the page has not been drawn yet or the study is finished.
        Returns None if nothing is drawn by then. Raises `SweeperError` if drawing failed.
        """
        slot, drawing = self._slot(study, page)
        if drawing is not None and wait and (slot.last is None or study.state == "finished"):
            drawn = asyncio.wrap_future(drawing)
            # Retrieve the exception, in case the drawing fails after the wait has ended.
            drawn.add_done_callback(lambda done: done.cancelled() or done.exception())
            await asyncio.wait([drawn], timeout=wait)
            if drawn.done():
                drawn.result()
        if slot.problem is not None:
            raise slot.problem
        return slot.last

    def close(self) -> None:
        """Stop drawing."""
        self._drawer.shutdown(wait=False, cancel_futures=True)

    def _slot(self, study: StudyStatus, page: str) -> tuple[_CacheEntry, "Future[None] | None"]:
        key, study_version = (study.name, page), version_of(study)
        with self._lock:
            slot = self._slots.setdefault(key, _CacheEntry())
            self._slots.move_to_end(key)
            while len(self._slots) > _MAX_CACHED:
                self._slots.popitem(last=False)
            changed = slot.last is None or slot.last.study_version != study_version
            # A finished study is drawn once more and then never again, so it need not wait.
            now = study.state == "finished" and slot.tried != study_version
            if slot.drawing is None and changed and (now or time.monotonic() >= slot.due):
                slot.tried = study_version
                slot.drawing = self._drawer.submit(self._draw, study, page, slot)
            return slot, slot.drawing

    def _draw(self, study: StudyStatus, page: str, slot: _CacheEntry) -> None:
        first, began = slot.last is None, time.thread_time()
        try:
            shown = page_of(self._pages, page).without("trials").without("verdict")
            with self._study_reader.damage_errors(study.name):
                values = context(self._study_reader.report_input(study), shown)
                verdict, html = self._views.verdict(values), self._views.sections(values)
            version = sha256(verdict.encode() + html).hexdigest()[:16]
            slot.last = CachedFigure(verdict, html, version, version_of(study))
            slot.problem = None
        except StudyDamaged as error:
            slot.problem = error
            raise
        finally:
            # The first drawing is not typical: it has few trials but warms up all caches.
            share = 0.0 if first else (time.thread_time() - began) / SHARE
            with self._lock:
                slot.due = time.monotonic() + max(SECONDS, share)
                slot.drawing = None
