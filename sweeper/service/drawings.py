"""The figures of a study's page: drawn once for all who look, anew where something has changed."""

from collections import OrderedDict
from hashlib import sha256
from typing import Final, NamedTuple

from markupsafe import Markup

from sweeper.report import ready_page
from sweeper.report.page import context
from sweeper.service.library import FIGURES_SECONDS, Library, version_of
from sweeper.service.recent import Recent
from sweeper.service.views import Views

# Of one core: drawing is not to slow the trainings on the same machine.
SHARE: Final = 0.05
_MOST: Final = 64


class Drawn(NamedTuple):
    """The sections of a page as HTML; `version` changes when they do, `of` when the study does."""

    html: Markup
    version: str
    of: str


class Drawings:
    """Pages of figures by study and page, no older than what drawing them costs allows."""

    def __init__(self, library: Library, views: Views) -> None:
        self._library, self._views = library, views
        self._last: OrderedDict[tuple[str, str], Drawn] = OrderedDict()
        self.page = Recent(self._page, seconds=FIGURES_SECONDS, share=SHARE, most=_MOST)

    def _page(self, key: tuple[str, str]) -> Drawn:
        name, page = key
        of = version_of(self._library.snapshot(name))
        last = self._last.get(key)
        if last is None or last.of != of:
            shown = ready_page(page).without("trials")
            html = self._views.sections(context(self._library.report_input((name, of)), shown))
            last = Drawn(Markup(html), sha256(html.encode()).hexdigest()[:16], of)
        self._last[key] = last
        self._last.move_to_end(key)
        while len(self._last) > _MOST:
            self._last.popitem(last=False)
        return last
