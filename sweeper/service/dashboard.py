"""optuna-dashboard on loopback, through a filter that lets only reading through.

optuna-dashboard has no sign-in and no read-only mode: whoever reaches it may delete a study
or tell a trial a value. So it gets the read-only storage, and of HTTP only GET and HEAD of
the paths that its pages read.
"""

import re
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna_dashboard

from sweeper.errors import SweeperError
from sweeper.store.database import Store

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

READING: Final = re.compile(r"/(|favicon\.ico|(dashboard|static|api|csv|artifacts)(/.*)?)")
# What a path may be spelt with to mean another one: empty segments, . and .., backslashes.
DISGUISED: Final = re.compile(r"//|\\|/\.{1,2}(/|$)")
METHODS: Final = ("GET", "HEAD")
LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")


def read_only(application: Application, hosts: Iterable[str] = LOOPBACK) -> Application:
    """Return the application behind the filter.

    Anything but GET and HEAD gets 405, a path that no page reads 404. A request for a host
    name that is not ours gets 421: a page elsewhere may have bound its name to loopback.
    """
    ours = frozenset(hosts)

    def filtered(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        refusal = _refusal(environ, ours)
        if refusal is None:
            return application(environ, start_response)
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Allow", ", ".join(METHODS))]
        start_response(refusal, headers)
        return [f"{refusal}: this dashboard only reads\n".encode()]

    return filtered


def dashboard(reader: Store) -> Application:
    """Return optuna-dashboard on a read-only store, behind the filter."""
    return read_only(optuna_dashboard.wsgi(reader.storage))


def serve(application: Application, port: int, on_ready: Callable[[str], None]) -> None:
    """Serve on 127.0.0.1 until Ctrl-C; `on_ready` is given the address. Port 0 takes a free one."""
    try:
        server = make_server("127.0.0.1", port, application, _Server, _QuietHandler)
    except OSError as error:
        raise SweeperError(f"port {port}: {error.strerror}; choose another with --port") from None
    with server:
        on_ready(f"http://127.0.0.1:{server.server_port}/")
        server.serve_forever()


def _refusal(environ: Environ, hosts: frozenset[str]) -> str | None:
    host = re.sub(r":\d+$", "", str(environ.get("HTTP_HOST", "")))
    if host not in hosts:
        return "421 Misdirected Request"
    if environ["REQUEST_METHOD"] not in METHODS:
        return "405 Method Not Allowed"
    path = str(environ.get("PATH_INFO", "/"))
    if READING.fullmatch(path) is None or DISGUISED.search(path):
        return "404 Not Found"
    return None


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Print nothing: the terminal is the user's."""
