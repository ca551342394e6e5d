"""Convert a sweep of Weights & Biases (W&B) to a study file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from sweeper import limits
from sweeper.errors import SweeperError, suggestion
from sweeper.study.bounds import check_size_limits
from sweeper.study.load import parse_spec
from sweeper.study.schema_errors import toml_value
from sweeper.study.wandb_parameters import EpsilonName, Parameters

_METHODS: Final = {"grid": "grid", "random": "random", "bayes": "tpe"}
# Keys that do not affect what is trained.
_IGNORED: Final = ("project", "entity", "description", "tags", "controller", "imageuri", "job")
_KEYS: Final = ("program", "method", "parameters", "metric", "early_terminate", "command", "name")


@dataclass(frozen=True)
class Imported:
    """The tables of a study file, and notes about what differs from the sweep."""

    tables: Mapping[str, Any]
    notes: tuple[str, ...]


def convert_wandb(text: str, name: str, epsilon: EpsilonName | None = None) -> Imported:
    """Convert the YAML of a W&B sweep to the tables of a study named `name`.

    `epsilon` says which parameter is ε. Raises `SweeperError`, with one line per problem, if the
    text is not a sweep or a part of it has no equivalent.
    """
    conversion = _Conversion(_parse(text), epsilon or EpsilonName())
    tables = conversion.tables(name)
    if conversion.problems:
        raise SweeperError("\n".join(conversion.problems[: limits.ERROR_LINES]))
    parse_spec(tables)
    return Imported(tables, tuple(conversion.notes))


def sweep_name(text: str) -> object:
    """Return the name in the YAML of a sweep, None if it has none; raises `SweeperError`."""
    return _parse(text).get("name")


class _Loader(yaml.SafeLoader):
    """Reads numbers as YAML 1.2 does: in YAML 1.1, 1e-5 is text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+"),
    list("-+.0123456789"),
)


def _parse(text: str) -> Mapping[str, Any]:
    if len(text) > limits.STUDY_FILE_LENGTH:
        raise SweeperError(f"longer than {limits.STUDY_FILE_LENGTH:,} characters")
    try:
        sweep = yaml.load(text, _Loader)
    except Exception as error:  # PyYAML raises many types, for example for wrong dates
        raise SweeperError(f"not valid YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(sweep, Mapping):
        raise SweeperError("not a sweep: it must be a mapping with program and parameters")
    # Aliases of YAML can repeat a value very often, or make it contain itself.
    check_size_limits(sweep)
    return sweep


@dataclass
class _Conversion:
    sweep: Mapping[str, Any]
    epsilon: EpsilonName
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def tables(self, name: str) -> dict[str, Any]:
        self._check_keys()
        parameters = Parameters(self.epsilon, self.notes, self.problems)
        parameters.convert(self.sweep.get("parameters"))
        tables: dict[str, Any] = {"study": {"name": name}, "task": self._task(parameters)}
        if parameters.space:
            tables["space"] = parameters.space
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
        program = self.sweep.get("program")
        if program is not None and not isinstance(program, str):
            self.problems.append(f"program: must be a string, got {toml_value(program)}")
        elif not program and not self.sweep.get("command"):
            self.problems.append("program: missing; it names the training script")

    def _task(self, parameters: Parameters) -> dict[str, Any]:
        command = self.sweep.get("command")
        items = command if isinstance(command, list) else []
        plain = [item for item in items if isinstance(item, str | int | float)]
        if len(plain) != len(items) or (command is not None and not isinstance(command, list)):
            self.problems.append(f"command: must be a list of strings, got {toml_value(command)}")
        tables = {
            "program": str(self.sweep.get("program") or ""),
            "command": [str(item) for item in plain],
            "classes": self.epsilon.classes if "label_smoothing" in parameters.flags else None,
            "flags": parameters.flags,
            "options": parameters.options,
        }
        return {key: value for key, value in tables.items() if value}

    # ---- the search ----------------------------------------------------------------------

    def _search(self) -> dict[str, Any]:
        method = self.sweep.get("method")
        sampler = _METHODS.get(method) if isinstance(method, str) else None
        if sampler is None:
            allowed = ", ".join(_METHODS)
            self.problems.append(f"method: must be one of {allowed}, got {_given(method)}")
        tables: dict[str, Any] = {"sampler": {"name": sampler or "tpe"}}
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
            f"the metric {toml_value(name)} is replaced by the validation NLL (objective.metric)"
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
        eta = early.get("eta")
        return {"name": "hyperband", "reduction": 3 if eta is None else eta}


def _given(value: object) -> str:
    return "nothing" if value is None else toml_value(value)


def study_name(title: object, file: str) -> str:
    """Return a valid study name from the name of a sweep, or from that of its file."""
    text = re.sub(r"[^A-Za-z0-9_.-]+", "-", title if isinstance(title, str) else file)
    return text.strip("-._")[: limits.NAME_LENGTH] or "sweep"
