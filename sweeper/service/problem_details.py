"""Error responses as problem+json (RFC 9457)."""

from http import HTTPStatus
from typing import Any, Final

from starlette.responses import JSONResponse, Response

from sweeper.errors import Conflict, DatabaseFailed, SweeperError, UnknownName
from sweeper.store.database import SchemaMissing
from sweeper.study.schema_errors import errors_by_key

PROBLEM_JSON: Final = "application/problem+json"
# The first matching type counts.
_STATUS: Final[tuple[tuple[type[SweeperError], int], ...]] = (
    (UnknownName, 404),
    (SchemaMissing, 404),
    (Conflict, 409),
    (DatabaseFailed, 503),
)


class RequestRefused(SweeperError):
    """A refused request, with the status and headers of the response."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.headers = status, headers or {}


def status_of(error: SweeperError) -> int:
    """Return the HTTP status for an error; 422 by default."""
    if isinstance(error, RequestRefused):
        return error.status
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 422)


def title_of(status: int) -> str:
    """Return the title of an error page: the reason phrase of the status, or a clearer text."""
    if status == 422:  # "Unprocessable Entity" or "Unprocessable Content", depending on Python
        return "Invalid Input"
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def problem(error: SweeperError) -> Response:
    """Return an error as problem+json; `errors` lists the messages about keys of the study."""
    status = status_of(error)
    keyed = [{"key": key, "detail": text} for key, text in errors_by_key(error) if key]
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": title_of(status),
        "status": status,
        "detail": str(error),
        **({"errors": keyed} if keyed else {}),
    }
    headers = error.headers if isinstance(error, RequestRefused) else {}
    return JSONResponse(body, status, headers, media_type=PROBLEM_JSON)
