"""The service on a port of its own, and what a program sees of it."""

import http.client
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from sweeper import service

LOCAL = service.host_names("127.0.0.1")


class Answer(NamedTuple):
    """What came back over HTTP."""

    status: int
    body: bytes
    headers: http.client.HTTPMessage

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Site(NamedTuple):
    """A service that is running; with a token, each request bears it."""

    address: str
    token: str = ""

    @property
    def port(self) -> int:
        return int(self.address.rstrip("/").rsplit(":", 1)[1])

    def ask(
        self,
        path: str,
        method: str = "GET",
        body: Any = None,
        *,
        host: str = "",
        form: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request whose path is not tidied up on the way."""
        if form is not None:
            sent, kind = urlencode(form).encode(), "application/x-www-form-urlencoded"
        else:
            sent = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
            kind = "application/json"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", host or urlsplit(self.address).netloc)
        more = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        for name, value in {**more, **(headers or {})}.items():
            connection.putheader(name, value)
        if method not in ("GET", "HEAD"):
            connection.putheader("Content-Type", kind)
            connection.putheader("Content-Length", str(len(sent)))
        connection.endheaders(sent if method not in ("GET", "HEAD") else None)
        response = connection.getresponse()
        answer = Answer(response.status, response.read(), response.headers)
        connection.close()
        return answer

    def page(self, path: str, **given: Any) -> Answer:
        """Ask as a browser does."""
        headers = {"Accept": "text/html", **given.pop("headers", {})}
        return self.ask(path, headers=headers, **given)

    def page_with_figures(self, path: str) -> Answer:
        """Ask for the page of a study until its figures are drawn, at most a minute."""
        end = time.monotonic() + 60
        while "will appear here" in (answer := self.page(path)).text and time.monotonic() < end:
            pass  # the service waits for the figures before it answers
        return answer


_running: list[service.HttpServer] = []


def serve(
    storage: str, *, trusted: str = "", limits: service.ClientLimits = service.LIMITS, **given: Any
) -> Site:
    """Serve a database from a thread, on loopback, without sign-in unless told otherwise."""
    settings = service.Settings(
        **{"storage": storage, "hosts": LOCAL, "sign_in": False, "folders": (), **given}
    )
    application = service.create_app(settings, limits)
    server = service.HttpServer(
        application, 0, trusted=trusted, limits=limits, on_stop=application.stop
    )
    threading.Thread(target=server.serve_on, daemon=True).start()
    _running.append(server)
    return Site(server.address)


@contextmanager
def stopped_after() -> Iterator[None]:
    """Stop the servers that are started meanwhile."""
    before = len(_running)
    yield
    for server in _running[before:]:
        server.stop()
    del _running[before:]


def database(folder: Path) -> str:
    return f"sqlite:///{folder}/sweeper.db"


class Browser:
    """Keeps cookies and reads forms, as a browser does."""

    def __init__(self, site: Site) -> None:
        self.site, self.cookies = site, SimpleCookie()

    def ask(self, path: str, method: str = "GET", **given: Any) -> Answer:
        cookies = "; ".join(f"{key}={morsel.value}" for key, morsel in self.cookies.items())
        headers = {**({"Cookie": cookies} if cookies else {}), **given.pop("headers", {})}
        answer = self.site.page(path, method=method, headers=headers, **given)
        for header in answer.headers.get_all("Set-Cookie") or []:
            self.cookies.load(header)
        return answer

    def csrf(self, path: str = "/sign-in") -> str:
        [first, *_] = re.findall(r'name="csrf" value="([0-9a-f]+)"', self.ask(path).text)
        return str(first)

    def sign_in(self, token: str, **more: str) -> Answer:
        form = {"csrf": self.csrf(), "token": token, **more}
        return self.ask("/sign-in", "POST", form=form)
