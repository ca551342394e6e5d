"""The routes of the JSON API."""

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse

from sweeper import api, limits
from sweeper.api import Study
from sweeper.confirmation.evidence import COMPARED_SCORES, Evidence
from sweeper.errors import SweeperError
from sweeper.export import document_of
from sweeper.export import render as render_export
from sweeper.report import render as render_report
from sweeper.service.api.metrics import metrics_text
from sweeper.service.api.models import (
    CandidateResponse,
    ComparisonResponse,
    HealthResponse,
    LaunchRequest,
    Problem,
    ScoresResponse,
    SessionResponse,
    StudiesResponse,
    StudyResponse,
    TrialDetail,
    TrialsResponse,
    WorkerResponse,
    WorkersResponse,
)
from sweeper.service.api.serialize import trial_detail, trial_responses
from sweeper.service.dependencies import (
    Reference,
    SettingsDep,
    StatusDep,
    StudyDep,
    StudyReaderDep,
    Word,
)
from sweeper.service.problem_details import PROBLEM_JSON
from sweeper.service.settings import root_of
from sweeper.service.study_reader import StudyReader
from sweeper.snapshot import StudySnapshot
from sweeper.study.load import parse_toml
from sweeper.study.results import baseline, best_by_schedule
from sweeper.study.space import effective_smoothing
from sweeper.study.spec import json_schema
from sweeper.version import __version__

_PROBLEM: Final = {"$ref": "#/components/schemas/Problem"}
_PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"description": words, "content": {PROBLEM_JSON: {"schema": _PROBLEM}}}
    for status, words in {
        400: "The body cannot be parsed.",
        401: "Missing or invalid token.",
        403: "The token is read-only.",
        404: "The study or trial does not exist.",
        409: "The state of the study does not allow this.",
        413: "The request is too large.",
        422: "Invalid value.",
        429: "Too many failed sign-ins or open requests.",
        503: "The database is unavailable.",
    }.items()
}
router = APIRouter(prefix="/v1", responses=_PROBLEMS)


Offset = Annotated[
    int, Query(ge=0, le=limits.LARGEST_SQL_INTEGER, description="Number of items to skip.")
]
Limit = Annotated[int, Query(ge=1, le=limits.PAGE_SIZE, description="Maximum number of items.")]


@router.get("/health")
def health(request: Request, response: Response, studies: StudyReaderDep) -> HealthResponse:
    """Return the health of the service; 503 if its database is unavailable."""
    problem = studies.problem()
    response.status_code = 503 if problem else 200
    # With sign-in this path is open to everybody, so only accounts see the message.
    detail = problem if request.state.identity.account is not None else bool(problem) * "database"
    return HealthResponse(
        status="unavailable" if problem else "ok", version=__version__, detail=detail
    )


@router.get("/session")
def session(request: Request) -> SessionResponse:
    """Return who is signed in; a caching proxy calls this to authorize a cached response."""
    account = request.state.identity.account
    return SessionResponse(name=account.name, role=account.role)


@router.get("/schema")
def schema() -> dict[str, Any]:
    """Return the JSON Schema of study files."""
    return json_schema()


@router.get("/studies")
def studies(
    studies: StudyReaderDep,
    search: Annotated[Word, Query(description="Only names that contain this text.")] = "",
    offset: Offset = 0,
    limit: Limit = 50,
) -> StudiesResponse:
    """Return studies, newest first."""
    page, total = studies.page(search, offset, limit)
    return StudiesResponse(
        studies=[StudyResponse.from_status(status) for status in page], total=total, offset=offset
    )


@router.post("/studies", status_code=201)
def launch(
    request: Request,
    body: LaunchRequest,
    studies: StudyReaderDep,
    settings: SettingsDep,
    response: Response,
) -> StudyResponse:
    """Launch a study or continue it; workers connected to the database run it.

    Its task must be a built-in task or a file in a folder of the server.
    """
    if len(body.model_fields_set) != 1:
        raise SweeperError("body: give either toml (the text of a study file) or spec (its tables)")
    tables = parse_toml(body.toml) if "toml" in body.model_fields_set else body.spec
    study = api.submit(tables, settings.folders, storage=studies.storage)
    studies.forget(study.name)
    response.headers["Location"] = f"{root_of(request.scope)}/v1/studies/{study.name}"
    return StudyResponse.from_status(studies.status(study.name))


@router.get("/studies/{name}")
async def study(status: StatusDep) -> StudyResponse:
    """Return the progress of a study."""
    return StudyResponse.from_status(status)


@router.delete("/studies/{name}", status_code=204)
def delete(studies: StudyReaderDep, study: StudyDep) -> None:
    """Delete a study with all its results."""
    api.delete(study.name, studies.storage)
    studies.forget(study.name)


@router.post("/studies/{name}/pause")
def pause(studies: StudyReaderDep, study: StudyDep) -> StudyResponse:
    """Pause a study: its workers wait; 409 if it is finished."""
    return _after(api.pause, studies, study)


@router.post("/studies/{name}/resume")
def resume(studies: StudyReaderDep, study: StudyDep) -> StudyResponse:
    """Resume a paused or stopped study; 409 if it is finished."""
    return _after(api.resume, studies, study)


@router.post("/studies/{name}/stop")
def stop(studies: StudyReaderDep, study: StudyDep) -> StudyResponse:
    """Stop a study: its workers exit; 409 if it is finished."""
    return _after(api.stop, studies, study)


@router.post("/studies/{name}/confirm")
def confirm(studies: StudyReaderDep, study: StudyDep) -> StudyResponse:
    """Start the confirmation on fresh seeds; 409 if the search has not ended or has no result.

    Workers connected to the database run it.
    """
    return _after(api.request_confirmation, studies, study)


@router.post("/studies/{name}/retry")
def retry(studies: StudyReaderDep, study: StudyDep) -> StudyResponse:
    """Run failed and lost trials of a study again; 409 if there are none.

    Each keeps its number, configuration and seeds. Workers connected to the database run them.
    """
    return _after(api.reopen, studies, study)


def _after(act: Callable[[str, str], Any], studies: StudyReader, study: Study) -> StudyResponse:
    act(study.name, studies.storage)
    studies.forget(study.name)
    return StudyResponse.from_status(studies.status(study.name))


@router.get("/studies/{name}/trials")
def trials(
    study: StudyDep,
    sort: Word = "number",
    descending: bool = False,
    state: Word | None = None,
    schedule: Reference | None = None,
    offset: Offset = 0,
    limit: Limit = 50,
) -> TrialsResponse:
    """Return a page of trials, sorted and filtered by the database."""
    page = study.page(
        sort=sort,
        descending=descending,
        state=state,
        schedule=schedule,
        offset=offset,
        limit=limit,
    )
    return TrialsResponse(trials=trial_responses(page.frame), total=page.total, offset=offset)


@router.get("/studies/{name}/trials/{number}")
def trial(
    study: StudyDep, number: Annotated[int, Path(ge=0, le=limits.LARGEST_SQL_INTEGER)]
) -> TrialDetail:
    """Return one trial with its evaluations, output and failure."""
    return trial_detail(study.trial(number))


@router.get("/studies/{name}/scores")
def scores(studies: StudyReaderDep, status: StatusDep) -> ScoresResponse:
    """Return ε = 0 and the best trial of each schedule, and the scores of the confirmation."""
    with studies.damage_errors(status.name):
        return _scores(studies.snapshot(status))


@router.get("/studies/{name}/best")
def best(studies: StudyReaderDep, status: StatusDep) -> dict[str, Any]:
    """Return the configuration to use, as in best.json; 409 if no trial has finished."""
    with studies.damage_errors(status.name):
        return document_of(studies.snapshot(status))


_MEDIA: Final = {"json": "application/json", "yaml": "application/yaml", "python": "text/x-python"}
_ENDING: Final = {"json": "json", "yaml": "yaml", "python": "py"}


@router.get(
    "/studies/{name}/export",
    response_class=Response,
    responses={200: {"content": {media: {} for media in _MEDIA.values()}}},
)
def export(
    studies: StudyReaderDep,
    status: StatusDep,
    form: Annotated[Literal["json", "yaml", "python"], Query(alias="format")] = "json",
) -> Response:
    """Return the configuration to use as a file, for example for `SmoothingLoss.from_file`."""
    name = f'attachment; filename="best.{_ENDING[form]}"'
    with studies.damage_errors(status.name):
        text = render_export(document_of(studies.snapshot(status)), form)
    return Response(text, media_type=_MEDIA[form], headers={"Content-Disposition": name})


@router.get(
    "/studies/{name}/report",
    response_class=HTMLResponse,
    responses={200: {"content": {"text/html": {}}}},
)
def report(studies: StudyReaderDep, status: StatusDep) -> Response:
    """Return the report: one HTML file that opens offline."""
    name = f'attachment; filename="{status.name}.html"'
    with studies.damage_errors(status.name):
        text = render_report(studies.report_input(status))
    # The report is a download, which is opened from where it is saved, not a page of the service.
    headers = {"Content-Disposition": name, "Sweeper-Study": status.state}
    return Response(text, media_type="text/html", headers=headers)


@router.get("/studies/{name}/workers")
def workers(study: StudyDep) -> WorkersResponse:
    """Return the workers that currently run a trial."""
    return WorkersResponse(workers=[WorkerResponse(**w.to_dict()) for w in study.workers()])


@router.get("/openapi.json", include_in_schema=False)
def openapi(request: Request) -> JSONResponse:
    """Return the OpenAPI document of this API."""
    document = request.app.openapi()
    document["components"]["schemas"]["Problem"] = Problem.model_json_schema()
    return JSONResponse(
        {**request.app.openapi(), "servers": [{"url": root_of(request.scope) or "/"}]}
    )


def metrics(studies: StudyReaderDep) -> PlainTextResponse:
    """Return metrics of studies and workers in the text format of Prometheus."""
    return PlainTextResponse(
        metrics_text(studies), media_type="text/plain; version=0.0.4; charset=utf-8"
    )


def _scores(study: StudySnapshot) -> ScoresResponse:
    frame, evidence, verdict = study.frame, study.evidence, study.verdict
    base, best = baseline(frame), best_by_schedule(frame)
    shown = frame[frame["number"] == -1] if base is None else base.to_frame().T.astype(frame.dtypes)
    return ScoresResponse(
        search=[*trial_responses(shown), *trial_responses(best)],
        verdict=None if verdict is None else verdict.to_dict(),
        candidates=[] if evidence is None else _candidates(evidence),
    )


def _candidates(evidence: Evidence) -> list[CandidateResponse]:
    answers = []
    for index, candidate in enumerate(evidence.candidates):
        smoothing = effective_smoothing(candidate.point)
        comparisons = {score: evidence.compare(index, score) for score in COMPARED_SCORES}
        scores = {
            score: ComparisonResponse(
                mean=comparison.mean,
                difference=comparison.difference.estimate,
                low=comparison.difference.low,
                high=comparison.difference.high,
            )
            for score, comparison in comparisons.items()
            if comparison is not None
        }
        answers.append(
            CandidateResponse(
                role=candidate.role, trial=candidate.trial, scores=scores, **smoothing._asdict()
            )
        )
    return answers
