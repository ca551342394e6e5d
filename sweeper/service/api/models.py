"""What the JSON API answers with: the shapes that its OpenAPI promises."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sweeper.service.study_reader import Snapshot

State = Literal["finished", "running", "unfinished", "paused", "stopped"]


class Answer(BaseModel):
    """What every answer is: nothing in it that is not promised."""

    model_config = ConfigDict(extra="forbid")


class StudyAnswer(Answer):
    """How far a study is; `best` and `baseline` are values of its metric, lower is better."""

    name: str
    state: State
    metric: Literal["nll", "nll_calibrated"]
    created: float = Field(description="Seconds since 1970, UTC.")
    trials: int = Field(description="The budget, ε = 0 included.")
    ended: int
    complete: int
    pruned: int
    failed: int
    running: int
    waiting: int
    retried: int
    best: float | None
    baseline: float | None
    confirming: int = Field(description="Trainings that the confirmation has.")
    confirmed: int = Field(description="How many of them have ended.")
    workers: int = Field(description="Processes that hold a trial now.")

    @classmethod
    def of(cls, snapshot: Snapshot) -> "StudyAnswer":
        """Return the answer for a study."""
        return cls(**snapshot.to_dict())


class StudiesAnswer(Answer):
    """A part of the studies, newest first; `total` counts all that were asked for."""

    studies: list[StudyAnswer]
    total: int
    offset: int


class Launch(BaseModel):
    """A study to launch: as the text of a study file, or as its tables."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"oneOf": [{"required": ["toml"]}, {"required": ["spec"]}]},
    )

    toml: str = Field("", description="A study file's text.", max_length=500_000)
    spec: dict[str, Any] = Field(
        {}, description="A study file's tables, as /v1/schema describes them."
    )


class TrialAnswer(Answer):
    """One trial; scores are of the validation split, null where there are none."""

    number: int
    state: Literal["complete", "pruned", "failed", "running"]
    epsilon: float
    label_smoothing: float | None = Field(description="The same in torch's convention.")
    schedule: str
    rate: float | None
    value: float | None
    scores: dict[str, float | None]
    hparams: dict[str, Any]
    extra: dict[str, float | None]
    epochs: int
    seconds: float | None
    started: str | None = Field(description="ISO 8601, UTC.")
    finished: str | None
    copied_from: int | None
    failure: str
    cause: str
    notes: str


class TrialsAnswer(Answer):
    """A part of a study's trials; `total` counts all that were asked for."""

    trials: list[TrialAnswer]
    total: int
    offset: int


class EpochAnswer(Answer):
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


class TrialDetail(Answer):
    """One trial with its evaluations, what it printed, and the whole of its failure."""

    trial: TrialAnswer
    evaluations: list[EpochAnswer]
    log: str
    failure: str
    environment: dict[str, str]


class Compared(Answer):
    """A score of a candidate on the test split, beside ε = 0 on the same seeds."""

    mean: float
    difference: float
    low: float = Field(description="The 95 % interval of the difference.")
    high: float


class CandidateAnswer(Answer):
    """A configuration that was trained again on fresh seeds."""

    role: str
    trial: int | None
    epsilon: float
    schedule: str
    rate: float | None
    scores: dict[str, Compared]


class ScoresAnswer(Answer):
    """What was found: the best trial of each schedule, and what the confirmation compared."""

    search: list[TrialAnswer]
    verdict: dict[str, Any] | None
    candidates: list[CandidateAnswer]


class WorkerAnswer(Answer):
    """A worker that holds a trial; `stale` where its lease has run out."""

    host: str
    pid: int
    phase: str
    trial: int | None
    attempt: int
    unseen: float
    stale: bool


class WorkersAnswer(Answer):
    """The workers at a study."""

    workers: list[WorkerAnswer]


class SessionAnswer(Answer):
    """Who is signed in; without sign-in everybody is an operator without a name."""

    name: str
    role: Literal["viewer", "operator"]


class HealthAnswer(Answer):
    """Whether the service can do its work."""

    status: Literal["ok", "unavailable"]
    version: str
    detail: str = Field(description="Why not; empty where all is well.")


class Problem(BaseModel):
    """An error, as RFC 9457 has it; `errors` are the lines that belong to a key of the study."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] = []
