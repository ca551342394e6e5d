"""Authentication by token (programs) or by session cookie (browsers)."""

import hmac
import secrets
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, NamedTuple

from starlette.requests import HTTPConnection

from sweeper.errors import SweeperError
from sweeper.service.auth.unauthenticated import UnauthenticatedClients
from sweeper.service.cache import TtlCache
from sweeper.service.client_limits import ClientLimits, client_key
from sweeper.service.problem_details import RequestRefused
from sweeper.service.study_reader import StudyReader
from sweeper.store.accounts import (
    SESSION_SECONDS,
    Account,
    close_session,
    open_session,
    session_account,
    token_account,
)
from sweeper.store.database import SchemaMissing

COOKIE: Final = "sweeper_session"
# Without sign-in, everybody who can reach the service has full access.
ANYBODY: Final = Account(key="", name="", role="operator")
_LONGEST_SECRET: Final = 200


@dataclass(frozen=True)
class Identity:
    """The account of a request and the `secret` of the session cookie.

    `fresh`: the browser has no cookie yet, so the response sets this secret. `bearer`: the request
    has a token in its Authorization header.
    """

    account: Account | None
    secret: str = field(default="", repr=False)
    fresh: bool = False
    bearer: bool = False

    @property
    def csrf(self) -> str:
        """The CSRF token of the session, which every form must send."""
        return hmac.new(self.secret.encode(), b"csrf", sha256).hexdigest()

    @property
    def operator(self) -> bool:
        """Whether the request may change studies."""
        return self.account is not None and self.account.role == "operator"


class Credential(NamedTuple):
    """The credential of a request: a token (`bearer`) or the secret of a session."""

    bearer: bool
    text: str


class Accounts:
    """Identifies requests, and opens and closes browser sessions."""

    def __init__(self, study_reader: StudyReader, limits: ClientLimits, *, sign_in: bool) -> None:
        self._study_reader, self._sign_in = study_reader, sign_in
        self.unauthenticated = UnauthenticatedClients(limits)
        seconds = limits.session_check_seconds
        self._accounts = TtlCache(self._account, seconds=seconds, longest=seconds, most=1024)

    def anonymous(self, request: HTTPConnection) -> Identity:
        """Return the identity of a request without reading the database."""
        secret = request.cookies.get(COOKIE, "")[:_LONGEST_SECRET]
        account = None if self._sign_in else ANYBODY
        return Identity(account, secret or secrets.token_urlsafe(32), fresh=not secret)

    def identify(self, request: HTTPConnection) -> Identity:
        """Return the identity of a request; raises `RequestRefused` for an invalid token."""
        unknown, credential = self.anonymous(request), _credential(request)
        if credential is None:
            return unknown
        if credential.bearer:
            account = self._check_token(request, credential.text)
            return Identity(account, unknown.secret, bearer=True)
        try:
            return Identity(self._account(credential), unknown.secret)
        except SchemaMissing:
            return unknown

    async def still_valid(self, request: HTTPConnection, account: Account) -> bool:
        """Return whether the credential of a long request still belongs to this account.

        The result may be `session_check_seconds` old: streams of one session share it.
        """
        credential = _credential(request)
        if not self._sign_in or credential is None:
            return not self._sign_in
        try:
            return await self._accounts.get(credential) == account
        except SweeperError:
            return True  # the database is unavailable, so the stream shows nothing anyway

    def sign_in(self, request: HTTPConnection, text: str) -> str:
        """Open a session for a valid token and return the secret for its cookie."""
        account = self._check_token(request, text.strip())
        secret = secrets.token_urlsafe(32)
        with self._study_reader.writer() as writer:
            open_session(writer, account, secret)
        self.unauthenticated.reset_failures(address_of(request))
        return secret

    def sign_out(self, identity: Identity) -> None:
        """Close the session of a browser."""
        with self._study_reader.writer() as writer:
            close_session(writer, identity.secret)

    def _account(self, credential: Credential) -> Account | None:
        find = token_account if credential.bearer else session_account
        return find(self._study_reader.reader(), credential.text)

    def _check_token(self, request: HTTPConnection, text: str) -> Account:
        """Return the account of a token; raises `RequestRefused` for an invalid one.

        A valid token is accepted even during a lockout of its address.
        """
        account = self._account(Credential(True, text[:_LONGEST_SECRET]))
        if account is not None:
            return account
        address = address_of(request)
        wait = self.unauthenticated.lockout(address)
        if wait > 0:
            after = {"Retry-After": str(int(wait) + 1)}
            raise RequestRefused(429, f"too many failed sign-ins; try again in {wait:.0f} s", after)
        self.unauthenticated.count_failure(address)
        raise RequestRefused(
            401,
            "Invalid token. Ask your administrator for one.",
            {"WWW-Authenticate": "Bearer"},
        )


def address_of(request: HTTPConnection) -> str:
    """Return the key under which the client of a request is counted."""
    return client_key(request.client.host if request.client else "")


def cookie(secret: str, *, path: str, secure: bool) -> str:
    """Return the value of the Set-Cookie header for a secret."""
    parts = [f"{COOKIE}={secret}", f"Path={path or '/'}", f"Max-Age={SESSION_SECONDS}"]
    return "; ".join([*parts, "HttpOnly", "SameSite=Lax", *(["Secure"] if secure else [])])


def _credential(request: HTTPConnection) -> Credential | None:
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return Credential(True, text.strip()[:_LONGEST_SECRET])
    secret = request.cookies.get(COOKIE, "")[:_LONGEST_SECRET]
    return Credential(False, secret) if secret else None
