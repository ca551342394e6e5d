"""The pages: studies, one study, its trials, comparisons, and a new study."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from hmac import compare_digest
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from sweeper import api
from sweeper.errors import SweeperError, UnknownName, nearest
from sweeper.report import page_of
from sweeper.service.auth import identity as accounts
from sweeper.service.auth.identity import Identity
from sweeper.service.dependencies import LibraryOf, SettingsOf, SnapshotOf, StudyOf
from sweeper.service.pages.comparisons import compared
from sweeper.service.pages.figure_cache import Drawings
from sweeper.service.pages.forms import as_toml, filled, form, refilled, tables_of
from sweeper.service.pages.templates import Views
from sweeper.service.pages.trials import Asked, trial_page
from sweeper.service.problem_details import Refused
from sweeper.service.settings import root_of
from sweeper.service.study_reader import Library, Snapshot
from sweeper.study.load import parse_toml
from sweeper.study.ready import ready_studies

STUDIES_A_PAGE: Final = 25
# How often a page that is looked at is told what has changed, and that the line still stands.
LIVE_SECONDS: Final = 2.0
QUIET_SECONDS: Final = 15.0
# How long a page waits for its figures; without them it says that they are being drawn.
FIGURES_SECONDS: Final = 3.0
# Pages are counted from 1; the last that an SQL integer reaches with room to spare.
PageNumber = Annotated[int, Query(alias="page", ge=1, le=10_000_000)]

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


async def views(request: Request) -> Views:
    """Return what makes pages."""
    found: Views = request.app.state.views
    return found


async def drawings(request: Request) -> Drawings:
    """Return the figures."""
    found: Drawings = request.app.state.drawings
    return found


async def page_name(told: SettingsOf, shown: str = "running") -> str:
    """Return the name of a page of figures; raises `UnknownName`."""
    page_of(told.pages, shown)
    return shown


def from_our_form(request: Request, csrf: Annotated[str, Form()] = "") -> None:
    """Raise where a form was not made for the browser that sends it."""
    check_csrf(request, csrf)


def check_csrf(request: Request, given: str) -> None:
    """Raise `Refused` where what a form brings is not what its browser was given."""
    identity: Identity = request.state.identity
    if identity.bearer:
        return
    if identity.fresh or not compare_digest(identity.csrf.encode(), given.encode()):
        raise Refused(403, "this form is not of this session any more; load its page again")


ViewsOf = Annotated[Views, Depends(views)]
DrawingsOf = Annotated[Drawings, Depends(drawings)]
PageName = Annotated[str, Depends(page_name)]
OurForm = Depends(from_our_form)


# ---- signing in --------------------------------------------------------------------------


@router.get("/sign-in")
def sign_in_page(request: Request, of: ViewsOf, told: SettingsOf, next: str = "/") -> Response:
    """Ask for a token."""
    if not told.sign_in:
        return RedirectResponse(root_of(request.scope) + "/studies", 303)
    return of.page(request, "sign-in.html", next=_inside(next), error="")


@router.post("/sign-in", dependencies=[OurForm])
def sign_in(
    request: Request,
    of: ViewsOf,
    books: LibraryOf,
    token: Annotated[str, Form(max_length=500)] = "",
    next: Annotated[str, Form(max_length=2000)] = "/",
) -> Response:
    """Open a session for a browser whose person has a token."""
    try:
        secret = accounts.sign_in(books, request, token)
    except Refused as error:
        shown = of.page(request, "sign-in.html", next=_inside(next), error=str(error))
        shown.status_code = error.status
        shown.headers.update({k: v for k, v in error.headers.items() if k == "Retry-After"})
        return shown
    answer = RedirectResponse(root_of(request.scope) + _inside(next), 303)
    secure = request.url.scheme == "https"
    answer.headers["Set-Cookie"] = accounts.cookie(
        secret, path=root_of(request.scope), secure=secure
    )
    return answer


@router.post("/sign-out", dependencies=[OurForm])
def sign_out(request: Request, books: LibraryOf) -> Response:
    """End the session."""
    accounts.sign_out(books, request.state.identity)
    answer = RedirectResponse(root_of(request.scope) + "/sign-in", 303)
    answer.delete_cookie(accounts.COOKIE, path=root_of(request.scope) or "/")
    return answer


def _inside(path: str) -> str:
    """Return a path of ours to go to after signing in: never another site."""
    good = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if good else "/"


# ---- studies -----------------------------------------------------------------------------


@router.get("/")
def front(request: Request) -> Response:
    """Lead to the studies."""
    return RedirectResponse(root_of(request.scope) + "/studies", 307)


@router.get("/studies")
def studies(
    request: Request,
    of: ViewsOf,
    books: LibraryOf,
    search: Annotated[str, Query(max_length=255)] = "",
    page: PageNumber = 1,
) -> Response:
    """List studies, newest first."""
    return of.page(request, "studies.html", **_listing(books, search, page))


@router.get("/events", response_class=EventSourceResponse)
async def studies_events(
    request: Request,
    of: ViewsOf,
    books: LibraryOf,
    search: Annotated[str, Query(max_length=255)] = "",
    page: PageNumber = 1,
) -> AsyncIterator[ServerSentEvent]:
    """Tell the list of studies what has changed."""

    async def look() -> dict[str, Any]:
        listing = await run_in_threadpool(_listing, books, search, page)
        return {"html": {"studies": of.part(request, "studies_list.html", **listing)}}

    async for event in _live(books, look):
        yield event


def _listing(books: Library, search: str, page: int) -> dict[str, Any]:
    offset = (page - 1) * STUDIES_A_PAGE
    found, total = books.page(search, offset, STUDIES_A_PAGE)
    return {
        "studies": found,
        "search": search,
        "total": total,
        "page": page,
        "pages": max(1, -(-total // STUDIES_A_PAGE)),
    }


# ---- one study ---------------------------------------------------------------------------


@router.get("/studies/{name}")
async def study(
    request: Request,
    of: ViewsOf,
    told: SettingsOf,
    snapshot: SnapshotOf,
    figures: DrawingsOf,
    shown: str = "",
) -> Response:
    """Show one study: how far it is, what it found, and one of the pages of figures."""
    chosen = shown or ("trade-offs" if snapshot.progress.complete else "running")
    page_of(told.pages, chosen)
    drawn = await figures.page(snapshot, chosen, wait=FIGURES_SECONDS)
    about = {**_about(snapshot), "tab": chosen, "drawn": drawn}
    return of.around(b"" if drawn is None else drawn.html, request, "study.html", **about)


@router.get("/studies/{name}/events", response_class=EventSourceResponse)
async def study_events(
    request: Request,
    of: ViewsOf,
    books: LibraryOf,
    figures: DrawingsOf,
    snapshot: SnapshotOf,
    shown: PageName,
) -> AsyncIterator[ServerSentEvent]:
    """Tell a study's page what has changed: its numbers, and whether its figures have."""

    seen: tuple[Snapshot, str, dict[str, Any]] | None = None

    async def look() -> dict[str, Any]:
        nonlocal seen
        now = await books.snapshot.soon(snapshot.name)
        drawn = await figures.page(now, shown)
        version = "" if drawn is None else drawn.version
        if seen is None or seen[0] is not now or seen[1] != version:
            parts = {"progress": of.part(request, "progress.html", **_about(now))}
            seen = (now, version, {"html": parts, "version": version})
        return seen[2]

    async for event in _live(books, look):
        yield event


@router.get("/studies/{name}/trials")
async def trials(
    request: Request,
    of: ViewsOf,
    snapshot: SnapshotOf,
    sort: Annotated[str, Query(max_length=255)] = "number",
    order: Literal["ascending", "descending"] = "ascending",
    state: Annotated[str, Query(max_length=20)] = "",
    schedule: Annotated[str, Query(max_length=255)] = "",
    page: PageNumber = 1,
) -> Response:
    """Show a part of the trials, as the database sorts and filters them."""
    root = root_of(request.scope)
    asked = Asked(root, snapshot.name, sort, order, state, schedule, page)
    table = await request.app.state.tables.soon(asked)
    return of.around(table, request, "trials.html", **_about(snapshot), tab="trials")


@router.get("/studies/{name}/trials/{number}")
def trial(
    request: Request, of: ViewsOf, one: StudyOf, snapshot: SnapshotOf, number: int
) -> Response:
    """Show one trial: its curves, parameters, scores, output and failure."""
    found = trial_page(one, number)
    return of.page(request, "trial.html", **_about(snapshot), tab="trials", trial=found)


@router.get("/studies/{name}/spec")
def spec(request: Request, of: ViewsOf, one: StudyOf, snapshot: SnapshotOf) -> Response:
    """Show the study file as it was launched."""
    text = as_toml(one.spec.model_dump(mode="json", exclude_none=True, exclude_defaults=True))
    return of.page(request, "spec.html", **_about(snapshot), tab="spec", text=text)


@router.post("/studies/{name}/{action}", dependencies=[OurForm])
def act(
    request: Request,
    books: LibraryOf,
    one: StudyOf,
    action: Literal["pause", "resume", "stop", "delete"],
    confirmed: Annotated[str, Form(max_length=255)] = "",
) -> Response:
    """Let a study rest, go on, end early, or remove it."""
    if action == "delete":
        if confirmed != one.name:
            raise SweeperError(f"type the study's name, {one.name}, to delete it")
        api.delete(one.name, books.storage)
        books.forget(one.name)
        return RedirectResponse(f"{root_of(request.scope)}/studies", 303)
    _ACTIONS[action](one.name, books.storage)
    books.forget(one.name)
    return RedirectResponse(f"{root_of(request.scope)}/studies/{one.name}", 303)


_ACTIONS: Final = {"pause": api.pause, "resume": api.resume, "stop": api.stop}


def _about(snapshot: Snapshot) -> dict[str, Any]:
    return {"study": snapshot}


async def _live(
    books: Library, look: Callable[[], Awaitable[Any]]
) -> AsyncIterator[ServerSentEvent]:
    """Yield what `look` returns when it has changed, and a sign of life when it has not."""
    before, said = "", time.monotonic()
    while not books.closing.is_set():
        try:
            now = json.dumps(await look())
        except SweeperError as error:
            now = json.dumps({"problem": str(error)})
        if now != before:
            before, said = now, time.monotonic()
            yield ServerSentEvent(raw_data=now)
        elif time.monotonic() - said > QUIET_SECONDS:
            said = time.monotonic()
            yield ServerSentEvent(comment="still here")
        await asyncio.sleep(LIVE_SECONDS)


# ---- comparing ---------------------------------------------------------------------------


@router.get("/compare")
def compare(
    request: Request,
    of: ViewsOf,
    books: LibraryOf,
    item: Annotated[list[str], Query(max_length=6)] = [],  # noqa: B006
) -> Response:
    """Show studies, or trials as study/number, side by side."""
    items = [one.strip() for one in item if one.strip()]
    return of.page(request, "compare.html", items=items, found=compared(books, items))


# ---- a new study -------------------------------------------------------------------------


@router.get("/new")
def new(request: Request, of: ViewsOf, ready: str = "") -> Response:
    """Offer the ready studies, and the form of the one that was picked."""
    tables = parse_toml(find_ready(ready)) if ready else None
    return _new(request, of, None if tables is None else filled(tables), ready)


@router.post("/new")
async def send_new(request: Request, of: ViewsOf, books: LibraryOf, told: SettingsOf) -> Response:
    """Read what was pasted, or check and launch what the form holds."""
    given = {key: str(value) for key, value in (await request.form()).items()}
    check_csrf(request, given.get("csrf", ""))
    return await run_in_threadpool(_take_new, request, of, books, told, given)


def _take_new(
    request: Request, of: Views, books: Library, told: Any, given: Mapping[str, str]
) -> Response:
    if "pasted" in given:
        try:
            return _new(request, of, filled(parse_toml(given["pasted"])))
        except SweeperError as error:
            return _new(request, of, None, pasted=given["pasted"], problem=str(error))
    try:
        study = api.submit(tables_of(given), told.folders, storage=books.storage)
    except SweeperError as error:
        return _new(request, of, refilled(given, error), status=422)
    books.forget(study.name)
    return RedirectResponse(f"{root_of(request.scope)}/studies/{study.name}", 303)


def _new(
    request: Request,
    of: Views,
    form_shown: Any,
    ready: str = "",
    *,
    pasted: str = "",
    problem: str = "",
    status: int = 200,
) -> Response:
    answer = of.page(
        request,
        "new.html",
        ready=ready,
        readies={name: _claim(path) for name, path in ready_studies().items()},
        tables=form(),
        filled=form_shown,
        pasted=pasted,
        problem=problem,
    )
    answer.status_code = 422 if problem else status
    return answer


def find_ready(name: str) -> str:
    """Return the text of a ready study; never of a file that a request names."""
    known = ready_studies()
    if name not in known:
        raise UnknownName(
            f"no ready study {name!r}{nearest(name, known)}; there are: {', '.join(known)}"
        )
    return known[name].read_text("utf-8")


def _claim(path: Any) -> str:
    """Return what a ready study asks: the first line of its header."""
    return str(path.read_text("utf-8")).splitlines()[0].removeprefix("#").strip()
