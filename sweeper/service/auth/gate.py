"""What every request passes: its size, the name it asks by, who sent it, and from which page."""

import secrets
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote, urlsplit

from anyio import to_thread
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sweeper.errors import SweeperError
from sweeper.service import dashboard
from sweeper.service.auth.hosts import without_port
from sweeper.service.auth.identity import Identity, cookie, identify
from sweeper.service.problem_details import Refused
from sweeper.service.settings import LARGEST_BODY, Settings, path_of, root_of
from sweeper.service.study_reader import Library

SAFE: Final = ("GET", "HEAD")
# What nobody has to sign in for.
_OPEN: Final = ("/sign-in", "/assets/", "/v1/health")
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


class Gate:
    """An application behind the checks that none of its routes can forget.

    What it found is in the request's state: `identity`, and the `nonce` that scripts of the
    page have to bear. `answer` makes the answer to a request that is refused.
    """

    def __init__(self, app: ASGIApp, library: Library, settings: Settings, answer: Answer) -> None:
        self._app, self._library, self._settings, self._answer = app, library, settings, answer

    def stop(self) -> None:
        """Let what goes on for ever come to its end."""
        self._library.closing.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["root_path"] = self._root(scope)
        state = scope.setdefault("state", {})
        state["nonce"] = secrets.token_urlsafe(16)
        state["identity"] = Identity(None)
        request = Request(scope)
        closing = self._closing(request, send)
        try:
            self._check_name_and_size(request)
            state["identity"] = identity = await self._identity(request)
            self._check_allowed(request, identity)
        except SweeperError as error:
            response = self._to_sign_in(request, error) or self._answer(request, error)
            await response(scope, receive, closing)
            return
        await self._app(scope, _bounded(receive), closing)

    def _root(self, scope: Scope) -> str:
        """Return what stands before our paths: nothing, under optuna-dashboard's own name."""
        host = without_port(Headers(scope=scope).get("host", ""))
        return "" if host == self._settings.dashboard_host else self._settings.root_path

    def _check_name_and_size(self, request: Request) -> None:
        host = without_port(request.headers.get("host", ""))
        if host not in self._settings.hosts:
            raise Refused(421, "it goes by another name; sweeper serve --allow-host adds one")
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > LARGEST_BODY:
            raise Refused(413, f"at most {LARGEST_BODY:,} bytes are taken")

    async def _identity(self, request: Request) -> Identity:
        # Only who is to sign in is looked for in the database.
        if self._settings.sign_in:
            return await to_thread.run_sync(self._identify, request)
        return self._identify(request)

    def _identify(self, request: Request) -> Identity:
        try:
            return identify(self._library, request, sign_in=self._settings.sign_in)
        except SweeperError:
            if _is_open(path_of(request.scope)):
                return Identity(None)
            raise

    def _check_allowed(self, request: Request, identity: Identity) -> None:
        path = path_of(request.scope)
        if request.method not in SAFE and not identity.bearer:
            _check_same_origin(request)
        if _is_open(path):
            return
        if identity.account is None:
            raise Refused(
                401,
                "sign in first, or send a token: Authorization: Bearer swp_…",
                {"WWW-Authenticate": "Bearer"},
            )
        if request.method not in SAFE and not identity.operator and path != "/sign-out":
            raise Refused(403, "this needs a token with the role operator; yours only reads")

    def _to_sign_in(self, request: Request, error: SweeperError) -> Response | None:
        """Return the way to the sign-in page for a person who has not signed in."""
        refused = isinstance(error, Refused) and error.status == 401
        if not (refused and wants_page(request) and request.method == "GET"):
            return None
        root, query = root_of(request.scope), request.url.query
        back = quote(path_of(request.scope) + (f"?{query}" if query else ""), safe="/")
        return RedirectResponse(f"{root}/sign-in?next={back}", 303)

    def _closing(self, request: Request, send: Send) -> Send:
        """Return `send` with the headers that every answer has."""

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add_headers(request, MutableHeaders(scope=message))
            await send(message)

        return sending

    def _add_headers(self, request: Request, headers: MutableHeaders) -> None:
        own = dashboard.reads(path_of(request.scope))
        policy = dashboard.POLICY if own else _POLICY.format(nonce=request.state.nonce)
        headers["Content-Security-Policy"] = policy
        headers.setdefault("Cache-Control", "no-store")
        for name, value in _HEADERS.items():
            headers.setdefault(name, value)
        identity: Identity = request.state.identity
        if identity.fresh and "text/html" in headers.get("content-type", ""):
            secure = request.url.scheme == "https"
            given = cookie(identity.secret, path=root_of(request.scope), secure=secure)
            headers.append("Set-Cookie", given)


def wants_page(request: Request) -> bool:
    """Return whether a person is to read the answer, and not a program."""
    machine = path_of(request.scope).startswith(("/v1/", "/metrics", "/api/"))
    return not machine and "text/html" in request.headers.get("accept", "")


def _is_open(path: str) -> bool:
    return any(path == known or (known.endswith("/") and path.startswith(known)) for known in _OPEN)


def _check_same_origin(request: Request) -> None:
    """Raise where another site's page sent what changes things: browsers say so."""
    site = request.headers.get("sec-fetch-site", "same-origin")
    origin = request.headers.get("origin")
    ours = origin is None or urlsplit(origin).netloc == request.headers.get("host")
    if site not in ("same-origin", "none") or not ours:
        raise Refused(403, "a page of another site sent this; nothing was done")


def _bounded(receive: Receive) -> Receive:
    """Return `receive` that ends where a body without a stated length is too large."""
    seen = 0

    async def receiving() -> Message:
        nonlocal seen
        message: dict[str, Any] = dict(await receive())
        seen += len(message.get("body", b""))
        if seen > LARGEST_BODY:
            # The one kind of error that the framework does not make a 400 of.
            raise HTTPException(413, f"at most {LARGEST_BODY:,} bytes are taken")
        return message

    return receiving
