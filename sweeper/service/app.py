"""The service as one ASGI application: pages, JSON API, optuna-dashboard, behind one gate."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Any

from anyio import to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from sweeper.bundled import bundled_folder
from sweeper.errors import SweeperError, UnknownName
from sweeper.service.api import v1
from sweeper.service.auth.gate import Gate, wants_page
from sweeper.service.cache import Recent
from sweeper.service.dashboard import Dashboard
from sweeper.service.pages import routes
from sweeper.service.pages.figure_cache import Drawings
from sweeper.service.pages.templates import ASSETS, Views
from sweeper.service.pages.trials import Asked, trials_page
from sweeper.service.problem_details import Refused, problem, title_of
from sweeper.service.settings import Settings, path_of
from sweeper.service.study_reader import Library

# Of people who wait for the database some wait longer: it has fewer connections.
THREADS = 32
# How old a page of trials may be.
TABLE_SECONDS = 5.0


def create_app(settings: Settings) -> Gate:
    """Return the service; the database is opened when it is first needed."""
    library = Library(settings.storage)
    app = FastAPI(
        title="sweeper",
        version=version("sweeper"),
        description="Does label smoothing help a model, with which ε, and should it anneal?",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=_lifespan,
    )
    folders = (*settings.folders, bundled_folder("studies"))
    app.state.settings = Settings(**{**vars(settings), "folders": folders})
    app.state.library = library
    app.state.views = views = Views(settings)
    app.state.tables = Recent(partial(_table, library, views), seconds=TABLE_SECONDS)
    app.state.drawings = Drawings(library, views, settings.pages)
    app.add_api_route("/assets/{name}", asset, include_in_schema=False)
    app.add_api_route("/metrics", v1.metrics, include_in_schema=False)
    app.include_router(v1.router)
    app.include_router(routes.router)
    app.mount("/", _rest(Dashboard(library, writes=settings.dashboard_writes)))
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    return Gate(app, library, app.state.settings, _answer(app))


def asset(name: str, request: Request) -> Response:
    """Return a file of the pages; its address changes with its content."""
    if name not in ASSETS:
        raise UnknownName(f"there is no {name[:100]!r} here")
    lasting = {"Cache-Control": "public, max-age=31536000, immutable"}
    return FileResponse(ASSETS[name], headers=lasting)


def _table(library: Library, views: Views, asked: Asked) -> bytes:
    found = trials_page(library.study(asked.study), asked)
    return views.table(asked.root, asked.study, found)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    to_thread.current_default_thread_limiter().total_tokens = THREADS
    yield
    app.state.drawings.close()
    app.state.library.close()


def _answer(app: FastAPI) -> Any:
    def answer(request: Request, error: SweeperError) -> Response:
        if wants_page(request):
            views: Views = app.state.views
            return views.problem(request, error)
        return problem(error)

    return answer


def _refused(request: Request, error: Exception) -> Response:
    """Answer what a person got wrong."""
    made: Response = _answer(request.app)(request, error)
    return made


def _invalid(request: Request, error: Exception) -> Response:
    """Answer a request with wrong values: each with its name."""
    lines = []
    for item in error.errors() if isinstance(error, RequestValidationError) else []:
        where = item["loc"][1:] if item["type"] != "json_invalid" else ()
        name = ".".join(map(str, where)) or "body"
        lines.append(f"{name}: {item['msg']}")
    return _refused(request, Refused(422, "\n".join(lines)))


def _http(request: Request, error: Exception) -> Response:
    """Answer what the framework refused."""
    status, detail = 500, title_of(500)
    headers: dict[str, str] = {}
    if isinstance(error, HTTPException):
        status, detail = error.status_code, str(error.detail)
        headers = dict(error.headers or {})
    return _refused(request, Refused(status, detail, headers))


def _rest(dashboard: ASGIApp) -> ASGIApp:
    """Return what answers where no route of ours does: optuna-dashboard, but for our own paths."""
    ours = (*v1.router.routes, *routes.router.routes)

    async def rest(scope: Scope, receive: Receive, send: Send) -> None:
        found = [route for route in ours if route.matches(scope)[0] is not Match.NONE]
        methods = sorted({method for route in found for method in getattr(route, "methods", ())})
        if methods:
            words = f"{scope['method']} is not for this path; allowed: {', '.join(methods)}"
            raise Refused(405, words, {"Allow": ", ".join(methods)})
        path = path_of(scope)
        if path.startswith("/v1/"):
            raise UnknownName(
                f"there is nothing at {path[:200]}; /v1/openapi.json lists what there is"
            )
        await dashboard(scope, receive, send)

    return rest


def _bug(request: Request, error: Exception) -> Response:
    """Answer a mistake of ours: the log has it, the page does not."""
    return _refused(request, Refused(500, "a mistake of the service; its log says more"))


_HANDLERS: dict[type[Exception], Any] = {
    SweeperError: _refused,
    RequestValidationError: _invalid,
    HTTPException: _http,
    Exception: _bug,
}
