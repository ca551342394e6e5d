"""The search space of a study file: searched, conditional and fixed hyperparameters."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)

from sweeper import limits
from sweeper.errors import suggestion
from sweeper.smoothing.names import BUILT_IN
from sweeper.study.schema_errors import (
    CHOICES,
    CONDITIONAL,
    FIXED,
    RANGE,
    KeyErrors,
    join_alternatives,
    toml_value,
)
from sweeper.study.section import FEW_KEYS, Reference, Section

SMOOTHING_KEYS: Final = ("epsilon", "schedule", "rate")


def check_plain_scalar(value: Any) -> Any:
    """Return a value; raises `ValueError` if neither JSON nor SQL can store it unchanged."""
    if isinstance(value, int) and not -limits.LARGEST_INTEGER <= value <= limits.LARGEST_INTEGER:
        raise ValueError(f"must fit in 64 bits, got {toml_value(value)}")
    is_finite = isinstance(value, int | float) and math.isfinite(value)
    if not is_finite and not isinstance(value, str):
        raise ValueError(
            f"must be a string, a finite number, true or false, got {toml_value(value)}"
        )
    return value


def _check_scalar(value: Any) -> Any:
    if isinstance(value, str) and len(value) > limits.CHOICE_LENGTH:
        raise ValueError(
            f"must have at most {limits.CHOICE_LENGTH} characters, got {toml_value(value)}"
        )
    if isinstance(value, float) and limits.LARGEST_NUMBER < abs(value) < math.inf:
        raise ValueError(
            f"must be from -{limits.LARGEST_NUMBER:g} to {limits.LARGEST_NUMBER:g}, got {value:g}"
        )
    return check_plain_scalar(value)


Real = Annotated[float, Field(ge=-limits.LARGEST_NUMBER, le=limits.LARGEST_NUMBER)]
Integer = Annotated[int, Field(ge=-limits.LARGEST_INTEGER, le=limits.LARGEST_INTEGER)]
Choice = Annotated[str, Field(max_length=limits.CHOICE_LENGTH)]
Scalar = Annotated[bool | Integer | Real | Choice, BeforeValidator(_check_scalar)]


def _check_distinct(choices: tuple[Any, ...]) -> tuple[Any, ...]:
    # 1, 1.0 and true are equal in Python, so Optuna cannot distinguish them.
    for index, choice in enumerate(choices):
        if choice in choices[:index]:
            raise ValueError(
                f"duplicate choice {toml_value(choice)} in {toml_value(list(choices))}"
            )
    return choices


Choices = Annotated[
    tuple[Scalar, ...],
    Field(strict=False, min_length=1, max_length=limits.CHOICES),
    AfterValidator(_check_distinct),
]


Condition = Annotated[
    Choices,
    BeforeValidator(
        lambda value: value if isinstance(value, list | tuple) else [value],
        json_schema_input_type=Scalar
        | Annotated[list[Scalar], Field(min_length=1, max_length=limits.CHOICES)],
    ),
]
When = Annotated[
    Annotated[dict[str, Condition], Field(min_length=1, json_schema_extra=FEW_KEYS)] | None,
    Field(
        description="The values of other hyperparameters with which this one is used, as "
        '{ optimizer = "sgd" } or { optimizer = ["sgd", "rmsprop"] }; default: always.'
    ),
]


class Conditional(Section):
    """A hyperparameter that depends on others if it has the key `when`."""

    @model_serializer(mode="wrap")
    def _without_unset_condition(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # So that studies without conditions keep the identity that earlier versions gave them.
        plain: dict[str, Any] = dump(self)
        return {key: value for key, value in plain.items() if key != "when" or value is not None}


class Range(Section):
    """A numeric search range, including both ends."""

    low: Annotated[Real, Field(description="Lowest value.")]
    high: Annotated[Real, Field(description="Highest value.")]
    log: Annotated[bool, Field(description="Sample on a log scale.")] = False
    integer: Annotated[bool, Field(description="Integers only.")] = False

    @model_validator(mode="after")
    def _check_order(self) -> "Range":
        if self.low >= self.high:
            raise ValueError(f"low = {self.low:g} and high = {self.high:g}; low must be below high")
        if self.log and self.low <= 0:
            raise ValueError(f"low = {self.low:g} with log = true; low must be > 0")
        if self.integer and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError(
                f"low = {self.low:g} and high = {self.high:g} with integer = true; "
                "both must be integers"
            )
        if self.integer and max(-self.low, self.high) > limits.LARGEST_EXACT_INTEGER:
            raise ValueError(
                f"low = {self.low:g} and high = {self.high:g} with integer = true; "
                f"both must be from -{limits.LARGEST_EXACT_INTEGER:,} to "
                f"{limits.LARGEST_EXACT_INTEGER:,}"
            )
        return self

    def contains(self, value: float) -> bool:
        """Return whether the value is in the range, and an integer if the range has only these."""
        allowed_type = not self.integer or float(value).is_integer()
        return allowed_type and self.low <= value <= self.high


class HyperparameterRange(Range, Conditional):
    """A numeric search range of a hyperparameter of the task."""

    when: When = None


class ConditionalChoices(Conditional):
    """Choices that depend on other hyperparameters."""

    values: Annotated[Choices, Field(description="The choices.")]
    when: When = None


Dimension = Range | tuple[Any, ...]


def _hyperparameter_tag(value: Any) -> str | None:
    if isinstance(value, list | tuple):
        return CHOICES
    if isinstance(value, ConditionalChoices) or (isinstance(value, dict) and "values" in value):
        return CONDITIONAL
    if isinstance(value, dict | HyperparameterRange):
        return RANGE
    return FIXED if isinstance(value, bool | int | float | str) else None


Hyperparameter = Annotated[
    Annotated[HyperparameterRange, Tag(RANGE)]
    | Annotated[Choices, Tag(CHOICES)]
    | Annotated[ConditionalChoices, Tag(CONDITIONAL)]
    | Annotated[Scalar, Tag(FIXED)],
    Discriminator(
        _hyperparameter_tag,
        custom_error_type="dimension",
        custom_error_message="a hyperparameter",
    ),
]


class Space(Section):
    """The search space: epsilon, schedule, annealing rate and hyperparameters of the task."""

    model_config = ConfigDict(extra="allow", json_schema_extra=FEW_KEYS)
    __pydantic_extra__: dict[str, Hyperparameter] = Field(init=False)

    epsilon: Annotated[
        Range, Field(description="Smoothing strength ε, in the convention 'others'.")
    ] = Range(low=0.0, high=0.4)
    schedule: Annotated[
        tuple[Reference, ...],
        BeforeValidator(
            lambda value: (value,) if isinstance(value, str) else value,
            json_schema_input_type=Reference
            | Annotated[list[Reference], Field(min_length=1, max_length=limits.CHOICES)],
        ),
        Field(
            strict=False,
            min_length=1,
            max_length=limits.CHOICES,
            description=f"Schedules of ε: {', '.join(BUILT_IN)}, or 'file.py:function'.",
        ),
    ] = tuple(BUILT_IN)
    rate: Annotated[Range, Field(description="Annealing rate of the schedule.")] = Range(
        low=0.3, high=12.0, log=True
    )

    @field_validator("epsilon")
    @classmethod
    def _epsilon(cls, epsilon: Range) -> Range:
        if epsilon.log or epsilon.integer:
            raise ValueError(
                "epsilon is always sampled on a linear scale from 0; remove log and integer"
            )
        if epsilon.low != 0.0:
            raise ValueError(
                f"low must be 0, because every study tries epsilon = 0 first; got {epsilon.low:g}"
            )
        if epsilon.high > 1.0:
            raise ValueError(f"high must be <= 1, got {epsilon.high:g}")
        return epsilon

    @field_validator("schedule")
    @classmethod
    def _schedule(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if ":" not in name and name not in BUILT_IN:
                raise ValueError(
                    f"unknown schedule {name!r}{suggestion(name, BUILT_IN)}; "
                    f"allowed: {', '.join(BUILT_IN)} or file.py:function"
                )
            if names.count(name) > 1:
                raise ValueError(f"duplicate schedule {name!r} in {list(names)}")
        return names

    @field_validator("rate")
    @classmethod
    def _rate(cls, rate: Range) -> Range:
        if rate.low <= 0:
            raise ValueError(f"low must be > 0, got {rate.low:g}")
        return rate

    @cached_property
    def extras(self) -> dict[str, Dimension]:
        """The searched hyperparameters of the task, without those of smoothing, by name."""
        # Sorted, so that the plan does not depend on the order of the lines in the file.
        return {
            name: given.values if isinstance(given, ConditionalChoices) else given
            for name, given in sorted(self.__pydantic_extra__.items())
            if isinstance(given, Conditional | tuple)
        }

    @cached_property
    def fixed(self) -> dict[str, Any]:
        """The hyperparameters of the task with one value for all trials, by name."""
        return {
            name: given
            for name, given in sorted(self.__pydantic_extra__.items())
            if not isinstance(given, Conditional | tuple)
        }

    @cached_property
    def dimensions(self) -> dict[str, Dimension]:
        """All dimensions by name, those of smoothing first."""
        return {
            "epsilon": self.epsilon,
            "schedule": self.schedule,
            "rate": self.rate,
            **self.extras,
        }

    @cached_property
    def conditions(self) -> dict[str, Mapping[str, Sequence[Any]]]:
        """The values of other hyperparameters with which one is active, by its name.

        A hyperparameter comes after those that it depends on. It is active if all its conditions
        are met, and those that it depends on are active.
        """
        parents = {name: list(self._when(name)) for name in sorted(self.__pydantic_extra__)}
        ordered = TopologicalSorter(parents).static_order()
        return {name: when for name in ordered if (when := self._when(name))}

    @model_validator(mode="after")
    def _check_conditions(self) -> "Space":
        problems = list[tuple[str, str]]()
        for name in self.__pydantic_extra__:
            for parent, values in self._when(name).items():
                key = f"{name}.when.{parent}"
                problems += [(key, text) for text in self._condition_problems(parent, values)]
        if not problems:
            try:
                _ = self.conditions
            except CycleError as error:
                cycle = error.args[1][::-1]
                path = ", which depends on ".join(cycle[1:])
                problems = [(f"{cycle[0]}.when", f"is a cycle: {cycle[0]} depends on {path}")]
        if problems:
            raise KeyErrors(problems)
        return self

    def _when(self, name: str) -> Mapping[str, Sequence[Any]]:
        given = self.__pydantic_extra__.get(name)
        if isinstance(given, HyperparameterRange | ConditionalChoices) and given.when is not None:
            return given.when
        return {}

    def _condition_problems(self, parent: str, values: Sequence[Any]) -> Iterator[str]:
        allowed = {**self.extras, **self.fixed, "schedule": self.schedule}
        known = [name for name, values in allowed.items() if not _is_continuous(values)]
        if parent not in known:
            what = (
                "is a range of numbers, and a condition needs single values"
                if parent in allowed or parent in SMOOTHING_KEYS
                else f"unknown hyperparameter{suggestion(parent, known)}"
            )
            yield f"{what}; allowed: {', '.join(known)}"
            return
        for value in values:
            if not contains(allowed[parent], value):
                near = suggestion(str(value), map(str, _choices(allowed[parent])))
                yield (
                    f"must be {describe_values(allowed[parent])} (space.{parent}), "
                    f"got {toml_value(value)}{near}"
                )


def contains(dimension: Any, value: Any) -> bool:
    """Return whether a range, a list of choices or a fixed value contains a value."""
    if not isinstance(dimension, Range):
        return value in _choices(dimension)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and dimension.contains(value)


def describe_values(dimension: Any) -> str:
    """Return the values of a range, a list of choices or a fixed value, as `"a" or "b"`."""
    if not isinstance(dimension, Range):
        return join_alternatives([toml_value(choice) for choice in _choices(dimension)])
    kind = "an integer " if dimension.integer else ""
    return f"{kind}from {dimension.low:g} to {dimension.high:g}"


def _choices(dimension: Any) -> tuple[Any, ...]:
    if isinstance(dimension, Range):
        return ()
    return dimension if isinstance(dimension, tuple) else (dimension,)


def _is_continuous(dimension: Any) -> bool:
    return isinstance(dimension, Range) and not dimension.integer
