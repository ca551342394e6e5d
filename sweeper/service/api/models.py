"""The request and response models of the JSON API."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sweeper import limits
from sweeper.service.study_reader import StudyStatus

State = Literal["finished", "running", "unfinished", "paused", "stopped", "failed", "damaged"]


class ResponseModel(BaseModel):
    """The base of all responses: fields that are not declared are rejected."""

    model_config = ConfigDict(extra="forbid")


class SmoothingResponse(ResponseModel):
    """A configuration; the rate is null if its schedule does not use one."""

    epsilon: float
    schedule: str
    rate: float | None


class StudyResponse(ResponseModel):
    """The progress of a study; `best` and `baseline` are values of its metric, lower is better."""

    name: str
    state: State
    metric: Literal["nll", "nll_calibrated"]
    created: float = Field(description="Seconds since 1970, UTC.")
    trials: int = Field(description="The budget, including ε = 0.")
    ended: int
    complete: int
    pruned: int
    failed: int
    running: int
    waiting: int
    retried: int
    recommended: SmoothingResponse | None = Field(
        description="The configuration to use; null without a verdict."
    )
    best: float | None = Field(description="The lowest value of the search; it is optimistic.")
    baseline: float | None
    confirming: int = Field(description="Training runs of the confirmation.")
    confirmed: int = Field(description="Training runs of the confirmation that have ended.")
    core_hours: float = Field(description="CPU core hours of all attempts of the search.")
    gpu_hours: float
    confirmation_core_hours: float
    confirmation_gpu_hours: float
    workers: int = Field(description="Processes that currently run a trial.")
    problem: str = Field(description="Why a damaged study cannot be used; empty otherwise.")

    @classmethod
    def from_status(cls, status: StudyStatus) -> "StudyResponse":
        """Return the response for a study."""
        return cls(**status.to_dict())


class StudiesResponse(ResponseModel):
    """A page of studies, newest first; `total` counts all that match the search."""

    studies: list[StudyResponse]
    total: int
    offset: int


class LaunchRequest(BaseModel):
    """A study to launch: the text of a study file (`toml`) or its tables (`spec`)."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"oneOf": [{"required": ["toml"]}, {"required": ["spec"]}]},
    )

    toml: str = Field(
        "", description="The text of a study file.", max_length=limits.STUDY_FILE_LENGTH
    )
    spec: dict[str, Any] = Field(
        {},
        description="The tables of a study file; /v1/schema describes them.",
        max_length=limits.KEYS_PER_TABLE,
    )


class TrialResponse(ResponseModel):
    """One trial; scores are on the validation split, null if missing."""

    number: int
    state: Literal["complete", "pruned", "failed", "running", "waiting"]
    epsilon: float
    label_smoothing: float | None = Field(
        description="The equivalent label_smoothing of torch; null unless the schedule is fixed."
    )
    schedule: str
    rate: float | None
    value: float | None
    scores: dict[str, float | None]
    hparams: dict[str, Any]
    extra: dict[str, float | None]
    epochs: int
    seconds: float | None
    cores: float | None = Field(description="CPU cores of its slot.")
    core_hours: float | None = Field(description="CPU core hours of all attempts.")
    gpu_hours: float | None
    peak_memory: float | None = Field(description="GiB, of all processes of the trial.")
    started: str | None = Field(description="ISO 8601, UTC.")
    finished: str | None
    copied_from: int | None
    failure: str
    cause: str
    notes: str
    code: int = Field(description="The revision of the code of the study, starting at 1.")


class TrialsResponse(ResponseModel):
    """A page of trials; `total` counts all that match the filters."""

    trials: list[TrialResponse]
    total: int
    offset: int


class EpochResponse(ResponseModel):
    """One evaluation of a trial."""

    epoch: int
    progress: float
    epsilon: float
    mean_epsilon: float | None
    train_loss: float | None
    nll: float | None
    accuracy: float | None
    brier: float | None
    ece: float | None


class TrialDetail(ResponseModel):
    """One trial with its evaluations, output and full failure message."""

    trial: TrialResponse
    evaluations: list[EpochResponse]
    log: str
    failure: str
    environment: dict[str, str]


class ComparisonResponse(ResponseModel):
    """A score of a candidate on the test split, compared with ε = 0 on the same seeds."""

    mean: float
    difference: float
    low: float = Field(description="Lower end of the 95% CI of the difference.")
    high: float = Field(description="Upper end of the 95% CI of the difference.")


class CandidateResponse(ResponseModel):
    """A configuration that was retrained on fresh seeds."""

    role: str
    trial: int | None
    epsilon: float
    schedule: str
    rate: float | None
    scores: dict[str, ComparisonResponse]


class ScoresResponse(ResponseModel):
    """The best trial of each schedule, the verdict, and the candidates of the confirmation."""

    search: list[TrialResponse]
    verdict: dict[str, Any] | None
    candidates: list[CandidateResponse]


class WorkerResponse(ResponseModel):
    """A trial that a worker runs; `stale` is true if its lease has expired."""

    host: str
    pid: int
    slots: int
    phase: str
    trial: int | None
    attempt: int
    unseen: float
    stale: bool


class WorkersResponse(ResponseModel):
    """The workers of a study."""

    workers: list[WorkerResponse]


class SessionResponse(ResponseModel):
    """The signed-in account; without sign-in, everybody is an operator with an empty name."""

    name: str
    role: Literal["viewer", "operator"]


class HealthResponse(ResponseModel):
    """Whether the service and its database are available."""

    status: Literal["ok", "unavailable"]
    version: str
    detail: str = Field(description="The problem; empty if there is none.")


class Problem(BaseModel):
    """An error as in RFC 9457; `errors` lists the messages about keys of the study."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] = []
