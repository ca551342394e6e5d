"""The routes of the HTML pages."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from hmac import compare_digest
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Form, Path, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from sweeper import api, limits
from sweeper.errors import StudyDamaged, SweeperError, UnknownName, suggestion
from sweeper.report import page_of
from sweeper.service.auth.identity import COOKIE, Accounts, Identity, cookie
from sweeper.service.dependencies import (
    AccountsDep,
    Reference,
    SettingsDep,
    StatusDep,
    StudyDep,
    StudyReaderDep,
    Word,
)
from sweeper.service.pages.comparisons import comparison_page
from sweeper.service.pages.figure_cache import FigureCache
from sweeper.service.pages.forms import as_toml, filled_form, form, resubmitted_form, tables_of
from sweeper.service.pages.templates import PageRenderer
from sweeper.service.pages.trials import TrialTableQuery, trial_page
from sweeper.service.problem_details import RequestRefused
from sweeper.service.settings import root_of
from sweeper.service.study_reader import StudyReader, StudyStatus
from sweeper.study.examples import example_studies
from sweeper.study.load import parse_toml

STUDIES_PER_PAGE: Final = 25
# Seconds between two checks for changes of an open page, and between keep-alive comments.
LIVE_SECONDS: Final = 2.0
QUIET_SECONDS: Final = 15.0
# Maximum seconds that a page waits for its figures. After that it says that they are being drawn.
FIGURES_SECONDS: Final = 3.0
# Pages are counted from 1. The limit keeps the SQL offset well within an integer.
PageNumber = Annotated[int, Query(alias="page", ge=1, le=limits.PAGE_NUMBER)]
ReturnPath = Annotated[str, Field(max_length=limits.REDIRECT_PATH_LENGTH)]
Secret = Annotated[str, Form(max_length=limits.SECRET_LENGTH)]

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


async def renderer(request: Request) -> PageRenderer:
    result: PageRenderer = request.app.state.renderer
    return result


async def figure_cache(request: Request) -> FigureCache:
    result: FigureCache = request.app.state.figure_cache
    return result


async def page_name(settings: SettingsDep, shown: Word = "running") -> str:
    """Return the name of a page of figures; raises `UnknownName` for an unknown one."""
    page_of(settings.pages, shown)
    return shown


def check_form(request: Request, csrf: Secret = "") -> None:
    """Raise `RequestRefused` if the CSRF token of a form is not that of the session."""
    check_csrf(request, csrf)


def check_csrf(request: Request, token: str) -> None:
    """Raise `RequestRefused` if `token` is not the CSRF token of the session."""
    identity: Identity = request.state.identity
    if identity.bearer:
        return
    if identity.fresh or not compare_digest(identity.csrf.encode(), token.encode()):
        raise RequestRefused(403, "this form belongs to another session; reload the page")


RendererDep = Annotated[PageRenderer, Depends(renderer)]
FigureCacheDep = Annotated[FigureCache, Depends(figure_cache)]
PageName = Annotated[str, Depends(page_name)]
CheckedForm = Depends(check_form)


# ---- signing in --------------------------------------------------------------------------


@router.get("/sign-in")
def sign_in_page(
    request: Request, renderer: RendererDep, settings: SettingsDep, next: ReturnPath = "/"
) -> Response:
    """Show the sign-in form."""
    if not settings.sign_in:
        return RedirectResponse(root_of(request.scope) + "/studies", 303)
    return renderer.page(request, "sign-in.html", next=_local_path(next), error="")


@router.post("/sign-in", dependencies=[CheckedForm])
def sign_in(
    request: Request,
    renderer: RendererDep,
    accounts: AccountsDep,
    token: Secret = "",
    next: Annotated[ReturnPath, Form()] = "/",
) -> Response:
    """Open a session for a browser with a valid token."""
    if "\0" in token:
        raise RequestRefused(400, "token: contains the character NUL; copy the token again")
    try:
        secret = accounts.sign_in(request, token)
    except RequestRefused as error:
        page = renderer.page(request, "sign-in.html", next=_local_path(next), error=str(error))
        page.status_code = error.status
        page.headers.update({k: v for k, v in error.headers.items() if k == "Retry-After"})
        return page
    answer = RedirectResponse(root_of(request.scope) + _local_path(next), 303)
    secure = request.url.scheme == "https"
    answer.headers["Set-Cookie"] = cookie(secret, path=root_of(request.scope), secure=secure)
    return answer


@router.post("/sign-out", dependencies=[CheckedForm])
def sign_out(request: Request, accounts: AccountsDep) -> Response:
    """End the session."""
    accounts.sign_out(request.state.identity)
    answer = RedirectResponse(root_of(request.scope) + "/sign-in", 303)
    answer.delete_cookie(COOKIE, path=root_of(request.scope) or "/")
    return answer


def _local_path(path: str) -> str:
    """Return the path if it is on this site, else "/": no redirect to other sites."""
    local = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if local else "/"


# ---- studies -----------------------------------------------------------------------------


@router.get("/")
def redirect_to_studies(request: Request) -> Response:
    """Redirect to the list of studies."""
    return RedirectResponse(root_of(request.scope) + "/studies", 307)


@router.get("/studies")
def studies(
    request: Request,
    renderer: RendererDep,
    studies: StudyReaderDep,
    search: Word = "",
    page: PageNumber = 1,
) -> Response:
    """List studies, newest first."""
    return renderer.page(request, "studies.html", **_listing(studies, search, page))


@router.get("/events", response_class=EventSourceResponse)
async def studies_events(
    request: Request,
    renderer: RendererDep,
    studies: StudyReaderDep,
    search: Word = "",
    page: PageNumber = 1,
) -> AsyncIterator[ServerSentEvent]:
    """Stream changes of the list of studies."""

    async def poll() -> dict[str, Any]:
        listing = await run_in_threadpool(_listing, studies, search, page)
        return {"html": {"studies": renderer.fragment(request, "studies_list.html", **listing)}}

    async for event in _event_stream(request, poll):
        yield event


def _listing(studies: StudyReader, search: str, page: int) -> dict[str, Any]:
    offset = (page - 1) * STUDIES_PER_PAGE
    rows, total = studies.page(search, offset, STUDIES_PER_PAGE)
    return {
        "studies": rows,
        "search": search,
        "total": total,
        "page": page,
        "pages": max(1, -(-total // STUDIES_PER_PAGE)),
    }


# ---- one study ---------------------------------------------------------------------------


@router.get("/studies/{name}")
async def study(
    request: Request,
    renderer: RendererDep,
    settings: SettingsDep,
    status: StatusDep,
    figures: FigureCacheDep,
    shown: Word = "",
) -> Response:
    """Show one study: its progress and one page of figures."""
    tab = shown or ("overview" if status.progress.complete else "running")
    page_of(settings.pages, tab)
    drawn, problem = None, status.problem
    if not problem:
        try:
            drawn = await figures.page(status, tab, wait=FIGURES_SECONDS)
        except StudyDamaged as error:
            problem = str(error)
    context = {"study": status, "tab": tab, "drawn": drawn, "problem": problem}
    return renderer.page_with_body(
        b"" if drawn is None else drawn.html, request, "study.html", **context
    )


@router.get("/studies/{name}/events", response_class=EventSourceResponse)
async def study_events(
    request: Request,
    renderer: RendererDep,
    studies: StudyReaderDep,
    figures: FigureCacheDep,
    status: StatusDep,
    shown: PageName,
) -> AsyncIterator[ServerSentEvent]:
    """Stream changes of the page of a study: its progress, and the version of its figures."""

    last: tuple[StudyStatus, str, dict[str, Any]] | None = None

    async def poll() -> dict[str, Any]:
        nonlocal last
        now = await studies.status.get(status.name)
        if now.problem:
            raise SweeperError(now.problem)
        drawn = await figures.page(now, shown)
        version = "" if drawn is None else drawn.version
        if last is None or last[0] is not now or last[1] != version:
            parts = {"progress": renderer.fragment(request, "progress.html", study=now)}
            last = (now, version, {"html": parts, "version": version})
        return last[2]

    async for event in _event_stream(request, poll):
        yield event


@router.get("/studies/{name}/trials")
async def trials(
    request: Request,
    renderer: RendererDep,
    status: StatusDep,
    sort: Word = "number",
    order: Literal["ascending", "descending"] = "ascending",
    state: Word = "",
    schedule: Reference = "",
    page: PageNumber = 1,
) -> Response:
    """Show one page of the trials, sorted and filtered by the database."""
    root = root_of(request.scope)
    query = TrialTableQuery(
        root, status.name, sort, order, state, schedule, page, status.recommended_trial
    )
    table = await request.app.state.tables.get(query)
    return renderer.page_with_body(table, request, "trials.html", study=status, tab="trials")


@router.get("/studies/{name}/trials/{number}")
def trial(
    request: Request,
    renderer: RendererDep,
    study: StudyDep,
    status: StatusDep,
    number: Annotated[int, Path(ge=0, le=limits.LARGEST_SQL_INTEGER)],
) -> Response:
    """Show one trial: its curves, parameters, scores, output and failure."""
    page = trial_page(study, number)
    return renderer.page(request, "trial.html", study=status, tab="trials", trial=page)


@router.get("/studies/{name}/spec")
def spec(request: Request, renderer: RendererDep, study: StudyDep, status: StatusDep) -> Response:
    """Show the study file of the latest launch."""
    text = as_toml(study.spec.model_dump(mode="json", exclude_none=True, exclude_defaults=True))
    return renderer.page(request, "spec.html", study=status, tab="spec", text=text)


@router.post("/studies/{name}/{action}", dependencies=[CheckedForm])
def change_study(
    request: Request,
    studies: StudyReaderDep,
    study: StudyDep,
    action: Literal["pause", "resume", "stop", "retry", "delete"],
    confirmed: Annotated[Word, Form()] = "",
) -> Response:
    """Pause, resume, stop, retry or delete a study."""
    if action == "delete":
        if confirmed != study.name:
            raise SweeperError(
                f"the name {confirmed!r} is not {study.name!r}; the study was not deleted"
            )
        api.delete(study.name, studies.storage)
        studies.forget(study.name)
        return RedirectResponse(f"{root_of(request.scope)}/studies", 303)
    _ACTIONS[action](study.name, studies.storage)
    studies.forget(study.name)
    return RedirectResponse(f"{root_of(request.scope)}/studies/{study.name}", 303)


_ACTIONS: Final = {"pause": api.pause, "resume": api.resume, "stop": api.stop, "retry": api.reopen}


async def _event_stream(
    request: Request, poll: Callable[[], Awaitable[Any]]
) -> AsyncIterator[ServerSentEvent]:
    """Yield the result of `poll` when it changes, and a comment when it has not for a while.

    The stream ends when the service stops, when the session ends, and after `stream_seconds`;
    browsers then reconnect.
    """
    studies: StudyReader = request.app.state.study_reader
    accounts: Accounts = request.app.state.accounts
    before, sent = "", time.monotonic()
    end = sent + request.app.state.client_limits.stream_seconds
    while not studies.closing.is_set() and time.monotonic() < end:
        if not await accounts.still_valid(request, request.state.identity.account):
            return
        try:
            now = json.dumps(await poll())
        except SweeperError as error:
            now = json.dumps({"problem": str(error)})
        if now != before:
            before, sent = now, time.monotonic()
            yield ServerSentEvent(raw_data=now)
        elif time.monotonic() - sent > QUIET_SECONDS:
            sent = time.monotonic()
            yield ServerSentEvent(comment="keep-alive")
        await asyncio.sleep(LIVE_SECONDS)


# ---- comparison --------------------------------------------------------------------------


@router.get("/compare")
def compare(
    request: Request,
    renderer: RendererDep,
    studies: StudyReaderDep,
    item: Annotated[list[Word], Query(max_length=6)] = [],  # noqa: B006
) -> Response:
    """Compare studies, or trials as study/number."""
    items = [text.strip() for text in item if text.strip()]
    comparison = comparison_page(studies, items)
    return renderer.page(request, "compare.html", items=items, comparison=comparison)


# ---- a new study -------------------------------------------------------------------------


@router.get("/new")
def new(request: Request, renderer: RendererDep, example: Word = "") -> Response:
    """List the example studies, or show the form of the selected one."""
    tables = parse_toml(find_example(example)) if example else None
    return _new(request, renderer, None if tables is None else filled_form(tables))


@router.post("/new")
async def submit_new_study(
    request: Request, renderer: RendererDep, studies: StudyReaderDep, settings: SettingsDep
) -> Response:
    """Show the form of a pasted study file, or validate and launch a submitted form."""
    fields = {key: str(value) for key, value in (await request.form()).items()}
    check_csrf(request, fields.get("csrf", ""))
    return await run_in_threadpool(_submit, request, renderer, studies, settings, fields)


def _submit(
    request: Request,
    renderer: PageRenderer,
    studies: StudyReader,
    settings: Any,
    fields: Mapping[str, str],
) -> Response:
    if "pasted" in fields:
        try:
            return _new(request, renderer, filled_form(parse_toml(fields["pasted"])))
        except SweeperError as error:
            return _new(request, renderer, None, pasted=fields["pasted"], problem=str(error))
    try:
        study = api.submit(tables_of(fields), settings.folders, storage=studies.storage)
    except SweeperError as error:
        return _new(request, renderer, resubmitted_form(fields, error), status=422)
    studies.forget(study.name)
    return RedirectResponse(f"{root_of(request.scope)}/studies/{study.name}", 303)


def _new(
    request: Request,
    renderer: PageRenderer,
    form_shown: Any,
    *,
    pasted: str = "",
    problem: str = "",
    status: int = 200,
) -> Response:
    page = renderer.page(
        request,
        "new.html",
        examples={name: _first_header_line(path) for name, path in example_studies().items()},
        tables=form(),
        filled=form_shown,
        pasted=pasted,
        problem=problem,
    )
    page.status_code = 422 if problem else status
    return page


def find_example(name: str) -> str:
    """Return the text of an example study; raises `UnknownName` for any other name."""
    examples = example_studies()
    if name not in examples:
        raise UnknownName(
            f"unknown example study {name!r}{suggestion(name, examples)}; "
            f"available: {', '.join(examples)}"
        )
    return examples[name].read_text("utf-8")


def _first_header_line(path: Any) -> str:
    """Return the first line of the header of an example study: the question it answers."""
    return str(path.read_text("utf-8")).splitlines()[0].removeprefix("#").strip()
