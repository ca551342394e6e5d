"""Who asks: the token of a program, or the browser of somebody who signed in with one."""

import hmac
import secrets
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from starlette.requests import HTTPConnection

from sweeper.errors import SweeperError
from sweeper.service.problem_details import Refused
from sweeper.service.study_reader import Library
from sweeper.store.accounts import (
    SESSION_SECONDS,
    Account,
    close_session,
    forget_failures,
    note_failure,
    open_session,
    seconds_to_wait,
    session_account,
    token_account,
)
from sweeper.store.database import NothingLaunched

COOKIE: Final = "sweeper_session"
# Who reaches a service without sign-in may do everything.
ANYBODY: Final = Account(key="", name="", role="operator")
_LONGEST_SECRET: Final = 200


@dataclass(frozen=True)
class Identity:
    """Who a request is from; `secret` is what the browser's cookie holds.

    `fresh`: the browser has none yet, and is to be given this one.
    """

    account: Account | None
    secret: str = field(default="", repr=False)
    fresh: bool = False
    bearer: bool = False

    @property
    def csrf(self) -> str:
        """What a form of ours has to bring: only pages given to this browser can know it."""
        return hmac.new(self.secret.encode(), b"csrf", sha256).hexdigest()

    @property
    def operator(self) -> bool:
        """Whether the request may change things."""
        return self.account is not None and self.account.role == "operator"


def identify(library: Library, request: HTTPConnection, *, sign_in: bool) -> Identity:
    """Return who a request is from; raises `Refused` for a token that is none."""
    secret = request.cookies.get(COOKIE, "")[:_LONGEST_SECRET]
    fresh = not secret
    secret = secret or secrets.token_urlsafe(32)
    if not sign_in:
        return Identity(ANYBODY, secret, fresh)
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        bearer = check_token(library, text.strip(), _address(request))
        return Identity(bearer, secret, bearer=True)
    try:
        account = None if fresh else session_account(library.reader(), secret)
    except NothingLaunched:
        account = None
    return Identity(account, secret, fresh)


def check_token(library: Library, text: str, address: str) -> Account:
    """Return whose token a text is; raises `Refused` where it is nobody's, slower each time.

    Failures are counted by address, and by token where the guess names one that there is: so
    nobody is kept out by what others behind the same address get wrong.
    """
    reader = library.reader()
    source = f"{address[:45]} {text[4:20]}" if text.startswith("swp_") else address[:45]
    wait = seconds_to_wait(reader, source)
    if wait > 0:
        after = {"Retry-After": str(int(wait) + 1)}
        raise Refused(429, f"too many failures to sign in; try again in {wait:.0f} s", after)
    account = token_account(reader, text[:_LONGEST_SECRET])
    if account is None:
        _count(library, source)
        raise Refused(
            401,
            "that is no token of this service; sweeper token create NAME makes one",
            {"WWW-Authenticate": "Bearer"},
        )
    return account


def sign_in(library: Library, request: HTTPConnection, text: str) -> str:
    """Open a session for a browser that brings a token; return the secret of its new cookie."""
    account = check_token(library, text.strip(), _address(request))
    secret = secrets.token_urlsafe(32)
    with library.writer() as writer:
        open_session(writer, account, secret)
        forget_failures(writer, _address(request))
    return secret


def sign_out(library: Library, identity: Identity) -> None:
    """End the session of a browser."""
    with library.writer() as writer:
        close_session(writer, identity.secret)


def cookie(secret: str, *, path: str, secure: bool) -> str:
    """Return the Set-Cookie header that gives a browser its secret."""
    parts = [f"{COOKIE}={secret}", f"Path={path or '/'}", f"Max-Age={SESSION_SECONDS}"]
    return "; ".join([*parts, "HttpOnly", "SameSite=Lax", *(["Secure"] if secure else [])])


def _count(library: Library, source: str) -> None:
    try:
        with library.writer() as writer:
            note_failure(writer, source)
    except SweeperError:
        pass  # two at once, or a database that does not take it: the request is refused anyway


def _address(request: HTTPConnection) -> str:
    return request.client.host if request.client else ""
