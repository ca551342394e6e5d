"""The middleware of the service: one class per check.

`create_app` lists them in order. A check raises `SweeperError` to refuse a request, and
`ErrorResponses` turns the exception into a response.
"""

import asyncio
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote

from anyio import CapacityLimiter, to_thread
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sweeper.errors import SweeperError
from sweeper.service import dashboard
from sweeper.service.auth.hosts import without_port
from sweeper.service.auth.identity import Accounts, Identity, address_of, cookie
from sweeper.service.auth.unauthenticated import UnauthenticatedClients
from sweeper.service.client_limits import ClientLimits
from sweeper.service.problem_details import RequestRefused
from sweeper.service.settings import LARGEST_BODY, Settings, path_of, root_of

SAFE: Final = ("GET", "HEAD")
# Paths that do not require sign-in.
_OPEN: Final = ("/sign-in", "/assets/", "/v1/health")
# Threads for checking tokens and sessions, so that slow pages cannot block sign-in.
_IDENTIFYING: Final = 4
# How often a delayed response checks whether the service is stopping.
_POLL_SECONDS: Final = 0.5
_POLICY: Final = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

Answer = Callable[[Request, SweeperError], Response]


class RequestContext:
    """Sets the root path and the initial state of a request: a `nonce` for scripts, no identity."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Under the host name of optuna-dashboard, everything is at the root.
        host = without_port(Headers(scope=scope).get("host", ""))
        on_dashboard_host = host == self._settings.dashboard_host
        scope["root_path"] = "" if on_dashboard_host else self._settings.root_path
        scope.setdefault("state", {}).update(
            nonce=secrets.token_urlsafe(16), identity=Identity(None)
        )
        await self._app(scope, receive, send)


class SafeHeaders:
    """Adds security headers to every response, and the session cookie for a new browser."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add_headers(request, MutableHeaders(scope=message))
            await send(message)

        await self._app(scope, receive, sending)


class UnauthenticatedRate:
    """Delays responses to unauthenticated clients, and 429 responses, above the rate per address.

    A delayed response costs the service only a timer.
    """

    def __init__(
        self, app: ASGIApp, unauthenticated: UnauthenticatedClients, closing: threading.Event
    ) -> None:
        self._app, self._unauthenticated, self._closing = app, unauthenticated, closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                signed_in = request.state.identity.account is not None
                if not signed_in or message["status"] == 429:
                    await self._wait(self._unauthenticated.delay(address_of(request)))
            await send(message)

        await self._app(scope, receive, sending)

    async def _wait(self, seconds: float) -> None:
        """Wait, but stop waiting when the service stops."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._closing.is_set():
            await asyncio.sleep(min(left, _POLL_SECONDS))


class ErrorResponses:
    """Turns exceptions into responses; redirects browsers without a session to the sign-in page."""

    def __init__(self, app: ASGIApp, answer: Answer) -> None:
        self._app, self._answer = app, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        try:
            await self._app(scope, receive, send)
        except SweeperError as error:
            response = _to_sign_in(request, error) or self._answer(request, error)
            await response(scope, receive, send)
        except ClientDisconnect:
            pass  # no client is left to respond to


class UrlCheck:
    """Refuses URLs with the character NUL, which PostgreSQL cannot store."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "\0" in scope["path"] or b"%00" in scope["query_string"]:
            raise RequestRefused(400, "the URL contains the character NUL (%00); remove it")
        await self._app(scope, receive, send)


class HostCheck:
    """Refuses unknown Host headers, which protects against DNS rebinding by other sites."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._hosts = app, settings.hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if without_port(Headers(scope=scope).get("host", "")) not in self._hosts:
            raise RequestRefused(
                421, "Host header not allowed; add it with sweeper serve --allow-host NAME"
            )
        await self._app(scope, receive, send)


class BodySizeLimit:
    """Refuses bodies that are too large, by Content-Length or by the bytes received."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal() or int(length) > LARGEST_BODY:
            raise RequestRefused(413, f"the request is too large; allowed: {LARGEST_BODY:,} bytes")
        await self._app(scope, _limit_body(receive), send)


class Authentication:
    """Identifies the client; raises `RequestRefused` if it has to sign in first."""

    def __init__(self, app: ASGIApp, accounts: Accounts, *, sign_in: bool) -> None:
        self._app, self._accounts, self._sign_in = app, accounts, sign_in
        self._threads: CapacityLimiter | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        if not self._sign_in or _is_open(path_of(scope)):
            scope["state"]["identity"] = self._accounts.anonymous(request)
            await self._app(scope, receive, send)
            return
        # Created here, because it belongs to the running event loop.
        self._threads = self._threads or CapacityLimiter(_IDENTIFYING)
        identity = await to_thread.run_sync(self._accounts.identify, request, limiter=self._threads)
        scope["state"]["identity"] = identity
        if identity.account is None:
            raise RequestRefused(
                401,
                "not signed in; sign in or send the header Authorization: Bearer swp_…",
                {"WWW-Authenticate": "Bearer"},
            )
        await self._app(scope, receive, send)


class ChangeCheck:
    """Refuses requests that change something if they come from other sites or from viewers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in SAFE:
            _check_change(Request(scope))
        await self._app(scope, receive, send)


class RequestsPerAddress:
    """Limits the number of concurrent requests per address.

    Event streams are counted separately, and so are unauthenticated requests.
    """

    def __init__(self, app: ASGIApp, limits: ClientLimits) -> None:
        self._app, self._limits = app, limits
        self._open: Counter[tuple[str, bool, str]] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind, most = "requests", self._limits.requests_per_address
        if path_of(scope).endswith("/events"):
            kind, most = "event streams", self._limits.streams_per_address
        signed_in = scope["state"]["identity"].account is not None
        key = (kind, signed_in, address_of(Request(scope)))
        if self._open[key] >= most:
            raise RequestRefused(
                429,
                f"your address already has {most} open {kind}, the maximum; close some pages or "
                "try again later",
                {"Retry-After": "5"},
            )
        self._open[key] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]


def wants_page(request: Request) -> bool:
    """Return whether to respond with an HTML page (browser) or with JSON (program)."""
    machine = path_of(request.scope).startswith(("/v1/", "/metrics", "/api/"))
    return not machine and "text/html" in request.headers.get("accept", "")


def _is_open(path: str) -> bool:
    return any(path == item or (item.endswith("/") and path.startswith(item)) for item in _OPEN)


def _to_sign_in(request: Request, error: SweeperError) -> Response | None:
    """Return a redirect to the sign-in page for 401 in a browser, else None."""
    unauthorized = isinstance(error, RequestRefused) and error.status == 401
    if not (unauthorized and wants_page(request) and request.method == "GET"):
        return None
    root, query = root_of(request.scope), request.url.query
    back = quote(path_of(request.scope) + (f"?{query}" if query else ""), safe="/")
    return RedirectResponse(f"{root}/sign-in?next={back}", 303)


def _add_headers(request: Request, headers: MutableHeaders) -> None:
    on_dashboard = dashboard.is_reading_path(path_of(request.scope))
    policy = dashboard.POLICY if on_dashboard else _POLICY.format(nonce=request.state.nonce)
    headers["Content-Security-Policy"] = policy
    headers.setdefault("Cache-Control", "no-store")
    for name, value in _HEADERS.items():
        headers.setdefault(name, value)
    identity: Identity = request.state.identity
    if identity.fresh and "text/html" in headers.get("content-type", ""):
        secure = request.url.scheme == "https"
        set_cookie = cookie(identity.secret, path=root_of(request.scope), secure=secure)
        headers.append("Set-Cookie", set_cookie)


def _check_change(request: Request) -> None:
    identity: Identity = request.state.identity
    if not identity.bearer:
        _check_same_origin(request)
    path = path_of(request.scope)
    if not (identity.operator or _is_open(path) or path == "/sign-out"):
        raise RequestRefused(403, "requires the role operator; your token has the role viewer")


def _check_same_origin(request: Request) -> None:
    """Refuse a request that was sent by a page of another site, as browsers report it."""
    site = request.headers.get("sec-fetch-site", "same-origin")
    origin = request.headers.get("origin")
    host = request.headers.get("host")
    same_origin = origin is None or origin in (f"http://{host}", f"https://{host}")
    if site not in ("same-origin", "none") or not same_origin:
        raise RequestRefused(403, "request refused, because a page of another site sent it")


def _limit_body(receive: Receive) -> Receive:
    """Return a `receive` that raises an exception if the body is too large."""
    received = 0

    async def receiving() -> Message:
        nonlocal received
        message: dict[str, Any] = dict(await receive())
        received += len(message.get("body", b""))
        if received > LARGEST_BODY:
            # HTTPException, because the framework turns all other exceptions here into 400.
            raise HTTPException(413, f"the request is too large; allowed: {LARGEST_BODY:,} bytes")
        return message

    return receiving
