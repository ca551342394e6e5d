"""The ASGI application: pages, JSON API and optuna-dashboard, behind the middleware."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from anyio import to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from sweeper import limits
from sweeper.bundled import bundled_folder
from sweeper.errors import StudyDamaged, SweeperError, UnknownName
from sweeper.service.api import v1
from sweeper.service.auth.identity import Accounts
from sweeper.service.cache import TtlCache
from sweeper.service.client_limits import LIMITS, ClientLimits
from sweeper.service.dashboard import Dashboard
from sweeper.service.middleware import (
    Authentication,
    BodySizeLimit,
    ChangeCheck,
    ErrorResponses,
    HostCheck,
    RequestContext,
    RequestsPerAddress,
    SafeHeaders,
    UnauthenticatedRate,
    UrlCheck,
    wants_page,
)
from sweeper.service.pages import routes
from sweeper.service.pages.figure_cache import FigureCache
from sweeper.service.pages.templates import ASSETS, PageRenderer
from sweeper.service.pages.trials import TrialTableQuery, trials_page
from sweeper.service.problem_details import RequestRefused, problem, title_of
from sweeper.service.settings import Settings, path_of
from sweeper.service.study_reader import StudyReader
from sweeper.store.damage import error_after_failure
from sweeper.version import __version__

# The threads of the routes. The database has fewer connections, so some threads wait for one.
THREADS = 32
# Maximum age of a cached page of trials.
TABLE_SECONDS = 5.0


class Service:
    """The application wrapped in its checks, which apply to every route."""

    def __init__(
        self, app: ASGIApp, checks: Sequence[Middleware], study_reader: StudyReader
    ) -> None:
        self._app, self._checked, self._study_reader = app, app, study_reader
        for check, args, kwargs in reversed(checks):
            self._checked = check(self._checked, *args, **kwargs)

    def stop(self) -> None:
        """End all streams."""
        self._study_reader.closing.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        application = self._checked if scope["type"] == "http" else self._app
        await application(scope, receive, send)


def create_app(settings: Settings, client_limits: ClientLimits = LIMITS) -> Service:
    """Return the service; the database is opened on first use."""
    study_reader = StudyReader(settings.storage)
    accounts = Accounts(study_reader, client_limits, sign_in=settings.sign_in)
    app = FastAPI(
        title="sweeper",
        version=__version__,
        description="Does label smoothing help a model, with which ε, and should it anneal?",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=_lifespan,
    )
    folders = (*settings.folders, bundled_folder("studies"))
    app.state.settings = Settings(**{**vars(settings), "folders": folders})
    app.state.study_reader, app.state.accounts = study_reader, accounts
    app.state.client_limits = client_limits
    app.state.renderer = renderer = PageRenderer(settings)
    app.state.tables = TtlCache(partial(_table, study_reader, renderer), seconds=TABLE_SECONDS)
    app.state.figure_cache = FigureCache(study_reader, renderer, settings.pages)
    app.add_api_route("/assets/{name}", asset, include_in_schema=False)
    app.add_api_route("/metrics", v1.metrics, include_in_schema=False)
    app.include_router(v1.router)
    app.include_router(routes.router)
    app.mount("/", _rest(Dashboard(study_reader, writes=settings.dashboard_writes)))
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    checks = (
        Middleware(RequestContext, settings),
        Middleware(SafeHeaders),
        Middleware(UnauthenticatedRate, accounts.unauthenticated, study_reader.closing),
        Middleware(ErrorResponses, _answer(app)),
        Middleware(UrlCheck),
        Middleware(HostCheck, settings),
        Middleware(BodySizeLimit),
        Middleware(Authentication, accounts, sign_in=settings.sign_in),
        Middleware(ChangeCheck),
        Middleware(RequestsPerAddress, client_limits),
    )
    return Service(app, checks, study_reader)


def asset(name: str, request: Request) -> Response:
    """Return a static file; its URL contains a hash of its content."""
    if name not in ASSETS:
        raise UnknownName(f"asset {name[:100]!r} does not exist")
    headers = {"Cache-Control": "public, max-age=31536000, immutable"}
    return FileResponse(ASSETS[name], headers=headers)


def _table(study_reader: StudyReader, renderer: PageRenderer, query: TrialTableQuery) -> bytes:
    table = trials_page(study_reader.study(query.study), query)
    return renderer.table(query.root, query.study, table)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    to_thread.current_default_thread_limiter().total_tokens = THREADS
    yield
    app.state.figure_cache.close()
    app.state.study_reader.close()


def _answer(app: FastAPI) -> Any:
    def answer(request: Request, error: SweeperError) -> Response:
        if wants_page(request):
            renderer: PageRenderer = app.state.renderer
            return renderer.problem(request, error)
        return problem(error)

    return answer


def _error_response(request: Request, error: Exception) -> Response:
    response: Response = _answer(request.app)(request, error)
    return response


def _invalid(request: Request, error: Exception) -> Response:
    """Return 422 with one line per invalid value, or 404 if the path of a page is invalid."""
    errors = error.errors() if isinstance(error, RequestValidationError) else []
    lines = []
    for item in errors[: limits.ERROR_LINES]:
        where = item["loc"][1:] if item["type"] != "json_invalid" else ()
        name = ".".join(map(str, where)) or "body"
        lines.append(f"{name[: limits.KEY_LENGTH]}: {item['msg']}")
    # For pages, an impossible trial number in the path means that the page does not exist.
    wrong_path = errors and all(item["loc"][0] == "path" for item in errors)
    missing = wrong_path and not path_of(request.scope).startswith("/v1/")
    return _error_response(request, RequestRefused(404 if missing else 422, "\n".join(lines)))


def _http(request: Request, error: Exception) -> Response:
    """Convert an exception of the framework."""
    status, detail = 500, title_of(500)
    headers: dict[str, str] = {}
    if isinstance(error, HTTPException):
        status, detail = error.status_code, str(error.detail)
        headers = dict(error.headers or {})
    # The framework could not parse the body.
    if isinstance(error.__cause__, RecursionError):
        detail = (
            f"body: nested too deeply; allowed: {limits.NESTING_DEPTH} levels of lists and tables"
        )
    elif type(error.__cause__) is ValueError:  # of int()
        status = 422
        detail = f"body: an integer has too many digits; allowed: {limits.INTEGER_DIGITS} digits"
    return _error_response(request, RequestRefused(status, detail, headers))


def _rest(dashboard: ASGIApp) -> ASGIApp:
    """Return the fallback for paths without a route: optuna-dashboard, except below /v1/."""
    known = (*v1.router.routes, *routes.router.routes)

    async def rest(scope: Scope, receive: Receive, send: Send) -> None:
        matches = [route for route in known if route.matches(scope)[0] is not Match.NONE]
        methods = sorted({method for route in matches for method in getattr(route, "methods", ())})
        if methods:
            message = f"method {scope['method']} not allowed here; allowed: {', '.join(methods)}"
            raise RequestRefused(405, message, {"Allow": ", ".join(methods)})
        path = path_of(scope)
        if path.startswith("/v1/"):
            raise UnknownName(f"{path[:200]} does not exist; /v1/openapi.json lists all paths")
        await dashboard(scope, receive, send)

    return rest


def _bug(request: Request, error: Exception) -> Response:
    """Convert an unexpected exception to 500 without details, which only the log has.

    If it is caused by a damaged study, the response says what is wrong with the study.
    """
    name = request.path_params.get("name")
    if name is not None:
        cause = error_after_failure(request.app.state.study_reader.reader(), name, error)
        if isinstance(cause, StudyDamaged) and cause.known:
            return _error_response(request, cause)
    return _error_response(
        request, RequestRefused(500, "internal error, see the log of the service")
    )


_HANDLERS: dict[type[Exception], Any] = {
    SweeperError: _error_response,
    RequestValidationError: _invalid,
    HTTPException: _http,
    Exception: _bug,
}
