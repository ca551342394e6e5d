"""optuna-dashboard, through a filter that lets only reading through.

optuna-dashboard has no sign-in and no read-only mode: whoever reaches it may delete a study
or tell a trial a value. So it gets the read-only storage, and of HTTP only GET and HEAD of
the paths that its pages read.
"""

import errno
import re
import socket
from collections.abc import Callable, Iterable
from ipaddress import ip_address
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
# What listens on every address, and how it is reached from this machine.
EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")
_WHY: Final = {
    "421 Misdirected Request": "it goes by another name; sweeper dashboard --allow-host adds one"
}
_PORT_ERRORS: Final = (errno.EADDRINUSE, errno.EACCES)


def host_names(host: str, others: Iterable[str] = ()) -> frozenset[str]:
    """Return the names that a dashboard on `host` may be asked by: loopback's, its own, others.

    Raises `SweeperError` for what is no host name or address.
    """
    own = _spelt(host)
    return frozenset(LOOPBACK).union({own} - EVERYWHERE.keys(), map(_spelt, others))


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
        return [f"{refusal}: {_WHY.get(refusal, 'this dashboard only reads')}\n".encode()]

    return filtered


def dashboard(reader: Store, hosts: Iterable[str] = LOOPBACK) -> Application:
    """Return optuna-dashboard on a read-only store, behind the filter."""
    return read_only(optuna_dashboard.wsgi(reader.storage), hosts)


def serve(
    application: Application,
    port: int,
    on_ready: Callable[[str], None],
    host: str = LOOPBACK[0],
) -> None:
    """Serve until Ctrl-C; `on_ready` is given the address. Port 0 takes a free one."""
    name = _spelt(host)
    listening = _Server6 if name.startswith("[") else _Server
    try:
        server = make_server(name.strip("[]"), port, application, listening, _QuietHandler)
    except OSError as error:
        key, value = ("port", port) if error.errno in _PORT_ERRORS else ("host", host)
        raise SweeperError(
            f"{key} {value}: {error.strerror}; choose another with --{key}"
        ) from None
    with server:
        on_ready(f"http://{EVERYWHERE.get(name, name)}:{server.server_port}/")
        server.serve_forever()


def _spelt(host: str) -> str:
    """Return a host as browsers name it: in lower case, an IPv6 address in brackets."""
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        if _NAME.fullmatch(host):
            return host.lower()
        raise SweeperError(
            f"host {host!r}; allowed: a name or an IP address, without scheme, port or path"
        ) from None
    return f"[{address}]" if address.version == 6 else str(address)


def _refusal(environ: Environ, hosts: frozenset[str]) -> str | None:
    host = re.sub(r":\d+$", "", str(environ.get("HTTP_HOST", ""))).lower()
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


class _Server6(_Server):
    address_family = socket.AF_INET6


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Print nothing: the terminal is the user's."""
