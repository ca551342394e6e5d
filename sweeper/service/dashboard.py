"""optuna-dashboard behind a read-only filter.

optuna-dashboard has no sign-in and no read-only mode: any client could delete a study or set the
value of a trial. So it gets the read-only storage, and only GET and HEAD requests to the paths that
its pages use.
"""

import re
import threading
from typing import Any, Final

import optuna_dashboard
from a2wsgi import WSGIMiddleware
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from sweeper import limits
from sweeper.service.problem_details import RequestRefused
from sweeper.service.settings import root_of
from sweeper.service.study_reader import StudyReader
from sweeper.store.database import Store, open_writer
from sweeper.store.trials import has_study_id

READING: Final = re.compile(r"/(favicon\.ico|(dashboard|static|api|csv|artifacts)(/.*)?)")
# Path segments that could be resolved to another path: empty ones, . and .., backslashes.
DISGUISED: Final = re.compile(r"//|\\|/\.{1,2}(/|$)")
# The Optuna id of a study in a path.
_STUDY: Final = re.compile(r"/(?:api/studies|api/artifacts|csv|artifacts)/(-?\d+)(?=/|$)")
METHODS: Final = ("GET", "HEAD")
# Its JavaScript bundle needs eval, and its styles are inline.
POLICY: Final = (
    "default-src 'self'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


def is_reading_path(path: str) -> bool:
    """Return whether the pages of optuna-dashboard use this path."""
    return READING.fullmatch(path) is not None and DISGUISED.search(path) is None


class Dashboard:
    """optuna-dashboard as an ASGI application; `writes` lets operators change studies in it.

    Without `writes`, only GET and HEAD are allowed. Paths that its pages do not use are refused.
    The application is created on first use, and again after the database file was replaced.
    """

    def __init__(self, study_reader: StudyReader, *, writes: bool = False) -> None:
        self._study_reader, self._writes = study_reader, writes
        self._lock = threading.Lock()
        self._cached: tuple[Store, Any] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or raise `RequestRefused`."""
        _check(Request(scope), writes=self._writes)
        application = await run_in_threadpool(self._application, scope["path"])
        headers = MutableHeaders(raw=list(scope["headers"]))
        headers.setdefault("Accept-Encoding", "identity")  # optuna-dashboard fails without it
        await application({**scope, "headers": headers.raw}, receive, send)

    def _application(self, path: str) -> Any:
        reader = self._study_reader.reader()
        _check_study(reader, path)
        with self._lock:
            if self._cached is None or self._cached[0] is not reader:
                store = open_writer(self._study_reader.storage) if self._writes else reader
                wsgi = optuna_dashboard.wsgi(store.storage)
                self._cached = (reader, WSGIMiddleware(wsgi, workers=4))
            return self._cached[1]


def _check_study(reader: Store, path: str) -> None:
    """Refuse the id of a missing study: some routes of optuna-dashboard fail with it."""
    match = _STUDY.match(path)
    if match is None:
        return
    number = int(match[1]) if len(match[1]) <= limits.INTEGER_DIGITS else limits.LARGEST_INTEGER
    if not 0 < number <= limits.LARGEST_SQL_INTEGER or not has_study_id(reader, number):
        raise RequestRefused(404, f"study {match[1][:100]} does not exist")


def _check(request: Request, *, writes: bool) -> None:
    path, after = request.scope["path"], request.query_params.get("after", "0")
    if not (after.isdecimal() and len(after) <= limits.INTEGER_DIGITS):
        raise RequestRefused(400, f"after: must be an integer >= 0, got {after[:100]!r}")
    if request.method not in METHODS and not writes:
        raise RequestRefused(
            405,
            "optuna-dashboard is read-only; to let operators change studies in it, start the "
            "service with sweeper serve --dashboard-writes",
            {"Allow": ", ".join(METHODS)},
        )
    # Its pages link to each other with absolute paths, so it only works at the root of a host.
    if root_of(request.scope) or not is_reading_path(path):
        raise RequestRefused(404, f"page {path[:200]!r} does not exist")
