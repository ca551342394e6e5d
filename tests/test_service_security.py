"""Who may do what at the service: each guard is tried from outside, over real HTTP."""

import hmac
import http.client
import re
import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from starlette.routing import Route

import sweeper
from sweeper import SweeperError, api, service
from sweeper.service.app import create_app
from sweeper.service.auth.identity import COOKIE
from sweeper.service.settings import LARGEST_BODY
from tests.support.processes import run
from tests.support.service_world import World, copied
from tests.support.serving import LOCAL, Browser, Site, database, serve
from tests.support.studies import STUDY, copy_task
from tests.tasks.hostile_output import HOSTILE

SECRET = re.compile(r"swp_[0-9a-f]{16}_[A-Za-z0-9_-]{43}")


class Guarded(NamedTuple):
    """A service that asks for a token, and one of each role."""

    world: World
    site: Site
    viewer: Site
    operator: Site

    @property
    def storage(self) -> str:
        return self.world.study.storage

    def rows(self, query: str) -> list[Any]:
        """Return what a query of the database gives."""
        with sqlite3.connect(self.world.folder / "sweeper.db") as connection:
            found = connection.execute(query).fetchall()
        connection.close()
        return found


@pytest.fixture
def guarded(template: World, tmp_path: Path) -> Guarded:
    made = copied(template, tmp_path)
    site = serve(made.study.storage, sign_in=True, folders=(tmp_path,))
    viewer = Site(site.address, api.create_token("eve", "viewer", made.study.storage))
    operator = Site(site.address, api.create_token("ann", "operator", made.study.storage))
    return Guarded(made, site, viewer, operator)


# ---- who has not signed in ---------------------------------------------------------------

ROUTES = sorted(
    {
        (method, re.sub(r"\{[^}]*\}", "1", route.path))
        for route in (*service.api.v1.router.routes, *service.pages.routes.router.routes)
        if isinstance(route, Route)
        for method in route.methods or ()
    }
    | {("GET", "/metrics"), ("GET", "/dashboard"), ("GET", "/api/studies"), ("DELETE", "/nothing")}
)
OPEN = {("GET", "/v1/health"), ("GET", "/sign-in"), ("POST", "/sign-in")}


def test_the_routes_are_known() -> None:
    assert len(ROUTES) > 30
    assert set(ROUTES) > OPEN
    assert ("DELETE", "/v1/studies/1") in ROUTES


def test_only_sign_in_and_health_need_no_session(guarded: Guarded) -> None:
    for method, path in sorted(set(ROUTES) - OPEN):
        answer = guarded.site.ask(path, method)
        assert answer.status == 401, (method, path, answer.status)
        assert b"quick" not in answer.body
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_browser_is_redirected_to_sign_in_and_back(guarded: Guarded) -> None:
    browser = Browser(guarded.site)
    answer = browser.ask("/studies/quick/trials?sort=nll&page=1")
    assert answer.status == 303
    wanted = "/studies/quick/trials%3Fsort%3Dnll%26page%3D1"
    assert answer.headers["Location"] == f"/sign-in?next={wanted}"
    shown = browser.ask(answer.headers["Location"]).text
    assert 'value="/studies/quick/trials?sort=nll&amp;page=1"' in shown
    back = browser.sign_in(guarded.viewer.token, next="/studies/quick/trials?sort=nll&page=1")
    assert (back.status, back.headers["Location"]) == (303, "/studies/quick/trials?sort=nll&page=1")
    assert browser.ask("/studies/quick").status == 200


@pytest.mark.parametrize(
    "place", ["//evil.example", "https://evil.example", "/\\evil.example", "/a\nb", "evil", ""]
)
def test_sign_in_does_not_redirect_to_other_sites(guarded: Guarded, place: str) -> None:
    answer = Browser(guarded.site).sign_in(guarded.viewer.token, next=place)
    assert (answer.status, answer.headers["Location"]) == (303, "/")


def test_health_hides_details_from_unauthenticated_clients(tmp_path: Path) -> None:
    (tmp_path / "sweeper.db").write_text("this is no database, and a long enough text to see it")
    answer = serve(database(tmp_path), sign_in=True).ask("/v1/health")
    assert (answer.status, answer.json["detail"]) == (503, "database")
    assert "sweeper.db" in serve(database(tmp_path)).ask("/v1/health").json["detail"]


# ---- roles -------------------------------------------------------------------------------

CHANGES = sorted(
    (method, path.replace("/1", "/quick").replace("quick/quick", "quick/stop"))
    for method, path in ROUTES
    if method not in ("GET", "HEAD") and path not in ("/sign-in", "/sign-out")
)


def test_viewer_can_read_but_not_change(guarded: Guarded) -> None:
    assert guarded.viewer.ask("/v1/studies/quick").status == 200
    assert guarded.viewer.ask("/api/studies").status == 200
    before = guarded.rows("select * from sweeper_studies")
    assert ("POST", "/new") in CHANGES
    for method, path in CHANGES:
        answer = guarded.viewer.ask(path, method, {"spec": {}})
        assert answer.status == 403, (method, path)
        assert "operator" in answer.json["detail"]
    assert guarded.rows("select * from sweeper_studies") == before


def test_viewer_pages_contain_no_forms(guarded: Guarded) -> None:
    for path in ("/studies", "/studies/quick"):
        seen = guarded.viewer.page(path).text
        assert "Delete" not in seen
        assert "New study" not in seen
        assert "New study" in guarded.operator.page(path).text


def test_operator_can_launch_and_delete(guarded: Guarded) -> None:
    text = STUDY.replace('"quick"', '"another"')
    assert guarded.operator.ask("/v1/studies", "POST", {"toml": text}).status == 201
    assert guarded.operator.ask("/v1/studies/another", "DELETE").status == 204


def test_dashboard_writes_require_operator_and_option(
    guarded: Guarded,
) -> None:
    next_version = guarded.operator.ask("/api/studies/1").json["note"]["version"] + 1
    note = ("/api/studies/1/note", "PUT", {"version": next_version, "body": "mine"})
    assert guarded.operator.ask(*note).status == 405
    site = serve(guarded.storage, sign_in=True, dashboard_writes=True)
    assert Site(site.address, guarded.viewer.token).ask(*note).status == 403
    assert site.ask(*note).status == 401
    assert Site(site.address, guarded.operator.token).ask(*note).status == 204
    assert "mine" in guarded.operator.ask("/api/studies/1").text
    other = {"Origin": "https://evil.example", "Cookie": f"{COOKIE}=x"}
    open_to_all = serve(guarded.storage, dashboard_writes=True)
    assert open_to_all.ask(*note, headers=other).status == 403


# ---- tokens ------------------------------------------------------------------------------


def test_a_token_is_shown_once_and_stored_as_a_digest(guarded: Guarded) -> None:
    made = run("token", "create", "bob", "--role", "operator", "--storage", guarded.storage)
    assert SECRET.fullmatch(made.out.strip())
    secret = made.out.strip().split("_", 2)[2]
    with sqlite3.connect(guarded.world.folder / "sweeper.db") as connection:
        assert not any(secret in line for line in connection.iterdump())
    connection.close()
    listed = run("token", "list", "--storage", guarded.storage)
    assert "bob" in listed.out
    plain = run("token", "list", "--json", "--storage", guarded.storage)
    assert secret not in listed.out + plain.out
    assert Site(guarded.site.address, made.out.strip()).ask("/v1/studies").status == 200


def test_revoking_a_token_ends_its_sessions(guarded: Guarded) -> None:
    browser = Browser(guarded.site)
    browser.sign_in(guarded.viewer.token)
    assert browser.ask("/studies").status == 200
    assert run("token", "revoke", "eve", "--storage", guarded.storage).out == "revoked eve\n"
    assert guarded.viewer.ask("/v1/studies").status == 401
    assert browser.ask("/studies").status == 303
    assert guarded.operator.ask("/v1/studies").status == 200
    again = run("token", "revoke", "evan", "--storage", guarded.storage)
    assert (again.status, again.err) == (
        2,
        "error: no token named 'evan'; existing tokens: ann\n",
    )


@pytest.mark.parametrize("name", ["eve", "", "a\nb", "x" * 101])
def test_token_names_are_valid_and_unique(guarded: Guarded, name: str) -> None:
    with pytest.raises(SweeperError, match=r"^name: "):
        api.create_token(name, "viewer", guarded.storage)
    assert [token.name for token in api.tokens(guarded.storage)] == ["ann", "eve"]


def tampered(token: str) -> list[str]:
    """Return texts that are nearly a token."""
    prefix, key, secret = token.split("_", 2)
    return [
        "",
        "swp_",
        token[:-1],
        token + "x",
        f"{prefix}_{key}_",
        f"{prefix}_{'0' * 16}_{secret}",
        f"xxx_{key}_{secret}",
        token.swapcase(),
        "' or 1=1 --",
        "\u00e9" * 50,
        "x" * 10_000,
    ]


def test_similar_token_is_invalid(guarded: Guarded) -> None:
    for text in tampered(guarded.operator.token):
        header = {"Authorization": f"Bearer {text}".encode().decode("latin-1")}
        answer = guarded.site.ask("/v1/studies", headers=header)
        assert answer.status in (401, 429), text


def test_secrets_are_compared_in_constant_time(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the key is known or not, one comparison of digests of one length is made."""
    compared: list[tuple[Any, Any]] = []
    real = hmac.compare_digest

    def spy(left: Any, right: Any) -> bool:
        compared.append((left, right))
        return real(left, right)

    monkeypatch.setattr("sweeper.store.accounts.hmac.compare_digest", spy)
    token = guarded.operator.token
    for text in (token, token[:-1], token.replace(token[4:20], "0" * 16)):
        compared.clear()
        Site(guarded.site.address, text).ask("/v1/studies")
        [(left, right)] = compared
        assert len(left) == len(right) == 64


def test_failed_sign_ins_delay_only_their_address(guarded: Guarded) -> None:
    wrong = Site(guarded.site.address, guarded.operator.token[:-1] + "-")
    statuses = [wrong.ask("/v1/studies").status for _ in range(7)]
    assert statuses == [401] * 5 + [429] * 2
    refused = wrong.ask("/v1/studies")
    assert int(refused.headers["Retry-After"]) >= 1
    assert "try again in" in refused.json["detail"]
    # Eve, behind the same address, gets in.
    assert guarded.viewer.ask("/v1/studies").status == 200


# ---- sessions ----------------------------------------------------------------------------


def test_session_cookie_is_http_only_and_same_site(guarded: Guarded) -> None:
    browser = Browser(guarded.site)
    before = browser.ask("/sign-in").headers["Set-Cookie"]
    given = browser.sign_in(guarded.viewer.token).headers["Set-Cookie"]
    parts = given.split("; ")
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(parts)
    assert "Secure" not in parts
    assert parts[0] != before.split("; ")[0]  # a session that somebody planted gets no rights


def test_cookie_is_secure_behind_trusted_tls_proxy(guarded: Guarded) -> None:
    told = {"X-Forwarded-Proto": "https"}
    for trusted, secure in (("127.0.0.1", True), ("", False), ("10.0.0.1", False)):
        site = serve(guarded.storage, sign_in=True, trusted=trusted)
        given = site.page("/sign-in", headers=told).headers["Set-Cookie"]
        assert ("Secure" in given.split("; ")) is secure


def test_sign_out_invalidates_the_cookie(guarded: Guarded) -> None:
    browser = Browser(guarded.site)
    browser.sign_in(guarded.viewer.token)
    kept = browser.cookies.output(header="", sep=";")
    form = {"csrf": browser.csrf("/studies")}
    assert browser.ask("/sign-out", "POST", form=form).status == 303
    thief = Browser(guarded.site)
    thief.cookies.load(kept)
    assert thief.ask("/studies").status == 303


def test_a_session_expires(guarded: Guarded) -> None:
    browser = Browser(guarded.site)
    browser.sign_in(guarded.viewer.token)
    assert browser.ask("/studies").status == 200
    with sqlite3.connect(guarded.world.folder / "sweeper.db") as connection:
        connection.execute("update sweeper_sessions set expires = 1")
    connection.close()
    assert browser.ask("/studies").status == 303


def test_stored_session_cannot_be_used_as_cookie(guarded: Guarded) -> None:
    browser = Browser(guarded.site)
    browser.sign_in(guarded.viewer.token)
    secret = browser.cookies[COOKIE].value
    [(stored,)] = guarded.rows("select digest from sweeper_sessions")
    assert secret != stored
    thief = Browser(guarded.site)
    thief.cookies[COOKIE] = stored
    assert thief.ask("/studies").status == 303


# ---- forms -------------------------------------------------------------------------------


@pytest.fixture
def signed_in(guarded: Guarded) -> Browser:
    browser = Browser(guarded.site)
    browser.sign_in(guarded.operator.token)
    return browser


def test_form_without_csrf_token_is_rejected(guarded: Guarded, signed_in: Browser) -> None:
    stranger = Browser(guarded.site)
    stranger.sign_in(guarded.viewer.token)
    for csrf in ("", "0" * 64, stranger.csrf("/studies"), "\u00e9"):
        form = {"csrf": csrf, "confirmed": "quick"}
        for path in ("/studies/quick/delete", "/studies/quick/stop", "/sign-out", "/new"):
            answer = signed_in.ask(path, "POST", form={**form, "pasted": "x"})
            assert answer.status == 403, (csrf, path)
    assert signed_in.ask("/studies/quick").status == 200
    form = {"csrf": signed_in.csrf("/studies"), "confirmed": "quick"}
    assert signed_in.ask("/studies/quick/delete", "POST", form=form).status == 303
    assert signed_in.ask("/studies/quick").status == 404


def test_sign_in_requires_its_csrf_token(guarded: Guarded) -> None:
    browser = Browser(guarded.site)
    browser.ask("/sign-in")
    form = {"csrf": "0" * 64, "token": guarded.operator.token}
    assert browser.ask("/sign-in", "POST", form=form).status == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_cross_site_requests_are_rejected(
    signed_in: Browser, guarded: Guarded, headers: dict[str, str]
) -> None:
    form = {"csrf": signed_in.csrf("/studies"), "confirmed": "quick"}
    for path in ("/studies/quick/delete", "/v1/studies/quick/stop"):
        assert signed_in.ask(path, "POST", form=form, headers=headers).status == 403
    # Without sign-in as well: the browser of somebody on this machine is not its owner's tool.
    open_to_all = guarded.world.site
    assert open_to_all.ask("/v1/studies/quick", "DELETE", headers=headers).status == 403
    assert signed_in.ask("/studies/quick").status == 200


def test_api_delete_by_cookie_requires_same_origin(
    signed_in: Browser,
) -> None:
    mine = {"Origin": signed_in.site.address.rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    other = {"Sec-Fetch-Site": "cross-site"}
    assert signed_in.ask("/v1/studies/quick", "DELETE", headers=other).status == 403
    assert signed_in.ask("/v1/studies/quick", "DELETE", headers=mine).status == 204


# ---- what a page may do ------------------------------------------------------------------


def test_scripts_require_the_nonce_of_the_response(guarded: Guarded) -> None:
    nonces = set()
    for path in ("/studies", "/studies/quick", "/studies/quick/trials/1", "/new", "/compare"):
        answer = guarded.operator.page(path)
        policy = answer.headers["Content-Security-Policy"]
        [nonce] = re.findall(r"script-src 'nonce-([\w-]{20,})'", policy)
        nonces.add(nonce)
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy.replace("style-src 'self' 'unsafe-inline'", "")
        scripts = re.findall(r"<script([^>]*)>", answer.text)
        assert scripts
        for attributes in scripts:
            assert 'type="application/json"' in attributes or f'nonce="{nonce}"' in attributes
        assert not re.search(r"\son\w+\s*=|javascript:", answer.text.split("<script")[0])
        assert not re.findall(r'(?:src|href|action)="(?:https?:)?//', answer.text)
    assert len(nonces) == 5


def test_every_response_has_security_headers(guarded: Guarded) -> None:
    for path in ("/studies", "/v1/studies", "/nowhere", "/dashboard", "/assets/service.js"):
        headers = guarded.operator.page(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert ("no-store" in headers["Cache-Control"]) is not path.startswith("/assets")
        assert "Server" not in headers
    policy = guarded.operator.ask("/dashboard").headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "'unsafe-inline'" not in policy.split("style-src")[0]


@pytest.fixture
def hostile(tmp_path: Path) -> Site:
    """A service with a study whose task prints and raises HTML."""
    copy_task(tmp_path, "hostile_output.py")
    spec = STUDY.replace('"quick"', '"hostile"').replace("quick.py", "hostile_output.py")
    (tmp_path / "hostile.toml").write_text(spec)
    storage = database(tmp_path)
    sweeper.launch(tmp_path / "hostile.toml", workers=0, storage=storage, results=tmp_path)
    return serve(storage)


def test_hostile_text_is_escaped(hostile: Site) -> None:
    failed = hostile.ask("/v1/studies/hostile/trials?state=failed").json["trials"]
    assert failed
    number = failed[0]["number"]
    for path in (
        "/studies/hostile",
        "/studies/hostile?shown=running",
        "/studies/hostile/trials?state=failed",
        f"/studies/hostile/trials/{number}",
        f"/compare?item=hostile/{number}&item=hostile/0",
        f"/compare?item={HOSTILE.replace(' ', '+')}&item=hostile",
        f"/studies?search={HOSTILE.replace(' ', '+')}",
        f"/studies/{HOSTILE.replace(' ', '%20').replace('/', '%2f')}",
    ):
        seen = hostile.page_with_figures(path).text
        assert "<script>alert" not in seen, path
        assert "<img" not in seen, path
        assert str(49999 * 49999) not in seen, path
    assert "&lt;script&gt;alert(1)" in hostile.page(f"/studies/hostile/trials/{number}").text


def test_pasted_study_is_escaped(guarded: Guarded, signed_in: Browser) -> None:
    form = {"csrf": signed_in.csrf("/new"), "pasted": f"</textarea>{HOSTILE} = "}
    answer = signed_in.ask("/new", "POST", form=form)
    assert answer.status == 422
    assert "<img" not in answer.text
    assert "&lt;/textarea&gt;&lt;script&gt;" in answer.text


# ---- bounds ------------------------------------------------------------------------------


def test_large_body_is_rejected(guarded: Guarded) -> None:
    large = b'{"toml": "' + b"x" * LARGEST_BODY + b'"}'
    assert guarded.operator.ask("/v1/studies", "POST", large).status == 413
    assert guarded.site.ask("/sign-in", "POST", large).status == 413


def test_large_body_without_content_length_is_rejected(guarded: Guarded) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", guarded.site.port, timeout=30)
    pieces = (b"x" * 100_000 for _ in range(20))
    headers = {
        "Authorization": f"Bearer {guarded.operator.token}",
        "Content-Type": "application/json",
        "Transfer-Encoding": "chunked",
    }
    connection.request("POST", "/v1/studies", pieces, headers, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "", "127.0.0.1@x"])
def test_unknown_host_is_rejected_first(guarded: Guarded, host: str) -> None:
    for path in ("/studies", "/v1/studies", "/assets/service.js", "/sign-in", "/api/studies"):
        answer = guarded.operator.ask(path, host=host or " ")
        assert answer.status == 421
        assert b"quick" not in answer.body


@pytest.mark.parametrize(
    "name",
    ["../routes.py", "..%2froutes.py", "%2e%2e/routes.py", "service.css/", "page.html", "x" * 500],
)
def test_only_listed_assets_are_served(guarded: Guarded, name: str) -> None:
    answer = guarded.operator.ask(f"/assets/{name}")
    assert answer.status == 404
    assert b"import" not in answer.body


# ---- secrets -----------------------------------------------------------------------------


def test_a_password_is_never_shown(tmp_path: Path) -> None:
    site = serve("postgresql://sweeper:sekret@127.0.0.1:1/sweeper")
    for path in ("/studies", "/v1/studies", "/v1/health", "/metrics", "/dashboard", "/new"):
        for answer in (site.page(path), site.ask(path)):
            assert b"sekret" not in answer.body
    assert "sweeper:***@127.0.0.1" in site.page("/studies").text


def test_settings_do_not_print_a_password() -> None:
    settings = service.Settings("postgresql://sweeper:sekret@db/sweeper", LOCAL)
    assert "sekret" not in repr(settings)
    assert "sekret" not in repr(create_app(settings))
