"""Convert the parameters of a W&B sweep to hyperparameters, options and flags of a study."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeGuard

from sweeper.smoothing.conventions import to_others
from sweeper.study.dimensions import Space
from sweeper.study.schema_errors import toml_value

# Parameters that are ε unless the user names another one. `eps` is usually that of an optimizer.
_EPSILON: Final = ("epsilon",)
_UNIFORM: Final = (
    *("label_smoothing", "label-smoothing", "label_smooth", "label_smoothing_factor"),
    "smoothing",
)
_TORCH: Final = "label_smoothing"
# Names of [space] that a hyperparameter of the script cannot have.
_RESERVED: Final = frozenset(Space.model_fields)
# The exponent above which exp() overflows a double.
_LARGEST_EXPONENT: Final = math.log(1e300)


@dataclass(frozen=True)
class EpsilonName:
    """Which parameter is ε.

    `epsilon` is a parameter with the mass taken from the true class, and "none" if no parameter is
    ε. `label_smoothing` is a parameter in torch's convention, which needs the number of `classes`.
    If both are None, parameters with a well-known name are ε.
    """

    epsilon: str | None = None
    label_smoothing: str | None = None
    classes: int | None = None

    def flag_of(self, name: str) -> str | None:
        """Return the key of [task.flags] that passes a parameter, None if it is not ε."""
        if self.epsilon is None and self.label_smoothing is None:
            known = {**dict.fromkeys(_EPSILON, "epsilon"), **dict.fromkeys(_UNIFORM, _TORCH)}
            return known.get(name)
        if name not in self.named:
            return None
        return _TORCH if name == self.label_smoothing else "epsilon"

    @property
    def named(self) -> list[str]:
        """The parameters that the user has named."""
        names = (self.epsilon, self.label_smoothing)
        return [name for name in names if name is not None and name != "none"]


@dataclass
class Parameters:
    """The converted parameters; `notes` and `problems` are lists that are extended."""

    epsilon: EpsilonName
    notes: list[str]
    problems: list[str]
    space: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    flags: dict[str, str] = field(default_factory=dict)
    _contents: dict[str, Mapping[Any, Any]] = field(default_factory=dict)

    def convert(self, parameters: Any) -> None:
        """Convert the mapping of all parameters."""
        if not isinstance(parameters, Mapping) or not parameters:
            self.problems.append("parameters: must be a non-empty mapping")
            return
        self._collect(parameters, "")
        flags = {name: self.epsilon.flag_of(name) for name in self._contents}
        # ε first, because its flag may take the name of another parameter.
        for name, content in sorted(self._contents.items(), key=lambda item: not flags[item[0]]):
            try:
                flag = flags[name]
                if flag is not None:
                    self._add_epsilon(name, flag, content)
                else:
                    self._add_ordinary(name, content)
            except Refused as error:
                self.problems.append(f"parameters.{name}: {error}")
        self._check_epsilon()

    def _check_epsilon(self) -> None:
        if len(self.epsilon.named) > 1:
            self.problems.append("--epsilon and --label-smoothing: pass only one of them")
        for name in self.epsilon.named:
            if name not in self._contents:
                known = ", ".join(sorted(self._contents))
                self.problems.append(f"parameters: there is no {name!r} for ε; there are: {known}")
        if not self.flags.keys() & {"epsilon", _TORCH}:
            self.notes.append(
                "no parameter is ε; it is searched from 0 to 0.4 and has to reach the script: name "
                "a parameter with --epsilon or --label-smoothing, set task.flags.epsilon, or read "
                "SWEEPER_EPSILON in the script"
            )

    def _collect(self, parameters: Mapping[Any, Any], prefix: str) -> None:
        for key, content in parameters.items():
            name = f"{prefix}{key}"
            if not isinstance(content, Mapping):
                self.problems.append(f"parameters.{name}: must be a mapping")
            elif "parameters" not in content:
                if name in self._contents:
                    self.problems.append(f"parameters.{name}: is there twice")
                self._contents[name] = content
            elif not isinstance(content["parameters"], Mapping) or not content["parameters"]:
                self.problems.append(f"parameters.{name}.parameters: must be a non-empty mapping")
            else:
                self.notes.append(
                    f"the nested parameter {name} is passed as --{name}.NAME=VALUE, and in "
                    "${args_json} as a table"
                )
                self._collect(content["parameters"], f"{name}.")

    def _add_ordinary(self, name: str, content: Mapping[Any, Any]) -> None:
        """Add a hyperparameter or an option, under another name if sweeper uses its name."""
        constant = "value" in content
        taken = name in self.flags or (name in _RESERVED and not constant)
        target = self._other_name(name) if taken else name
        if constant:
            self.options[target] = _constant(content["value"])
        else:
            self.space[target] = dimension_of(content)
            if "probabilities" in content:
                self.notes.append(f"the probabilities of {name} are ignored")

    def _other_name(self, name: str) -> str:
        other = f"script_{name}"
        while other in self._contents:
            other = f"script_{other}"
        self.flags[other] = f"--{name}"
        self.notes.append(
            f"the parameter {name} is called {other} in the study, because {name} is a key of "
            f"sweeper; the script still gets --{name}"
        )
        return other

    def _add_epsilon(self, name: str, flag: str, content: Mapping[Any, Any]) -> None:
        if self.flags.keys() & {"epsilon", _TORCH}:
            raise Refused(
                "could be ε, but so could another parameter; name the right one with --epsilon or "
                "--label-smoothing"
            )
        self.flags[flag] = f"--{name}"
        if "value" in content:
            raise Refused(
                "is constant, but a study searches ε; give it values, or min and max, or pass "
                "--epsilon none if it is not label smoothing"
            )
        dimension = dimension_of(content)
        values = dimension if isinstance(dimension, list) else [dimension["low"], dimension["high"]]
        if not all(_is_number(value) and 0 <= value <= 1 for value in values) or not max(values):
            raise Refused(
                f"must have values from 0 to 1, and one above 0, got {toml_value(values)}; pass "
                "--epsilon none if it is not label smoothing"
            )
        high = float(max(values))
        if flag == _TORCH:
            if self.epsilon.classes is None:
                raise Refused(
                    "is in torch's convention, which depends on the number of classes; pass it: "
                    "--classes N"
                )
            high = to_others(high, self.epsilon.classes)
        self.space["epsilon"] = {"low": 0.0, "high": high}
        self.notes.append(
            f"{name} is searched as ε from 0 to {high:g} (the mass taken from the true class); if "
            "it is not label smoothing, pass --epsilon with the name of ε, or none"
        )


class Refused(Exception):
    """A parameter that has no equivalent; the text says why."""


def _constant(value: object) -> object:
    if value is None:
        raise Refused("value is null, which a study file cannot contain; leave the parameter out")
    return _with_text_keys(value)


def _with_text_keys(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _with_text_keys(item) for key, item in value.items()}
    return [_with_text_keys(item) for item in value] if isinstance(value, list) else value


# The distributions of W&B that are converted. For those in _EXPONENTS, min and max are natural
# logarithms. With "q_", values are rounded to multiples of q.
_LINEAR: Final = ("uniform", "q_uniform")
_LOGS: Final = ("log_uniform_values", "q_log_uniform_values", "inv_log_uniform_values")
_EXPONENTS: Final = ("log_uniform", "q_log_uniform", "inv_log_uniform")
_RANGES: Final = ("int_uniform", *_LINEAR, *_LOGS, *_EXPONENTS)


def dimension_of(content: Mapping[Any, Any]) -> Any:
    """Return a dimension of [space] for a parameter; raises `Refused` if there is none."""
    if "values" in content:
        values = content["values"]
        if not isinstance(values, list) or not values:
            raise Refused(f"values must be a non-empty list, got {toml_value(values)}")
        return values
    kind = content.get("distribution")
    if kind is not None and not isinstance(kind, str):
        raise Refused(f"distribution must be a string, got {toml_value(kind)}")
    if "min" not in content and "max" not in content:
        of_kind = f" (distribution {kind})" if kind else ""
        raise Refused(f"needs value, values, or min and max{of_kind}")
    low, high = (_bound(content, name) for name in ("min", "max"))
    whole = isinstance(low, int) and isinstance(high, int)
    return _range(kind or ("int_uniform" if whole else "uniform"), low, high, content.get("q"))


def _bound(content: Mapping[Any, Any], name: str) -> int | float:
    value = content.get(name)
    if not _is_number(value):
        raise Refused(f"{name} must be a number, got {_shown(value)}")
    return value


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    return f"the text {value!r}" if isinstance(value, str) else toml_value(value)


def _range(kind: str, low: float, high: float, step: object) -> dict[str, Any]:
    if kind == "int_uniform":
        return {"low": low, "high": high, "integer": True}
    if kind not in (*_LINEAR, *_LOGS, *_EXPONENTS):
        raise Refused(
            f"the distribution {kind!r} with min and max has no equivalent; allowed: "
            f"{', '.join(_RANGES)}"
        )
    if kind in _EXPONENTS:
        if max(abs(low), abs(high)) > _LARGEST_EXPONENT:
            raise Refused(
                f"min and max of {kind} are exponents of e and must be from "
                f"{-_LARGEST_EXPONENT:.0f} to {_LARGEST_EXPONENT:.0f}, got {low:g} and {high:g}; "
                f"for values, use {kind}_values"
            )
        # The logarithm of 1/X is uniform, so that of X is, too.
        low, high = (-high, -low) if kind.startswith("inv_") else (low, high)
        low, high = math.exp(low), math.exp(high)
    log = {} if kind in _LINEAR else {"log": True}
    if not kind.startswith("q_"):
        return {"low": float(low), "high": float(high), **log}
    if step is not None and (not _is_number(step) or step != 1):
        raise Refused(
            f"the distribution {kind} is converted only with q: 1, got q: {_shown(step)}; list the "
            "values instead"
        )
    return {"low": round(low), "high": round(high), "integer": True, **log}


def _is_number(value: object) -> TypeGuard[int | float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and abs(value) <= 1e300
