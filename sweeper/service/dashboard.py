"""optuna-dashboard, through a filter that lets only reading through.

optuna-dashboard has no sign-in and no read-only mode: whoever reaches it may delete a study
or tell a trial a value. So it gets the read-only storage, and of HTTP only GET and HEAD of
the paths that its pages read.
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

from sweeper.service.problem_details import Refused
from sweeper.service.settings import root_of
from sweeper.service.study_reader import Library
from sweeper.store.database import Store, open_writer

READING: Final = re.compile(r"/(favicon\.ico|(dashboard|static|api|csv|artifacts)(/.*)?)")
# What a path may be spelt with to mean another one: empty segments, . and .., backslashes.
DISGUISED: Final = re.compile(r"//|\\|/\.{1,2}(/|$)")
METHODS: Final = ("GET", "HEAD")
# Its bundle compiles functions from text, and its styles are inline.
POLICY: Final = (
    "default-src 'self'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


def reads(path: str) -> bool:
    """Return whether a path is one that optuna-dashboard's pages read."""
    return READING.fullmatch(path) is not None and DISGUISED.search(path) is None


class Dashboard:
    """optuna-dashboard as a part of the service; `writes` lets operators change things in it.

    Anything but GET and HEAD is refused otherwise, and so is a path that no page of it reads.
    It is made when it is first asked for, and anew where the database is another one by then.
    """

    def __init__(self, library: Library, *, writes: bool = False) -> None:
        self._library, self._writes = library, writes
        self._lock = threading.Lock()
        self._made: tuple[Store, Any] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on, or raise `Refused`."""
        _check(Request(scope), writes=self._writes)
        application = await run_in_threadpool(self._application)
        headers = MutableHeaders(raw=list(scope["headers"]))
        headers.setdefault("Accept-Encoding", "identity")  # it fails without
        await application({**scope, "headers": headers.raw}, receive, send)

    def _application(self) -> Any:
        reader = self._library.reader()
        with self._lock:
            if self._made is None or self._made[0] is not reader:
                store = open_writer(self._library.storage) if self._writes else reader
                wsgi = optuna_dashboard.wsgi(store.storage)
                self._made = (reader, WSGIMiddleware(wsgi, workers=4))
            return self._made[1]


def _check(request: Request, *, writes: bool) -> None:
    path = request.scope["path"]
    if request.method not in METHODS and not writes:
        raise Refused(
            405,
            "optuna-dashboard only reads here; sweeper serve --dashboard-writes lets operators "
            "change things in it",
            {"Allow": ", ".join(METHODS)},
        )
    # Its pages name each other from the root of a host.
    if root_of(request.scope) or not reads(path):
        raise Refused(404, f"there is no page {path[:200]!r} here")
