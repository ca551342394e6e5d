"""Rendering of pages: the templates, their common variables and filters."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

import plotly
from fastapi import Request
from fastapi.responses import HTMLResponse
from markupsafe import Markup

from sweeper import formatting as fmt
from sweeper.errors import SweeperError
from sweeper.metrics import METRICS
from sweeper.report.page import TEMPLATES, environment, themes
from sweeper.service.auth.identity import Identity
from sweeper.service.pages.trials import TrialTable
from sweeper.service.problem_details import problem, status_of, title_of
from sweeper.service.settings import Settings, root_of

_HERE: Final = Path(__file__).parent
_PLOTLY: Final = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
ASSETS: Final[Mapping[str, Path]] = {
    "page.css": TEMPLATES / "page.css",
    "page.js": TEMPLATES / "page.js",
    "service.css": _HERE / "assets" / "service.css",
    "service.js": _HERE / "assets" / "service.js",
    "icon.svg": _HERE / "assets" / "icon.svg",
    "plotly.js": _PLOTLY,
}


class PageRenderer:
    """The templates of the service and of the report, with their common variables."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._templates = environment(_HERE / "templates", TEMPLATES)
        self._templates.filters.update(
            nll=_nll, when=_when, ago=_ago, segment=_segment, percent=fmt.percent
        )
        self._templates.filters["smoothing"] = lambda smoothing: fmt.smoothing(*smoothing)
        self._templates.globals.update(
            themes=themes(),
            query=_query,
            metrics={name: metric.label for name, metric in METRICS.items()},
            tabs=list(settings.pages),
        )

    def page(self, request: Request, template: str, **context: Any) -> HTMLResponse:
        return HTMLResponse(self.fragment(request, template, **context))

    def fragment(self, request: Request, template: str, **context: Any) -> str:
        identity: Identity = request.state.identity
        common = {
            "root": root_of(request.scope),
            "asset": partial(_asset, root_of(request.scope)),
            "nonce": request.state.nonce,
            "csrf": identity.csrf,
            "account": identity.account,
            "operator": identity.operator,
            "signs_in": self._settings.sign_in,
            "dashboard": self._dashboard(request),
            "here": request.url.path,
        }
        return self._templates.get_template(template).render(**common, **context)

    def sections(self, context: Mapping[str, Any]) -> bytes:
        """Return the sections of a page of figures, which are the same for all users."""
        return self._templates.get_template("sections.html").render(**context).encode()

    def verdict(self, context: Mapping[str, Any]) -> str:
        """Return the recommended configuration and its verdict, the same for all users."""
        return self._templates.get_template("verdict.html").render(**context)

    def page_with_body(
        self, body: bytes, request: Request, template: str, **context: Any
    ) -> HTMLResponse:
        """Return a page with `body`, which is HTML, in place of the variable `body`."""
        mark = f"<!--{request.state.nonce}-->"
        before, _, after = self.fragment(request, template, body=Markup(mark), **context).partition(
            mark
        )
        return HTMLResponse(b"".join((before.encode(), body, after.encode())))

    def table(self, root: str, study: str, table: TrialTable) -> bytes:
        """Return the table of trials as HTML, which is the same for all users."""
        study_url = f"{root}/studies/{_segment(study)}"
        part = self._templates.get_template("trials_part.html")
        return part.render(study_url=study_url, table=table).encode()

    def problem(self, request: Request, error: SweeperError) -> HTMLResponse:
        """Return the error page."""
        status = status_of(error)
        answer = problem(error)
        page = self.page(
            request, "error.html", status=status, title=title_of(status), lines=str(error)
        )
        page.status_code = status
        page.headers.update(
            {k: v for k, v in answer.headers.items() if not k.startswith("content-")}
        )
        return page

    def _dashboard(self, request: Request) -> str:
        """Return the URL of optuna-dashboard, "" if it cannot be reached."""
        if not root_of(request.scope):
            return "/dashboard"
        host = self._settings.dashboard_host
        return f"{request.url.scheme}://{host}/dashboard" if host else ""


def _asset(root: str, name: str) -> str:
    return f"{root}/assets/{name}?v={_digest(ASSETS[name])}"


@cache
def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()[:12]


def _nll(value: float | None) -> str:
    return fmt.NOTHING if value is None else fmt.nll(value)


def _segment(text: str) -> str:
    """Return text quoted as one segment of a URL path."""
    return quote(text, safe="")


def _query(**values: Any) -> str:
    return urlencode({key: value for key, value in values.items() if value not in ("", None)})


def _when(seconds: float) -> Markup:
    """Return a time element in UTC; service.js converts it to the local time zone."""
    moment = datetime.fromtimestamp(seconds, UTC)
    text = moment.strftime("%Y-%m-%d %H:%M UTC")
    return Markup('<time datetime="{}">{}</time>').format(moment.isoformat(), text)


def _ago(seconds: float) -> str:
    return f"{seconds:.0f} s ago" if seconds < 120 else f"{seconds / 60:.0f} min ago"
