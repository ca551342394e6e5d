"""The study file: what may stand in it, and what identifies a study."""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from sweeper.errors import nearest
from sweeper.smoothing import SCHEDULES

Scalar = bool | int | float | str
Metric = Literal["nll", "nll_calibrated"]

# What a study is. The rest (budget, pruner) may change when it goes on.
IDENTITY: Final = ("task", "space", "objective", "sampler", "first")


class Section(BaseModel):
    """A table of the study file: unknown keys are errors, and nothing changes once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class StudySection(Section):
    """Who the study is."""

    name: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$",
            description="Unique in the database; names results/NAME.",
        ),
    ]
    seed: Annotated[int, Field(ge=0, description="Of the split, the training and the sampler.")] = 0


class TaskSection(Section):
    """What is trained."""

    use: Annotated[str, Field(description="A ready task, or 'file.py:name' beside this file.")]
    options: Annotated[dict[str, Any], Field(description="Handed to the task.")] = {}
    threads: Annotated[int, Field(ge=1, description="CPU threads a worker trains with.")] = 1
    device: Annotated[str, Field(description="auto, cpu, cuda or cuda:N.")] = "auto"


class Range(Section):
    """A numeric dimension of the space, both ends included."""

    low: float
    high: float
    log: Annotated[bool, Field(description="Search the logarithm.")] = False
    integer: Annotated[bool, Field(description="Whole numbers only.")] = False

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if self.low >= self.high:
            raise ValueError(f"low = {self.low:g} and high = {self.high:g}; low must be below high")
        if self.log and self.low <= 0:
            raise ValueError(f"low = {self.low:g} with log = true; a log range starts above 0")
        return self

    def contains(self, value: float) -> bool:
        """Return whether the value lies in the range."""
        return self.low <= value <= self.high


Choices = Annotated[tuple[Scalar, ...], Field(min_length=1)]
Dimension = Range | Choices


class Space(Section):
    """What is searched: epsilon, schedule, rate, and any hyperparameter that the task accepts."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Dimension] = Field(init=False)

    epsilon: Annotated[Range, Field(description="Smoothing in the convention 'others'.")] = Range(
        low=0.0, high=0.4
    )
    schedule: Annotated[tuple[str, ...], Field(min_length=1)] = tuple(SCHEDULES)
    rate: Annotated[Range, Field(description="The annealing rate.")] = Range(
        low=0.3, high=12.0, log=True
    )

    @field_validator("epsilon")
    @classmethod
    def _epsilon(cls, given: Range) -> Range:
        if given.log or given.integer:
            raise ValueError("epsilon is searched linearly from 0; leave out log and integer")
        if given.low != 0.0:
            raise ValueError(
                f"low = {given.low:g}; it must be 0, since every study tries epsilon = 0 first"
            )
        if given.high > 1.0:
            raise ValueError(f"high = {given.high:g}; epsilon lies in [0, 1]")
        return given

    @field_validator("schedule")
    @classmethod
    def _schedule(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for name in given:
            if ":" not in name and name not in SCHEDULES:
                raise ValueError(
                    f"{name!r} is no schedule{nearest(name, SCHEDULES)}; "
                    f"allowed: {', '.join(SCHEDULES)}, or file.py:function"
                )
        if len(set(given)) < len(given):
            raise ValueError(f"{list(given)} names a schedule twice")
        return given

    @field_validator("rate")
    @classmethod
    def _rate(cls, given: Range) -> Range:
        if given.low <= 0:
            raise ValueError(f"low = {given.low:g}; a rate is above 0")
        return given

    @property
    def extras(self) -> dict[str, Dimension]:
        """The dimensions beside smoothing, which go to the task."""
        return dict(self.__pydantic_extra__)

    @property
    def dimensions(self) -> dict[str, Dimension]:
        """Every dimension by name, smoothing first."""
        return {
            "epsilon": self.epsilon,
            "schedule": self.schedule,
            "rate": self.rate,
            **self.extras,
        }


class ObjectiveSection(Section):
    """What a trial is judged by, on the validation split; lower is better."""

    metric: Annotated[
        Metric,
        Field(description="Unsmoothed NLL, or NLL after temperature scaling."),
    ] = "nll"


class Budget(Section):
    """How much is spent."""

    trials: Annotated[int, Field(ge=1, le=1_000_000, description="ε = 0 included.")] = 64
    timeout: Annotated[float | None, Field(gt=0, description="Seconds a launch may take.")] = None
    patience: Annotated[
        int | None, Field(ge=1, description="Stop after so many trials without a better one.")
    ] = None


class SamplerSection(Section):
    """How points are proposed."""

    name: Literal["tpe", "random", "grid", "qmc"] = "tpe"
    startup: Annotated[
        int, Field(ge=0, description="tpe: Sobol points before the model proposes.")
    ] = 16
    points: Annotated[int, Field(ge=2, description="grid: values of each range.")] = 5


class PrunerSection(Section):
    """Which trials are stopped early; ε = 0 never is."""

    name: Literal["none", "median", "percentile"] = "median"
    percentile: Annotated[
        float, Field(gt=0, lt=100, description="percentile: the best share that goes on.")
    ] = 50.0
    startup: Annotated[int, Field(ge=1, description="Finished trials before any is pruned.")] = 10
    warmup: Annotated[
        float, Field(ge=0, lt=1, description="Share of the training that no trial is pruned in.")
    ] = 0.5


class First(Section):
    """A point to try right after ε = 0."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Scalar] = Field(init=False)

    epsilon: Annotated[float, Field(ge=0, le=1)]
    schedule: str = "fixed"
    rate: Annotated[float | None, Field(gt=0)] = None


class StudySpec(Section):
    """A study file, read and checked."""

    study: StudySection
    task: TaskSection
    space: Space = Space()
    objective: ObjectiveSection = ObjectiveSection()
    budget: Budget = Budget()
    sampler: SamplerSection = SamplerSection()
    pruner: PrunerSection = PrunerSection()
    first: tuple[First, ...] = ()

    @model_validator(mode="after")
    def _first_in_space(self) -> "StudySpec":
        for number, first in enumerate(self.first):
            problem = _outside(first, self.space)
            if problem:
                raise ValueError(f"first[{number}].{problem}")
        return self

    def canonical_json(self) -> str:
        """Return the spec as text that is equal for equal specs."""
        return canonical_json(self.model_dump(mode="json"))


def identity(spec: StudySpec, sources: Mapping[str, str]) -> dict[str, Any]:
    """Return what makes a study the one it is; `sources` are the digests of the files it names."""
    dumped = spec.model_dump(mode="json")
    return {
        "study": {"seed": spec.study.seed},
        **{name: dumped[name] for name in IDENTITY},
        "sources": dict(sources),
    }


def digest(content: bytes) -> str:
    """Return the SHA-256 of the bytes, in hex."""
    return hashlib.sha256(content).hexdigest()


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Return a line for each key whose value differs, as `key: theirs -> ours`."""
    mine, stored = _flat(ours), _flat(theirs)
    return [
        f"{key}: {stored.get(key, 'nothing')} -> {mine.get(key, 'nothing')}"
        for key in sorted(mine.keys() | stored.keys())
        if mine.get(key) != stored.get(key)
    ]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        return {
            key: leaf
            for name, item in value.items()
            for key, leaf in _flat(item, f"{prefix}.{name}" if prefix else name).items()
        }
    return {prefix: value}


def _outside(first: First, space: Space) -> str | None:
    """Return what of a first point lies outside the space, or None."""
    if not space.epsilon.contains(first.epsilon):
        return (
            f"epsilon: {first.epsilon:g}; allowed: {space.epsilon.low:g} to {space.epsilon.high:g}"
        )
    if first.schedule not in space.schedule:
        return (
            f"schedule: {first.schedule!r}{nearest(first.schedule, space.schedule)}; "
            f"allowed: {', '.join(space.schedule)}"
        )
    if first.rate is not None and not space.rate.contains(first.rate):
        return f"rate: {first.rate:g}; allowed: {space.rate.low:g} to {space.rate.high:g}"
    return _outside_extras(first.__pydantic_extra__, space.extras)


def _outside_extras(given: Mapping[str, Scalar], extras: Mapping[str, Dimension]) -> str | None:
    for name, value in given.items():
        dimension = extras.get(name)
        if dimension is None:
            return f"{name}: not searched{nearest(name, extras)}; add it to [space] or leave it out"
        if not (_inside(value, dimension)):
            return f"{name}: {value!r} lies outside what [space] gives"
    return None


def _inside(value: Scalar, dimension: Dimension) -> bool:
    if isinstance(dimension, Range):
        return isinstance(value, int | float) and dimension.contains(value)
    return value in dimension
