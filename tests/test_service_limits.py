"""The service under attack: what one client may take of it, over real connections."""

import re
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from sqlalchemy import Engine, event

from sweeper import api
from sweeper.service import LIMITS, ClientLimits
from sweeper.service.auth.identity import COOKIE
from sweeper.service.auth.unauthenticated import UnauthenticatedClients
from sweeper.service.client_limits import client_key
from sweeper.service.pages import routes
from tests.support.processes import StartSweeper, serving
from tests.support.service_world import World
from tests.support.serving import Answer, Browser, Site, serve, stopped_after

UNKNOWN = f"swp_{'0' * 16}_{'x' * 43}"
DOCS = (Path(__file__).parent.parent / "docs" / "reference" / "service-limits.md").read_text()


class Guarded(NamedTuple):
    """A service that asks for a token, and one of each role."""

    site: Site
    viewer: Site
    operator: Site
    storage: str


@pytest.fixture
def guard(storage: str) -> Callable[..., Guarded]:
    """Return what serves an empty database with sign-in."""

    def guarded(limits: ClientLimits = LIMITS, **given: Any) -> Guarded:
        tokens = (
            api.create_token("eve", "viewer", storage),
            api.create_token("ann", "operator", storage),
        )
        site = serve(storage, sign_in=True, limits=limits, **given)
        viewer, operator = (Site(site.address, token) for token in tokens)
        return Guarded(site, viewer, operator, storage)

    return guarded


def connected(site: Site, sent: str | bytes = b"", source: str = "127.0.0.1") -> socket.socket:
    """Return a connection on which something was sent; {host} in it is the service's own.

    The client's address is `source`.
    """
    line = socket.create_connection(
        ("127.0.0.1", site.port), timeout=30, source_address=(source, 0)
    )
    text = sent.replace("{host}", f"127.0.0.1:{site.port}") if isinstance(sent, str) else sent
    line.sendall(text if isinstance(text, bytes) else text.encode())
    return line


def read_to_end(line: socket.socket) -> bytes:
    """Return what comes until the service closes a connection; fails where it does not."""
    got = b""
    with line:
        try:
            while part := line.recv(65536):
                got += part
        except ConnectionResetError:
            pass
    return got


HEAD = "GET /v1/health HTTP/1.1\r\nHost: {host}\r\n"
FORM = "POST /sign-in HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000\r\n\r\ncsrf="


# ---- time ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        ("", 0),
        ("GET /v1/he", 0),
        (HEAD, 0),
        (f"{HEAD}\r\n", 1),  # idle
        (f"{HEAD}\r\n{HEAD}", 1),
        (f"{HEAD}\r\n{HEAD}\r\n{HEAD}", 2),
        (FORM, 0),
        (f"{HEAD}\r\n{FORM}", 1),
        (FORM.replace("Content-Length: 1000", "Transfer-Encoding: chunked"), 0),
    ],
)
def test_idle_connection_is_closed(storage: str, sent: str, answers: int) -> None:
    limits = replace(LIMITS, header_seconds=0.3, body_seconds=0.3, idle_seconds=1)
    got = read_to_end(connected(serve(storage, limits=limits), sent))
    assert got.count(b"HTTP/1.1 200") == answers


@pytest.mark.parametrize(("begun", "more"), [(HEAD, b"X: y\r\n"), (FORM, b"x")])
def test_slow_sending_client_times_out(storage: str, begun: str, more: bytes) -> None:
    limits = replace(LIMITS, header_seconds=0.3, body_seconds=0.3, idle_seconds=60)
    line = connected(serve(storage, limits=limits), begun)
    line.settimeout(0.05)
    deadline = time.monotonic() + 30
    with line, suppress(ConnectionError):
        closed = False
        while not closed:
            assert time.monotonic() < deadline
            line.sendall(more)
            with suppress(TimeoutError):
                closed = not line.recv(65536)


def test_client_that_does_not_read_is_disconnected(storage: str) -> None:
    site = serve(storage, limits=replace(LIMITS, unread_seconds=0.3, idle_seconds=60))
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.connect(("127.0.0.1", site.port))
    line.sendall(f"GET /assets/plotly.js HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\n\r\n".encode())
    assert line.recv(1)
    deadline = time.monotonic() + 30
    while any(
        one.laddr.port == site.port and one.status == psutil.CONN_ESTABLISHED
        for one in psutil.Process().net_connections("tcp")
    ):
        assert time.monotonic() < deadline
    line.close()


# ---- connections ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "addresses"), [("connections", 20), ("connections_per_address", 1)]
)
@pytest.mark.parametrize("held", ["", HEAD, FORM])
def test_new_connection_replaces_the_oldest_idle_one(
    storage: str, limit: str, addresses: int, held: str
) -> None:
    site = serve(storage, limits=replace(LIMITS, **{limit: 4}))
    with ExitStack() as stack:
        sources = [f"127.0.0.{1 + number % addresses}" for number in range(20)]
        hostile = [stack.enter_context(connected(site, held, source)) for source in sources]
        for _ in range(3):
            assert site.ask("/v1/health").status == 200
        assert all(read_to_end(line) == b"" for line in hostile[:16])


def test_new_connection_is_refused_if_all_are_busy(storage: str) -> None:
    site = serve(storage, limits=replace(LIMITS, connections_per_address=2))
    with listening(site) as _, listening(site) as _:
        assert read_to_end(connected(site, f"{HEAD}\r\n")) == b""
    assert until_answered(site).status == 200


def until_answered(site: Site) -> Answer:
    """Ask until there is room: what a client closed may not be gone at the service yet."""
    deadline = time.monotonic() + 30
    while True:
        with suppress(OSError):
            return site.ask("/v1/health")
        assert time.monotonic() < deadline


def test_trusted_proxy_has_no_connection_limit(storage: str) -> None:
    limits = replace(LIMITS, connections_per_address=2)
    site = serve(storage, limits=limits, trusted="127.0.0.0/8")
    lines = [connected(site, HEAD) for _ in range(8)]
    for line in lines:
        line.sendall(b"Connection: close\r\n\r\n")
    assert all(b"200 OK" in read_to_end(line) for line in lines)


@pytest.mark.slow
def test_service_runs_with_few_file_descriptors(start_sweeper: StartSweeper, storage: str) -> None:
    api.create_token("ann", "operator", storage)
    few = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))"
    with serving(start_sweeper, url=storage, code=few) as (site, _), ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(connected(site, HEAD))
        for _ in range(3):
            assert until_answered(site).json["status"] == "ok"
            assert site.ask("/v1/studies").status == 200


def test_limits_leave_half_of_the_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    for descriptors, most, each in (
        (100, 50, 25),
        (1024, 512, 256),
        (10**6, 1024, 256),
        (-1, 1024, 256),
    ):
        monkeypatch.setattr("resource.getrlimit", lambda _, n=descriptors: (n, n))
        fitting = LIMITS.fitting()
        assert (fitting.connections, fitting.connections_per_address) == (most, each)


# ---- requests and streams ------------------------------------------------------------------


@contextmanager
def listening(site: Site, path: str = "/events", headers: str = "") -> Iterator[socket.socket]:
    """Listen to events; yield once the first has come."""
    bearer = f"Authorization: Bearer {site.token}\r\n" if site.token else ""
    with connected(site, f"GET {path} HTTP/1.1\r\nHost: {{host}}\r\n{bearer}{headers}\r\n") as line:
        got = b""
        while b"data:" not in got:
            part = line.recv(65536)
            assert part, got
            got += part
        yield line


def test_streams_per_address_are_limited(storage: str) -> None:
    site = serve(storage, limits=replace(LIMITS, streams_per_address=2), trusted="127.0.0.1")
    ann, bob = "X-Forwarded-For: 192.0.2.1\r\n", {"X-Forwarded-For": "192.0.2.2"}
    with listening(site, headers=ann), listening(site, headers=ann):
        refused = site.ask("/events", headers={"X-Forwarded-For": "192.0.2.1"})
        assert (refused.status, refused.headers["Retry-After"]) == (429, "5")
        assert "2 open event streams" in refused.json["detail"]
        assert site.ask("/studies", headers={"X-Forwarded-For": "192.0.2.1"}).status == 200
        with listening(site, headers="X-Forwarded-For: 192.0.2.2\r\n"):
            assert site.ask("/studies", headers=bob).status == 200


def test_a_client_cannot_choose_its_address(storage: str) -> None:
    site = serve(storage, limits=replace(LIMITS, streams_per_address=1))
    with listening(site, headers="X-Forwarded-For: 192.0.2.1\r\n"):
        assert site.ask("/events", headers={"X-Forwarded-For": "192.0.2.2"}).status == 429


def test_concurrent_requests_per_address_are_limited(guard: Callable[..., Guarded]) -> None:
    site, viewer, operator, _ = guard(replace(LIMITS, requests_per_address=1))
    head = f"Host: {{host}}\r\nAuthorization: Bearer {operator.token}\r\nExpect: 100-continue\r\n"
    sent = f"POST /v1/studies HTTP/1.1\r\n{head}Content-Length: 10\r\n\r\n"
    with connected(site, sent) as line:
        assert b"100 Continue" in line.recv(65536)  # the route waits for the body
        refused = viewer.ask("/v1/studies")
        assert (refused.status, refused.headers["Retry-After"]) == (429, "5")
        # Strangers are counted by themselves.
        assert site.ask("/v1/health").status == 200
    deadline = time.monotonic() + 30
    while viewer.ask("/v1/studies").status == 429:
        assert time.monotonic() < deadline


def test_stream_ends_after_its_time_limit(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "LIVE_SECONDS", 0.01)
    site = serve(storage, limits=replace(LIMITS, stream_seconds=0.2, idle_seconds=1))
    with listening(site) as line:
        assert read_to_end(line).endswith(b"0\r\n\r\n")


# ---- a stream and its session --------------------------------------------------------------


@pytest.mark.parametrize("path", ["/events", "/studies/quick/events?shown=running"])
@pytest.mark.parametrize("end", ["revoked", "signed out", "expired"])
def test_a_stream_ends_with_its_session(
    end: str, path: str, template: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.support.service_world import copied

    world = copied(template, tmp_path)
    monkeypatch.setattr(routes, "LIVE_SECONDS", 0.01)
    storage = world.study.storage
    token = api.create_token("eve", "viewer", storage)
    limits = replace(LIMITS, session_check_seconds=0.0, idle_seconds=1)
    site = serve(storage, sign_in=True, limits=limits)
    browser = Browser(site)
    browser.sign_in(token)
    csrf = browser.csrf("/studies")
    cookie = f"Cookie: {COOKIE}={browser.cookies[COOKIE].value}\r\n"
    with listening(site, path, cookie) as line, listening(Site(site.address, token), path) as other:
        if end == "revoked":
            api.revoke_token("eve", storage)
            assert read_to_end(other).endswith(b"0\r\n\r\n")
        elif end == "signed out":
            assert browser.ask("/sign-out", "POST", form={"csrf": csrf}).status == 303
        else:
            with sqlite3.connect(tmp_path / "sweeper.db") as connection:
                connection.execute("update sweeper_sessions set expires = 1")
            connection.close()
        assert read_to_end(line).endswith(b"0\r\n\r\n")
        if end != "revoked":
            assert api.tokens(storage)
            assert other.recv(1)  # the program's token still counts


def test_a_stream_outlives_an_outage(
    guard: Callable[..., Guarded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether its session goes on cannot be known then, and there is nothing to be shown."""
    monkeypatch.setattr(routes, "LIVE_SECONDS", 0.01)
    _, viewer, _, _ = guard(replace(LIMITS, session_check_seconds=0.0))
    with listening(viewer) as line:
        (tmp_path / "sweeper.db").rename(tmp_path / "away.db")
        (tmp_path / "sweeper.db").write_text(
            "this is no database, and a long enough text to see it"
        )
        got = b""
        while b"problem" not in got:
            part = line.recv(65536)
            assert part
            got += part


# ---- strangers -----------------------------------------------------------------------------


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """Return the statements that this process sends to a database."""
    seen: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    yield seen
    event.remove(Engine, "before_cursor_execute", note)


def strange(kind: str, site: Site) -> tuple[str, str, dict[str, str], dict[str, str] | None]:
    """Return path, method, headers and form of a request without a valid token."""
    bearers = {"unknown key": UNKNOWN, "wrong secret": f"{site.token[:-1]}-", "no token": "x" * 500}
    if kind in bearers:
        return "/v1/studies", "GET", {"Authorization": f"Bearer {bearers[kind]}"}, None
    browser = Browser(Site(site.address))
    form = {"csrf": browser.csrf(), "token": UNKNOWN}
    cookie = {"Cookie": f"{COOKIE}={browser.cookies[COOKIE].value}"}
    return {
        "nothing": ("/v1/studies", "GET", {}, None),
        "cookie": ("/studies", "GET", cookie, None),
        "cookie and token": (
            "/v1/studies",
            "GET",
            {**cookie, "Authorization": f"Bearer {UNKNOWN}"},
            None,
        ),
        "form": ("/sign-in", "POST", cookie, form),
        "form of nobody": ("/sign-in", "POST", {}, form),
        "sign-in page": ("/sign-in", "GET", cookie, None),
        "health": ("/v1/health", "GET", cookie, None),
        "asset": ("/assets/page.css", "GET", cookie, None),
        "change": ("/v1/studies/x", "DELETE", {}, None),
        "nowhere": ("/nowhere", "GET", cookie, None),
        "dashboard": ("/api/studies", "GET", cookie, None),
        "metrics": ("/metrics", "GET", {}, None),
    }[kind]


KINDS = (
    *("unknown key", "wrong secret", "no token", "nothing", "cookie", "cookie and token", "form"),
    *(
        "form of nobody",
        "sign-in page",
        "health",
        "asset",
        "change",
        "nowhere",
        "dashboard",
        "metrics",
    ),
)


def test_unauthenticated_request_costs_one_indexed_read(
    guard: Callable[..., Guarded], statements: list[str], tmp_path: Path
) -> None:
    guarded = guard()
    assert guarded.operator.ask("/v1/studies").status == 200  # the database is open
    with sqlite3.connect(tmp_path / "sweeper.db") as connection:
        before = list(connection.iterdump())
        for kind in KINDS:
            path, method, headers, form = strange(kind, guarded.operator)
            statements.clear()
            for _ in range(7):  # more than are free
                answer = guarded.site.ask(path, method, headers=headers, form=form)
                assert answer.status in (200, 303, 401, 403, 429), kind
            sent = [one for one in statements if not one.startswith(("BEGIN", "PRAGMA"))]
            assert len(sent) in (0, 7), kind
            assert all(one.startswith("SELECT") for one in sent), kind
            for one in set(sent):
                plan = connection.execute(f"explain query plan {one}", ["x"] * one.count("?"))
                steps = [step[-1] for step in plan]
                assert all("USING" in step and "INDEX" in step for step in steps), (kind, steps)
        assert list(connection.iterdump()) == before
    connection.close()


def test_failed_sign_ins_do_not_lock_out_others_at_an_address(
    guard: Callable[..., Guarded],
) -> None:
    guarded = guard(replace(LIMITS, unauthenticated_per_second=1000.0))
    guesses = (Site(guarded.site.address, f"swp_{number:016x}_x") for number in range(100))
    statuses = [guess.ask("/v1/studies").status for guess in islice(guesses, 5)]
    assert statuses == [401] * 5
    # Each failure from here on makes the next wait twice as long.
    assert any(guess.ask("/v1/studies").status == 429 for guess in guesses)
    assert guarded.viewer.ask("/v1/studies").status == 200
    assert Browser(guarded.site).sign_in(guarded.viewer.token).status == 303


def test_failures_are_forgotten_after_a_sign_in(guard: Callable[..., Guarded]) -> None:
    guarded = guard()
    browser = Browser(guarded.site)
    for _ in range(3):
        statuses = [browser.sign_in(wrong).status for wrong in (UNKNOWN, "x", "swp_1_2", UNKNOWN)]
        assert statuses == [401] * 4
        assert browser.sign_in(guarded.viewer.token).status == 303


class Clock:
    """A clock that stands still."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_lockout_grows_after_each_failure() -> None:
    clock = Clock()
    strangers = UnauthenticatedClients(LIMITS, clock)
    waits = []
    for _ in range(40):
        strangers.count_failure("a")
        waits.append(strangers.lockout("a"))
    assert waits[:7] == [0.0, 0.0, 0.0, 0.0, 2.0, 4.0, 8.0]
    assert waits == sorted(waits)
    assert waits[-1] == LIMITS.lockout_seconds
    assert strangers.lockout("b") == 0.0
    clock.now += LIMITS.lockout_seconds
    assert strangers.lockout("a") == 0.0
    strangers.reset_failures("a")
    strangers.count_failure("a")
    assert strangers.lockout("a") == 0.0


def test_unauthenticated_responses_are_rate_limited() -> None:
    clock = Clock()
    strangers = UnauthenticatedClients(LIMITS, clock)
    free = [strangers.delay("a") for _ in range(LIMITS.unauthenticated_at_once)]
    assert free == pytest.approx([0.0] * len(free), abs=1e-6)
    paced = [strangers.delay("a") for _ in range(100)]
    assert paced[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert paced[-1] == pytest.approx(LIMITS.unauthenticated_wait_seconds)
    assert strangers.delay("b") == pytest.approx(0.0, abs=1e-6)
    clock.now += 60
    assert strangers.delay("a") == pytest.approx(0.0, abs=1e-6)


def test_delayed_response_is_sent_on_shutdown(
    storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    delayed = threading.Event()
    delay = UnauthenticatedClients.delay

    def noted(strangers: UnauthenticatedClients, address: str) -> float:
        seconds = delay(strangers, address)
        if seconds > 60:
            delayed.set()
        return seconds

    monkeypatch.setattr(UnauthenticatedClients, "delay", noted)
    slow: dict[str, Any] = {"unauthenticated_at_once": 1, "unauthenticated_per_second": 0.001}
    slow["unauthenticated_wait_seconds"] = 3600.0
    with stopped_after():
        site = serve(storage, sign_in=True, limits=replace(LIMITS, **slow))
        assert site.ask("/v1/health").status == 200
        line = connected(site, f"{HEAD}\r\n")
        assert delayed.wait(timeout=30)
    assert b"200 OK" in read_to_end(line)


def test_remembered_addresses_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeper.service.auth.unauthenticated._ADDRESSES", 2)
    strangers = UnauthenticatedClients(replace(LIMITS, free_failures=1), Clock())
    for address in "abc":
        strangers.count_failure(address)
    assert [strangers.lockout(address) > 0 for address in "cba"] == [True, True, False]


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::9", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("", ""),
        ("unknown" * 99, ("unknown" * 99)[:45]),
    ],
)
def test_a_client_is_counted_by_address_or_network(host: str, key: str) -> None:
    assert client_key(host) == key


# ---- documentation -------------------------------------------------------------------------


def test_the_documentation_has_every_limit() -> None:
    rows = re.findall(r"^\| `(\w+)` +\| ([\d,.]+) ", DOCS, flags=re.MULTILINE)
    documented = {name: float(value.replace(",", "")) for name, value in rows}
    limits = {one.name: float(getattr(LIMITS, one.name)) for one in fields(LIMITS)}
    assert documented == limits
