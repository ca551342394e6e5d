"""The JSON API: what the pages show and do, for programs."""

from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse

from sweeper import api
from sweeper.api import Study
from sweeper.confirmation.evidence import COMPARED, Evidence
from sweeper.errors import SweeperError
from sweeper.export import render as render_export
from sweeper.report import render as render_report
from sweeper.service.api.metrics import metrics_text
from sweeper.service.api.models import (
    CandidateAnswer,
    Compared,
    HealthAnswer,
    Launch,
    Problem,
    ScoresAnswer,
    SessionAnswer,
    StudiesAnswer,
    StudyAnswer,
    TrialDetail,
    TrialsAnswer,
    WorkerAnswer,
    WorkersAnswer,
)
from sweeper.service.api.serialize import trial_answers, trial_detail
from sweeper.service.dependencies import LibraryOf, SettingsOf, SnapshotOf, StudyOf
from sweeper.service.problem_details import PROBLEM_JSON
from sweeper.service.settings import root_of
from sweeper.service.study_reader import Library, version_of
from sweeper.study.load import parse_toml
from sweeper.study.results import baseline, best_by_schedule
from sweeper.study.space import acting
from sweeper.study.spec import json_schema

LARGEST_PAGE: Final = 500
# What an SQL integer holds.
_MOST: Final = 2**31 - 1

_PROBLEM: Final = {"$ref": "#/components/schemas/Problem"}
_PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"description": words, "content": {PROBLEM_JSON: {"schema": _PROBLEM}}}
    for status, words in {
        400: "The body cannot be read.",
        401: "No token, or none of this service.",
        403: "The token only reads.",
        404: "There is no such study or trial.",
        409: "It does not go with the state of the study.",
        413: "The request is too large.",
        422: "A wrong value.",
        429: "Too many failures to sign in.",
        503: "The database does not serve.",
    }.items()
}
router = APIRouter(prefix="/v1", responses=_PROBLEMS)


Offset = Annotated[int, Query(ge=0, le=_MOST, description="How many to leave out.")]
Limit = Annotated[int, Query(ge=1, le=LARGEST_PAGE, description="How many at most.")]


@router.get("/health")
def health(request: Request, response: Response, of: LibraryOf) -> HealthAnswer:
    """Say whether the service and its database work; 503 where they do not."""
    problem = of.problem()
    response.status_code = 503 if problem else 200
    # Whoever has not signed in learns that something is wrong, and not what.
    told = problem if request.state.identity.account is not None else bool(problem) * "database"
    return HealthAnswer(
        status="unavailable" if problem else "ok", version=version("sweeper"), detail=told
    )


@router.get("/session")
def session(request: Request) -> SessionAnswer:
    """Return who is signed in; a proxy that keeps answers asks this before it gives one."""
    account = request.state.identity.account
    return SessionAnswer(name=account.name, role=account.role)


@router.get("/schema")
def schema() -> dict[str, Any]:
    """Return the JSON Schema of study files."""
    return json_schema()


@router.get("/studies")
def studies(
    of: LibraryOf,
    search: Annotated[str, Query(max_length=255, description="What names contain.")] = "",
    offset: Offset = 0,
    limit: Limit = 50,
) -> StudiesAnswer:
    """Return studies, newest first."""
    found, total = of.page(search, offset, limit)
    return StudiesAnswer(
        studies=[StudyAnswer.of(snapshot) for snapshot in found], total=total, offset=offset
    )


@router.post("/studies", status_code=201)
def launch(
    request: Request, body: Launch, of: LibraryOf, told: SettingsOf, response: Response
) -> StudyAnswer:
    """Launch a study, or let it go on; workers at the database take it up.

    It may name only ready tasks and files of the server's own folders.
    """
    if len(body.model_fields_set) != 1:
        raise SweeperError("give one of toml (a study file's text) and spec (its tables)")
    tables = parse_toml(body.toml) if "toml" in body.model_fields_set else body.spec
    study = api.submit(tables, told.folders, storage=of.storage)
    of.forget(study.name)
    response.headers["Location"] = f"{root_of(request.scope)}/v1/studies/{study.name}"
    return StudyAnswer.of(of.snapshot(study.name))


@router.get("/studies/{name}")
async def study(snapshot: SnapshotOf) -> StudyAnswer:
    """Return how far a study is."""
    return StudyAnswer.of(snapshot)


@router.delete("/studies/{name}", status_code=204)
def delete(of: LibraryOf, one: StudyOf) -> None:
    """Remove a study with all that it found."""
    api.delete(one.name, of.storage)
    of.forget(one.name)


@router.post("/studies/{name}/pause")
def pause(of: LibraryOf, one: StudyOf) -> StudyAnswer:
    """Let a study rest: its workers wait; 409 where it is finished."""
    return _after(api.pause, of, one)


@router.post("/studies/{name}/resume")
def resume(of: LibraryOf, one: StudyOf) -> StudyAnswer:
    """Let a study go on that was paused or stopped; 409 where it is finished."""
    return _after(api.resume, of, one)


@router.post("/studies/{name}/stop")
def stop(of: LibraryOf, one: StudyOf) -> StudyAnswer:
    """End a study early: its workers leave; 409 where it is finished."""
    return _after(api.stop, of, one)


def _after(act: Callable[[str, str], None], of: Library, one: Study) -> StudyAnswer:
    act(one.name, of.storage)
    of.forget(one.name)
    return StudyAnswer.of(of.snapshot(one.name))


@router.get("/studies/{name}/trials")
def trials(
    one: StudyOf,
    sort: Annotated[str, Query(max_length=255)] = "number",
    descending: bool = False,
    state: Annotated[str | None, Query(max_length=20)] = None,
    schedule: Annotated[str | None, Query(max_length=255)] = None,
    offset: Offset = 0,
    limit: Limit = 50,
) -> TrialsAnswer:
    """Return trials, sorted and filtered by the database."""
    page = one.page(
        sort=sort,
        descending=descending,
        state=state,
        schedule=schedule,
        offset=offset,
        limit=limit,
    )
    return TrialsAnswer(trials=trial_answers(page.frame), total=page.total, offset=offset)


@router.get("/studies/{name}/trials/{number}")
def trial(one: StudyOf, number: Annotated[int, Path(ge=0, le=_MOST)]) -> TrialDetail:
    """Return one trial with its evaluations, output and failure."""
    return trial_detail(one.trial(number))


@router.get("/studies/{name}/scores")
def scores(one: StudyOf) -> ScoresAnswer:
    """Return ε = 0 and the best of each schedule, and what the confirmation compared."""
    frame, evidence, verdict = one.frame(), one.evidence(), one.verdict()
    base, best = baseline(frame), best_by_schedule(frame)
    shown = frame[frame["number"] == -1] if base is None else base.to_frame().T.astype(frame.dtypes)
    return ScoresAnswer(
        search=[*trial_answers(shown), *trial_answers(best)],
        verdict=None if verdict is None else verdict.to_dict(),
        candidates=[] if evidence is None else _candidates(evidence),
    )


@router.get("/studies/{name}/best")
def best(one: StudyOf) -> dict[str, Any]:
    """Return what to use, as best.json has it; 409 while no trial has finished."""
    return one.document()


_MEDIA: Final = {"json": "application/json", "yaml": "application/yaml", "python": "text/x-python"}
_ENDING: Final = {"json": "json", "yaml": "yaml", "python": "py"}


@router.get(
    "/studies/{name}/export",
    response_class=Response,
    responses={200: {"content": {media: {} for media in _MEDIA.values()}}},
)
def export(
    one: StudyOf, form: Annotated[Literal["json", "yaml", "python"], Query(alias="format")] = "json"
) -> Response:
    """Return what to use as a file, for `SmoothingLoss.from_file` among others."""
    name = f'attachment; filename="best.{_ENDING[form]}"'
    text = render_export(one.document(), form)
    return Response(text, media_type=_MEDIA[form], headers={"Content-Disposition": name})


@router.get(
    "/studies/{name}/report",
    response_class=HTMLResponse,
    responses={200: {"content": {"text/html": {}}}},
)
def report(of: LibraryOf, snapshot: SnapshotOf) -> Response:
    """Return the report: one HTML file that opens offline."""
    name = f'attachment; filename="{snapshot.name}.html"'
    text = render_report(of.report_input((snapshot.name, version_of(snapshot))))
    # A file of its own, not a page of ours: it is opened from where it is saved.
    headers = {"Content-Disposition": name, "Sweeper-Study": snapshot.state}
    return Response(text, media_type="text/html", headers=headers)


@router.get("/studies/{name}/workers")
def workers(one: StudyOf) -> WorkersAnswer:
    """Return the workers that hold a trial now."""
    return WorkersAnswer(workers=[WorkerAnswer(**w.to_dict()) for w in one.workers()])


@router.get("/openapi.json", include_in_schema=False)
def openapi(request: Request) -> JSONResponse:
    """Return the description of this API."""
    document = request.app.openapi()
    document["components"]["schemas"]["Problem"] = Problem.model_json_schema()
    return JSONResponse(
        {**request.app.openapi(), "servers": [{"url": root_of(request.scope) or "/"}]}
    )


def metrics(of: LibraryOf) -> PlainTextResponse:
    """Return counts of studies and workers in Prometheus' text form."""
    return PlainTextResponse(
        metrics_text(of), media_type="text/plain; version=0.0.4; charset=utf-8"
    )


def _candidates(evidence: Evidence) -> list[CandidateAnswer]:
    answers = []
    for index, candidate in enumerate(evidence.candidates):
        smoothing = acting(candidate.point)
        found = {score: evidence.compare(index, score) for score in COMPARED}
        compared = {
            score: Compared(
                mean=one.mean,
                difference=one.difference.estimate,
                low=one.difference.low,
                high=one.difference.high,
            )
            for score, one in found.items()
            if one is not None
        }
        answers.append(
            CandidateAnswer(
                role=candidate.role, trial=candidate.trial, scores=compared, **smoothing._asdict()
            )
        )
    return answers
