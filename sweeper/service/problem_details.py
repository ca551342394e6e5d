"""What went wrong, as an answer: problem+json for programs (RFC 9457), a page for people."""

from http import HTTPStatus
from typing import Any, Final

from starlette.responses import JSONResponse, Response

from sweeper.errors import Conflict, DatabaseFailed, SweeperError, UnknownName
from sweeper.store.database import NothingLaunched
from sweeper.study.schema_errors import by_key

PROBLEM_JSON: Final = "application/problem+json"
# The first that fits.
_STATUS: Final[tuple[tuple[type[SweeperError], int], ...]] = (
    (UnknownName, 404),
    (NothingLaunched, 404),
    (Conflict, 409),
    (DatabaseFailed, 503),
)


class Refused(SweeperError):
    """A request that is not let through, with the status and headers of the answer."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.headers = status, headers or {}


def status_of(error: SweeperError) -> int:
    """Return the status of an answer to what a person got wrong."""
    if isinstance(error, Refused):
        return error.status
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 422)


def title_of(status: int) -> str:
    """Return a status in words."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def problem(error: SweeperError) -> Response:
    """Return an error as problem+json; `errors` has the lines that belong to a key of the study."""
    status = status_of(error)
    keyed = [{"key": key, "detail": text} for key, text in by_key(error) if key]
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": title_of(status),
        "status": status,
        "detail": str(error),
        **({"errors": keyed} if keyed else {}),
    }
    headers = error.headers if isinstance(error, Refused) else {}
    return JSONResponse(body, status, headers, media_type=PROBLEM_JSON)
