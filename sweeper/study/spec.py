"""The study file: what may stand in it, and what identifies a study."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from sweeper.errors import nearest
from sweeper.smoothing import SCHEDULES
from sweeper.study.constraint import parse_constraint
from sweeper.study.schema_errors import CHOICES, RANGE, KeyErrors, shown

SMOOTHING_KEYS: Final = ("epsilon", "schedule", "rate")
Metric = Literal["nll", "nll_calibrated"]

# What a study is. The rest (budget, pruner, confirm) may change when it goes on.
IDENTITY: Final = ("task", "space", "objective", "sampler", "first")


class Section(BaseModel):
    """A table of the study file: unknown keys are errors, and nothing changes once read."""

    # strict: "3" and true are no numbers, as a reader of the file would say
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


def _check_scalar(given: Any) -> Any:
    number = isinstance(given, int | float) and math.isfinite(given)
    if not number and not isinstance(given, str):
        raise ValueError(f"{shown(given)}; allowed: text, a finite number, true or false")
    return given


Scalar = Annotated[bool | int | float | str, BeforeValidator(_check_scalar)]


def _check_plain(given: Any, key: str = "") -> Any:
    """Return what JSON can hold as it is: the database keeps it so for the workers."""
    if isinstance(given, dict):
        return {name: _check_plain(value, f"{key}.{name}") for name, value in given.items()}
    if isinstance(given, list):
        return [_check_plain(value, key) for value in given]
    try:
        return _check_scalar(given)
    except ValueError as error:
        raise ValueError(f"{key.removeprefix('.')}: {error}" if key else str(error)) from None


class StudySection(Section):
    """Who the study is."""

    name: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$",
            description="Letters, digits, '.', '_' and '-', a letter or digit first, at most 100; "
            "unique in the database, names results/NAME.",
        ),
    ]
    # what numpy and torch both take
    seed: Annotated[
        int,
        Field(ge=0, lt=2**32, description="Of the split, the training and the sampler."),
    ] = 0


class TaskSection(Section):
    """What is trained."""

    use: Annotated[str, Field(description="A ready task, or 'file.py:name' beside this file.")]
    options: Annotated[
        dict[str, Any],
        BeforeValidator(_check_plain),
        Field(description="Handed to the task: texts, numbers, true or false, lists, tables."),
    ] = {}
    threads: Annotated[int, Field(ge=1, description="CPU threads a worker trains with.")] = 1
    device: Annotated[str, Field(description="auto, cpu, cuda or cuda:N.")] = "auto"


class Range(Section):
    """A numeric dimension of the space, both ends included."""

    low: Annotated[float, Field(description="The lowest value.")]
    high: Annotated[float, Field(description="The highest value.")]
    log: Annotated[bool, Field(description="Search the logarithm.")] = False
    integer: Annotated[bool, Field(description="Whole numbers only.")] = False

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if self.low >= self.high:
            raise ValueError(f"low = {self.low:g} and high = {self.high:g}; low must be below high")
        if self.log and self.low <= 0:
            raise ValueError(f"low = {self.low:g} with log = true; a log range starts above 0")
        if self.integer and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError(
                f"low = {self.low:g} and high = {self.high:g} with integer = true; "
                "both have to be whole numbers"
            )
        return self

    def contains(self, value: float) -> bool:
        """Return whether the value lies in the range."""
        whole = not self.integer or float(value).is_integer()
        return whole and self.low <= value <= self.high


def _check_distinct(given: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(given)) < len(given):  # 1, 1.0 and true are one to Python, and so to Optuna
        raise ValueError(f"{shown(list(given))} names a choice twice")
    return given


Choices = Annotated[
    tuple[Scalar, ...], Field(strict=False, min_length=1), AfterValidator(_check_distinct)
]


def _form(given: Any) -> str | None:
    if isinstance(given, list | tuple):
        return CHOICES
    return RANGE if isinstance(given, dict | Range) else None


Dimension = Annotated[
    Annotated[Range, Tag(RANGE)] | Annotated[Choices, Tag(CHOICES)],
    Discriminator(
        _form,
        custom_error_type="dimension",
        custom_error_message="a dimension",
    ),
]


class Space(Section):
    """What is searched: epsilon, schedule, rate, and any hyperparameter that the task accepts."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Dimension] = Field(init=False)

    epsilon: Annotated[Range, Field(description="Smoothing in the convention 'others'.")] = Range(
        low=0.0, high=0.4
    )
    schedule: Annotated[
        tuple[str, ...],
        Field(
            strict=False,
            min_length=1,
            description=f"How epsilon changes: {', '.join(SCHEDULES)}, or 'file.py:function'.",
        ),
    ] = tuple(SCHEDULES)
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
        # sorted, so that a study does not depend on the order of the lines in its file
        return dict(sorted(self.__pydantic_extra__.items()))

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


MOST_TRIALS: Final = 1_000_000


def _check_pack(given: object) -> object:
    if isinstance(given, int) and not isinstance(given, bool) and 1 <= given <= MOST_TRIALS:
        return given
    if given in ("auto", "off"):
        return given
    raise ValueError(
        f"{shown(given)}; allowed: 'auto', 'off' or a whole number from 1 to budget.trials"
    )


class Budget(Section):
    """How much is spent."""

    trials: Annotated[int, Field(ge=1, le=MOST_TRIALS, description="ε = 0 included.")] = 64
    timeout: Annotated[float | None, Field(gt=0, description="Seconds a launch may take.")] = None
    trial_timeout: Annotated[
        float | None,
        Field(gt=0, description="Seconds that one trial may take; then it is recorded as failed."),
    ] = None
    patience: Annotated[
        int | None, Field(ge=1, description="Stop after so many trials without a better one.")
    ] = None
    pack: Annotated[
        Literal["auto", "off"] | int,
        BeforeValidator(_check_pack),
        Field(
            description="Trials that a worker trains in one step: a number, at most trials; "
            "auto: what is quickest; off: one by one."
        ),
    ] = "auto"

    @model_validator(mode="after")
    def _pack_within_trials(self) -> "Budget":
        if isinstance(self.pack, int) and self.pack > self.trials:
            raise KeyErrors([("pack", f"{self.pack}; allowed: at most trials = {self.trials}")])
        return self


class SamplerSection(Section):
    """How points are proposed."""

    name: Annotated[
        Literal["tpe", "gp", "random", "grid", "qmc"], Field(description="Who proposes points.")
    ] = "tpe"
    startup: Annotated[
        int, Field(ge=0, description="tpe, gp: Sobol points before the model proposes.")
    ] = 16
    points: Annotated[int, Field(ge=2, description="grid: values of each range.")] = 5


class PrunerSection(Section):
    """Which trials are stopped early; ε = 0 never is."""

    name: Annotated[
        Literal["none", "median", "percentile", "halving", "hyperband"],
        Field(description="The rule of pruning."),
    ] = "median"
    percentile: Annotated[
        float, Field(gt=0, lt=100, description="percentile: the best share that goes on.")
    ] = 50.0
    reduction: Annotated[
        int, Field(ge=2, description="halving, hyperband: of so many at a rung one goes on.")
    ] = 2
    startup: Annotated[int, Field(ge=1, description="Finished trials before any is pruned.")] = 10
    warmup: Annotated[
        float, Field(ge=0, lt=1, description="Share of the training that no trial is pruned in.")
    ] = 0.75


def _check_constraint(given: str) -> str:
    return parse_constraint(given).text


class Confirm(Section):
    """What is trained again after the search, on fresh seeds, for the verdict."""

    enabled: Annotated[bool, Field(description="Confirm when the search has ended.")] = True
    shortlist: Annotated[
        int, Field(ge=1, le=20, description="Different answers that are trained again.")
    ] = 3
    replicates: Annotated[
        int, Field(ge=2, le=1000, description="Fresh seeds, each shared by all that is compared.")
    ] = 10
    choice: Annotated[
        Literal["best", "one_standard_error", "knee"],
        Field(
            description="The pick: the lowest smoothed metric, the smallest ε within one standard "
            "error of it, or the knee of NLL against error."
        ),
    ] = "best"
    constraint: Annotated[
        Annotated[str, AfterValidator(_check_constraint)] | None,
        Field(description="What pick and shortlist keep to: 'accuracy >= baseline - 0.005'."),
    ] = None
    resplit: Annotated[
        bool, Field(description="Redraw the splits for each seed (Nadeau and Bengio's variance).")
    ] = False


class ResourcesSection(Section):
    """What a worker is given by ray, slurm and kubernetes."""

    cpus: Annotated[
        int | None, Field(ge=1, le=4096, description="Cores; task.threads without it.")
    ] = None
    gpus: Annotated[
        float, Field(ge=0, le=64, description="GPUs; ray alone shares one, as in 0.25.")
    ] = 0
    memory: Annotated[
        float | None, Field(gt=0, description="GiB; what the engine gives without it.")
    ] = None


class First(Section):
    """A point to try right after ε = 0."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Scalar] = Field(init=False)

    epsilon: Annotated[float, Field(ge=0, le=1, description="Within space.epsilon.")]
    schedule: Annotated[str, Field(description="One of space.schedule.")] = "fixed"
    rate: Annotated[float | None, Field(gt=0, description="Within space.rate; 1 without it.")] = (
        None
    )


class StudySpec(Section):
    """A study file, read and checked."""

    study: StudySection
    task: TaskSection
    space: Space = Space()
    objective: ObjectiveSection = ObjectiveSection()
    budget: Budget = Budget()
    sampler: SamplerSection = SamplerSection()
    pruner: PrunerSection = PrunerSection()
    confirm: Confirm = Confirm()
    resources: ResourcesSection = ResourcesSection()
    first: Annotated[
        tuple[First, ...],
        Field(strict=False, description="Points to try first, in this order, after ε = 0."),
    ] = ()

    @model_validator(mode="after")
    def _first_in_space(self) -> "StudySpec":
        problems = [
            (f"first[{number}].{key}", text)
            for number, first in enumerate(self.first)
            for key, text in _outside(first, self.space)
        ]
        if problems:
            raise KeyErrors(problems)
        return self

    def canonical_json(self) -> str:
        """Return the spec as text that is equal for equal specs."""
        return canonical_json(self.model_dump(mode="json"))


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of study files, in which a first point may come from an export."""
    schema = StudySpec.model_json_schema()
    first = schema["$defs"]["First"]
    first["properties"]["from"] = {
        "type": "string",
        "description": "The best.json of a study, beside this file; other keys are laid over it.",
    }
    first["anyOf"] = [{"required": first.pop("required")}, {"required": ["from"]}]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


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
    """Return words for each key whose value differs, as `key: theirs -> ours`."""
    mine, stored = _flat(ours), _flat(theirs)
    return [
        _difference(key, stored, mine)
        for key in sorted(mine.keys() | stored.keys())
        if mine.get(key) != stored.get(key)
    ]


def _difference(key: str, stored: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
    file = key.removeprefix("sources.")
    if file != key and key in stored and key in mine:
        return f"{file} is another file"
    there, here = (shown(of[key]) if key in of else "nothing" for of in (stored, mine))
    return f"{key}: {there} -> {here}"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {
            key: leaf
            for name, item in value.items()
            for key, leaf in _flat(item, f"{prefix}.{name}" if prefix else name).items()
        }
    return {prefix: value}


def _outside(first: First, space: Space) -> Iterator[tuple[str, str]]:
    """Yield each key of a first point that lies outside the space, and why."""
    for key in ("epsilon", "rate"):
        value, of = getattr(first, key), space.dimensions[key]
        if value is not None and not _inside(value, of):
            yield key, f"{value:g}; allowed: {_words(of)}, as space.{key} says"
    if first.schedule not in space.schedule:
        near = nearest(first.schedule, space.schedule)
        yield "schedule", f"{first.schedule!r}{near}; allowed: {', '.join(space.schedule)}"
    for name, value in first.__pydantic_extra__.items():
        dimension = space.extras.get(name)
        if dimension is None:
            near = nearest(name, space.dimensions)
            yield name, f"not searched{near}; add it to [space] or leave it out"
        elif not _inside(value, dimension):
            yield name, f"{shown(value)}; allowed: {_words(dimension)}, as space.{name} says"


def _inside(value: Any, dimension: Dimension) -> bool:
    if not isinstance(dimension, Range):
        return value in dimension
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and dimension.contains(value)


def _words(dimension: Dimension) -> str:
    if not isinstance(dimension, Range):
        return ", ".join(map(shown, dimension))
    whole = "whole numbers from " if dimension.integer else ""
    return f"{whole}{dimension.low:g} to {dimension.high:g}"
