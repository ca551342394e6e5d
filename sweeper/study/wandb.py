"""Convert a sweep of Weights & Biases (W&B) to a study file."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeGuard

import yaml

from sweeper import limits
from sweeper.errors import SweeperError, suggestion
from sweeper.smoothing.conventions import to_others
from sweeper.study.load import parse_spec
from sweeper.study.schema_errors import toml_value

_METHODS: Final = {"grid": "grid", "random": "random", "bayes": "tpe"}
# Keys that do not affect what is trained.
_IGNORED: Final = ("project", "entity", "description", "tags", "controller", "imageuri", "job")
_KEYS: Final = ("program", "method", "parameters", "metric", "early_terminate", "command", "name")
_EPSILON: Final = ("epsilon", "eps")
_UNIFORM: Final = ("label_smoothing", "label-smoothing", "smoothing", "label_smooth")


@dataclass(frozen=True)
class Imported:
    """The tables of a study file, and notes about what differs from the sweep."""

    tables: Mapping[str, Any]
    notes: tuple[str, ...]


def convert_wandb(text: str, name: str, classes: int | None = None) -> Imported:
    """Convert the YAML of a W&B sweep to the tables of a study named `name`.

    `classes` is the number of classes, for a parameter in torch's convention (`label_smoothing`).
    Raises `SweeperError`, with one line per problem, if the text is not a sweep or a part of it has
    no equivalent.
    """
    conversion = _Conversion(_parse(text), classes)
    tables = conversion.tables(name)
    if conversion.problems:
        raise SweeperError("\n".join(conversion.problems[: limits.ERROR_LINES]))
    parse_spec(tables)
    return Imported(tables, tuple(conversion.notes))


def sweep_name(text: str) -> object:
    """Return the name in the YAML of a sweep, None if it has none; raises `SweeperError`."""
    return _parse(text).get("name")


def _parse(text: str) -> Mapping[str, Any]:
    if len(text) > limits.STUDY_FILE_LENGTH:
        raise SweeperError(f"longer than {limits.STUDY_FILE_LENGTH:,} characters")
    try:
        sweep = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise SweeperError(f"not valid YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(sweep, Mapping):
        raise SweeperError("not a sweep: it must be a mapping with program and parameters")
    return sweep


@dataclass
class _Conversion:
    sweep: Mapping[str, Any]
    classes: int | None
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    space: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    flags: dict[str, str] = field(default_factory=dict)

    def tables(self, name: str) -> dict[str, Any]:
        self._check_keys()
        self._parameters(self.sweep.get("parameters", {}), "")
        tables: dict[str, Any] = {"study": {"name": name}, "task": self._task()}
        if self.space:
            tables["space"] = self.space
        tables |= self._search()
        self.notes.append(
            "the script must deliver its validation results: logits and labels, or JSON lines on "
            "stdout; see docs/how-to/scripts.md"
        )
        return tables

    def _check_keys(self) -> None:
        known = (*_KEYS, "run_cap", *_IGNORED)
        for key in self.sweep:
            if key not in known:
                self.problems.append(
                    f"{key}: unknown key of a sweep{suggestion(str(key), known)}; "
                    f"allowed: {', '.join(known)}"
                )
            elif key in _IGNORED:
                self.notes.append(f"{key} is ignored")
        if not self.sweep.get("program") and not self.sweep.get("command"):
            self.problems.append("program: missing; it names the training script")

    def _task(self) -> dict[str, Any]:
        command = self.sweep.get("command")
        if command is not None and not isinstance(command, list):
            self.problems.append(f"command: must be a list, got {toml_value(command)}")
            command = None
        task: dict[str, Any] = {"program": str(self.sweep.get("program") or "")}
        if command:
            task["command"] = [str(item) for item in command]
        if "label_smoothing" in self.flags and self.classes:
            task["classes"] = self.classes
        tables = {"flags": self.flags, "options": self.options}
        return {key: value for key, value in {**task, **tables}.items() if value}

    # ---- parameters ----------------------------------------------------------------------

    def _parameters(self, parameters: Any, prefix: str) -> None:
        if not isinstance(parameters, Mapping) or not (parameters or prefix):
            self.problems.append("parameters: must be a non-empty mapping")
            return
        for key, content in parameters.items():
            name = f"{prefix}{key}"
            if not isinstance(content, Mapping):
                self.problems.append(f"parameters.{name}: must be a mapping")
            elif "parameters" in content:
                self.notes.append(
                    f"the nested parameter {name} is passed as --{name}.NAME=VALUE, and in "
                    "${args_json} as a table"
                )
                self._parameters(content["parameters"], f"{name}.")
            else:
                self._parameter(name, content)

    def _parameter(self, name: str, content: Mapping[str, Any]) -> None:
        try:
            if name in _EPSILON or name in _UNIFORM:
                self._smoothing(name, content)
            elif "value" in content:
                self.options[name] = content["value"]
            else:
                self.space[name] = self._dimension(name, content)
        except _Refused as error:
            self.problems.append(f"parameters.{name}: {error}")

    def _smoothing(self, name: str, content: Mapping[str, Any]) -> None:
        if "value" in content:
            raise _Refused("is constant, but a study searches ε; give it values, or min and max")
        dimension = self._dimension(name, content)
        values = dimension if isinstance(dimension, list) else [dimension["low"], dimension["high"]]
        if not all(isinstance(value, int | float) for value in values):
            raise _Refused(f"must be numbers, got {toml_value(values)}")
        high = float(max(values))
        if name in _UNIFORM:
            if self.classes is None:
                raise _Refused(
                    "is in torch's convention, which depends on the number of classes; pass it: "
                    "--classes N"
                )
            high = to_others(high, self.classes)
        self.flags["label_smoothing" if name in _UNIFORM else "epsilon"] = f"--{name}"
        self.space["epsilon"] = {"low": 0.0, "high": high}
        self.notes.append(
            f"{name} is searched as ε from 0 to {high:g} (the mass taken from the true class)"
        )

    def _dimension(self, name: str, content: Mapping[str, Any]) -> Any:
        if "probabilities" in content:
            self.notes.append(f"the probabilities of {name} are ignored")
        if "values" in content:
            if not isinstance(content["values"], list) or not content["values"]:
                raise _Refused("values must be a non-empty list")
            return content["values"]
        low, high = content.get("min"), content.get("max")
        if not (_is_number(low) and _is_number(high)):
            kind = content.get("distribution")
            of_kind = f" (distribution {kind})" if kind else ""
            raise _Refused(f"needs value, values, or min and max{of_kind}")
        whole = isinstance(low, int) and isinstance(high, int)
        match content.get("distribution", "int_uniform" if whole else "uniform"):
            case "uniform":
                return {"low": float(low), "high": float(high)}
            case "int_uniform":
                return {"low": low, "high": high, "integer": True}
            case "log_uniform_values":
                return {"low": float(low), "high": float(high), "log": True}
            case "log_uniform":
                return {"low": math.exp(low), "high": math.exp(high), "log": True}
            case other:
                raise _Refused(
                    f"the distribution {other!r} has no equivalent; allowed: uniform, int_uniform, "
                    "log_uniform, log_uniform_values, categorical and constant"
                )

    # ---- the search ----------------------------------------------------------------------

    def _search(self) -> dict[str, Any]:
        method = self.sweep.get("method")
        if method not in _METHODS:
            allowed = ", ".join(_METHODS)
            self.problems.append(f"method: must be one of {allowed}, got {toml_value(method)}")
        tables: dict[str, Any] = {"sampler": {"name": _METHODS.get(str(method), "tpe")}}
        if self.sweep.get("run_cap") is not None:
            tables["budget"] = {"trials": self.sweep["run_cap"]}
        else:
            self.notes.append(
                "the sweep has no run_cap, so the study has 64 trials (budget.trials)"
            )
        if method == "grid":
            self.notes.append("ε is sampled at 5 values of its range in the grid (sampler.points)")
        tables["pruner"] = self._pruner()
        self._metric()
        return tables

    def _metric(self) -> None:
        metric = self.sweep.get("metric")
        if metric is None:
            return
        name = metric.get("name") if isinstance(metric, Mapping) else metric
        self.notes.append(
            f"the metric {name!r} is replaced by the validation NLL (objective.metric)"
        )

    def _pruner(self) -> dict[str, Any]:
        early = self.sweep.get("early_terminate")
        if early is None:
            return {"name": "none"}
        if not isinstance(early, Mapping) or early.get("type") != "hyperband":
            self.problems.append(
                f"early_terminate: must have type: hyperband, got {toml_value(early)}"
            )
            return {"name": "none"}
        others = [str(key) for key in early if key not in ("type", "eta")]
        if others:
            self.notes.append(
                f"early_terminate: not converted: {', '.join(others)}; sweeper compares trials at "
                "fractions of training, not at iterations"
            )
        return {"name": "hyperband", "reduction": early.get("eta", 3)}


class _Refused(Exception):
    """A parameter that has no equivalent; the text says why."""


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def study_name(title: object, file: str) -> str:
    """Return a valid study name from the name of a sweep, or from that of its file."""
    text = re.sub(r"[^A-Za-z0-9_.-]+", "-", str(title or file)).strip("-._")
    return text[: limits.NAME_LENGTH] or "sweep"
