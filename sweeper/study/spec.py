"""The schema of study files, and what identifies a study."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from sweeper import limits
from sweeper.errors import suggestion
from sweeper.study.budget import BudgetSection
from sweeper.study.constraint import parse_constraint
from sweeper.study.dimensions import (
    Scalar,
    Space,
    check_plain_scalar,
    contains,
    describe_values,
)
from sweeper.study.resources import ResourcesSection, resource_problems
from sweeper.study.schema_errors import KeyErrors, join_alternatives, toml_value
from sweeper.study.script_keys import ScriptKeys, script_problems, space_problems, with_schedule
from sweeper.study.section import FEW_KEYS, Reference, Section

Metric = Literal["nll", "nll_calibrated"]

# The tables that identify a study. The others (budget, pruner, confirm) may change on resume.
IDENTITY: Final = ("task", "space", "objective", "sampler", "first")


def _check_plain(value: Any, key: str = "") -> Any:
    """Return the options; raises `ValueError` if JSON cannot store a value unchanged."""
    if isinstance(value, dict):
        return {name: _check_plain(item, f"{key}.{name}") for name, item in value.items()}
    if isinstance(value, list):
        return [_check_plain(item, key) for item in value]
    try:
        return check_plain_scalar(value)
    except ValueError as error:
        raise ValueError(f"{key.removeprefix('.')}: {error}" if key else str(error)) from None


Name = Annotated[str, Field(max_length=limits.NAME_LENGTH, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class StudySection(Section):
    """Study name and seed."""

    name: Annotated[
        Name,
        Field(
            description="Letters, digits, '.', '_' and '-', starting with a letter or digit; at "
            "most 100 characters. Unique in the database; output goes to results/NAME.",
        ),
    ]
    seed: Annotated[
        int,
        Field(ge=0, lt=limits.SEED_COUNT, description="Seed for data split, training and sampler."),
    ] = 0
    extends: Annotated[
        Name | None,
        Field(
            description="An earlier study in the same database, whose trials inform the sampler "
            "if they lie in the space of this study."
        ),
    ] = None

    @model_validator(mode="after")
    def _extends_another(self) -> "StudySection":
        if self.extends == self.name:
            raise KeyErrors([("extends", "must be another study; give this one a new name")])
        return self

    @model_serializer(mode="wrap")
    def _without_unset_extends(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # So that other studies keep the identity that earlier versions gave them.
        plain: dict[str, Any] = dump(self)
        return {key: value for key, value in plain.items() if key != "extends" or value}


class TaskSection(ScriptKeys):
    """The task to train: model, data and training settings."""

    use: Annotated[
        Reference,
        Field(
            description="A built-in task, 'file.py:name' relative to this file, or 'module:name'; "
            "for a script, set program or command instead."
        ),
    ] = ""
    options: Annotated[
        dict[str, Any],
        BeforeValidator(_check_plain),
        Field(
            description="Options of the task: strings, numbers, booleans, lists and tables.",
            json_schema_extra=FEW_KEYS,
        ),
    ] = {}  # noqa: RUF012  (pydantic copies it)
    threads: Annotated[
        int, Field(ge=1, le=limits.CORES, description="CPU threads per training process.")
    ] = 1
    device: Annotated[
        str,
        Field(max_length=limits.DEVICE_LENGTH, description="Device: auto, cpu, cuda or cuda:N."),
    ] = "auto"
    precision: Annotated[
        Literal["float32", "bf16"] | None,
        Field(
            description="Precision of the built-in loop: float32, or bf16 for forward pass and "
            "loss; default: that of the task, which is float32 unless it sets another."
        ),
    ] = None

    @model_validator(mode="after")
    def _one_task(self) -> "TaskSection":
        problems = script_problems(self, self.use, self.options)
        if self.is_script and self.precision is not None:
            problems.append(("precision", "a script sets its own precision; remove the key"))
        if problems:
            raise KeyErrors(problems)
        return self


class ObjectiveSection(Section):
    """The metric that trials minimize on the validation split."""

    metric: Annotated[
        Metric,
        Field(description="nll: unsmoothed NLL; nll_calibrated: NLL after temperature scaling."),
    ] = "nll"


class SamplerSection(Section):
    """The search algorithm."""

    name: Annotated[
        Literal["tpe", "gp", "random", "grid", "qmc"], Field(description="Search algorithm.")
    ] = "tpe"
    startup: Annotated[
        int,
        Field(
            ge=0,
            le=limits.PLANNED_POINTS,
            description="tpe, gp: number of Sobol points before the model is used.",
        ),
    ] = 16
    points: Annotated[
        int, Field(ge=2, le=limits.GRID_POINTS, description="grid: number of values per range.")
    ] = 5


class PrunerSection(Section):
    """How unpromising trials are stopped early; ε = 0 is never pruned."""

    name: Annotated[
        Literal["none", "median", "percentile", "halving", "hyperband"],
        Field(description="Pruning rule."),
    ] = "median"
    percentile: Annotated[
        float,
        Field(gt=0, lt=100, description="percentile: percentage of the trials that continue."),
    ] = 50.0
    reduction: Annotated[
        int,
        Field(
            ge=2,
            le=limits.REDUCTION_FACTOR,
            description="halving, hyperband: reduction factor N; the best 1/N of the trials "
            "continue at each rung.",
        ),
    ] = 2
    startup: Annotated[
        int, Field(ge=1, le=limits.TRIALS, description="Finished trials before pruning starts.")
    ] = 10
    warmup: Annotated[
        float, Field(ge=0, lt=1, description="Fraction of training before pruning may start.")
    ] = 0.75


def _check_constraint(text: str) -> str:
    return parse_constraint(text).text


class ConfirmSection(Section):
    """Retraining of selected candidates on fresh seeds after the search, for the verdict."""

    enabled: Annotated[bool, Field(description="Confirm the study when the search has ended.")] = (
        True
    )
    shortlist: Annotated[
        int,
        Field(
            ge=1,
            le=limits.SHORTLIST_SIZE,
            description="Number of distinct candidates to retrain, including the pick.",
        ),
    ] = 3
    replicates: Annotated[
        int,
        Field(
            ge=2,
            le=limits.REPLICATES,
            description="Number of fresh seeds; every candidate is trained on each of them.",
        ),
    ] = 10
    choice: Annotated[
        Literal["best", "one_standard_error", "knee"],
        Field(
            description="How the pick is selected: best (lowest smoothed metric), "
            "one_standard_error (smallest ε within one standard error of the best) or knee (knee "
            "of the trade-off between metric and error rate)."
        ),
    ] = "best"
    constraint: Annotated[
        Annotated[
            str, Field(max_length=limits.CONSTRAINT_LENGTH), AfterValidator(_check_constraint)
        ]
        | None,
        Field(description="Constraint on all candidates, as 'accuracy >= baseline - 0.005'."),
    ] = None
    resplit: Annotated[bool, Field(description="Redraw the data splits for each seed.")] = False
    minimum_effect: Annotated[
        float | None,
        Field(
            gt=0,
            le=limits.LARGEST_EFFECT,
            description="Smallest difference that matters to you, in units of the metric. If the "
            "whole interval is smaller, the verdict says so.",
        ),
    ] = None


class FirstPoint(Section):
    """A point to try right after ε = 0."""

    model_config = ConfigDict(extra="allow", json_schema_extra=FEW_KEYS)
    __pydantic_extra__: dict[str, Scalar] = Field(init=False)

    epsilon: Annotated[float, Field(ge=0, le=1, description="A value within space.epsilon.")]
    schedule: Annotated[Reference, Field(description="One of space.schedule.")] = "fixed"
    rate: Annotated[
        float | None,
        Field(gt=0, le=limits.LARGEST_NUMBER, description="A value within space.rate; default: 1."),
    ] = None


class StudySpec(Section):
    """The validated content of a study file."""

    study: StudySection
    task: TaskSection
    space: Space = Space()
    objective: ObjectiveSection = ObjectiveSection()
    budget: BudgetSection = BudgetSection()
    sampler: SamplerSection = SamplerSection()
    pruner: PrunerSection = PrunerSection()
    confirm: ConfirmSection = ConfirmSection()
    resources: ResourcesSection = ResourcesSection()
    first: Annotated[
        tuple[FirstPoint, ...],
        Field(
            strict=False,
            max_length=limits.FIRST_POINTS,
            description="Points to try right after ε = 0, in this order.",
        ),
    ] = ()

    @model_validator(mode="before")
    @classmethod
    def _schedule_of_script(cls, tables: Any) -> Any:
        return with_schedule(tables)

    @model_validator(mode="after")
    def _tables_fit(self) -> "StudySpec":
        problems = space_problems(self.task, self.space)
        problems += resource_problems(self.task, self.resources)
        if problems:
            raise KeyErrors(problems)
        return self

    @model_validator(mode="after")
    def _sampler_uses_earlier_trials(self) -> "StudySpec":
        if self.study.extends is not None and self.sampler.name not in ("tpe", "gp"):
            text = f"requires the sampler tpe or gp; {self.sampler.name} does not use results"
            raise KeyErrors([("study.extends", text)])
        return self

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
        """Return the spec as JSON with sorted keys."""
        return canonical_json(self.model_dump(mode="json"))


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of study files, with `from` as an alternative in first points."""
    schema = StudySpec.model_json_schema()
    first = schema["$defs"]["FirstPoint"]
    first["properties"]["from"] = {
        "type": "string",
        "maxLength": limits.REFERENCE_LENGTH,
        "description": "Path of a best.json, relative to this file; other keys override it.",
    }
    first["anyOf"] = [{"required": first.pop("required")}, {"required": ["from"]}]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def identity(spec: StudySpec) -> dict[str, Any]:
    """Return the settings that identify a study; its code identifies it too."""
    dumped = spec.model_dump(mode="json")
    return {
        "study": {key: value for key, value in dumped["study"].items() if key != "name"},
        **{name: dumped[name] for name in IDENTITY},
    }


def digest(content: bytes) -> str:
    """Return the SHA-256 of the bytes, in hex."""
    return hashlib.sha256(content).hexdigest()


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Return `key: theirs -> ours` for each key whose value differs."""
    mine, stored = _flat(ours), _flat(theirs)
    return [
        _difference(key, stored, mine)
        for key in sorted(mine.keys() | stored.keys())
        if mine.get(key) != stored.get(key)
    ]


def _difference(key: str, stored: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
    old, new = (toml_value(side[key]) if key in side else "not set" for side in (stored, mine))
    return f"{key}: {old} -> {new}"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {
            key: leaf
            for name, item in value.items()
            for key, leaf in _flat(item, f"{prefix}.{name}" if prefix else name).items()
        }
    return {prefix: value}


def _outside(first: FirstPoint, space: Space) -> Iterator[tuple[str, str]]:
    """Yield each key of a first point that is outside the space, with an error message."""
    for key in ("epsilon", "rate"):
        value, searched = getattr(first, key), space.dimensions[key]
        if value is not None and not contains(searched, value):
            yield key, f"must be {describe_values(searched)} (space.{key}), got {value:g}"
    if first.schedule not in space.schedule:
        near = suggestion(first.schedule, space.schedule)
        allowed = join_alternatives(space.schedule)
        yield "schedule", f"must be {allowed} (space.schedule), got {first.schedule!r}{near}"
    known = {**space.extras, **space.fixed}
    for name, value in first.__pydantic_extra__.items():
        if name not in known:
            near = suggestion(name, [*space.dimensions, *space.fixed])
            yield name, f"is not a key of [space]{near}; add it there or remove it here"
        elif not contains(known[name], value):
            allowed = describe_values(known[name])
            yield name, f"must be {allowed} (space.{name}), got {toml_value(value)}"
