"""The command line and the environment of a script. No shell is involved."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sweeper.smoothing import Smoothing
from sweeper.training.failures import TrainingFailed
from sweeper.training.messages import Start
from sweeper.training.scripts.config import ScriptConfig, macros_of, replace_macros

_ARGS_FILE: Final = "args.json"


def command_of(script: ScriptConfig, start: Start, directory: Path) -> list[str]:
    """Return the arguments of the process that trains a run.

    Raises `TrainingFailed` if an environment variable of the command is not set, and OSError if
    the file of `${args_json_file}` cannot be written.
    """
    values = _values(script, start)
    result = list[str]()
    for argument in script.command:
        match argument:
            case "${args}":
                for name, value in values.items():
                    result += _flag(script.flags.get(name, f"--{name}"), _text(value))
            case "${args_no_hyphens}":
                for name, value in _named(values, script).items():
                    result.append(f"{name}={_text(value)}")
            case _:
                macros = {
                    macro: _macro(macro, script, values, directory) for macro in macros_of(argument)
                }
                result.append(replace_macros(argument, macros))
    return result


def _values(script: ScriptConfig, start: Start) -> dict[str, Any]:
    """Return the values to pass: smoothing and seeds that have a flag, hparams and options."""
    smoothing = Smoothing(*start.smoothing)
    known: dict[str, Any] = {
        "epsilon": smoothing.epsilon,
        "label_smoothing": label_smoothing(smoothing, script.classes),
        "schedule": smoothing.schedule,
        "rate": smoothing.rate,
        "seed": start.seed,
        "data_seed": start.data_seed,
    }
    flagged = {name: value for name, value in known.items() if name in script.flags}
    return {**script.options, **start.hparams, **flagged}


def label_smoothing(smoothing: Smoothing, classes: int | None) -> float | None:
    """Return ε for torch's `label_smoothing`; None if the number of classes is not known."""
    if smoothing.epsilon == 0:
        return 0.0
    return None if classes is None else smoothing.label_smoothing(classes)


def _flag(flag: str, text: str) -> list[str]:
    # argparse, click and others read `-e=0.1` differently.
    short = len(flag) == 2 and flag[0] == "-"
    return [flag, text] if short else [f"{flag}={text}"]


def _text(value: Any) -> str:
    """Return a value as text, as W&B does; lists and tables as JSON."""
    if isinstance(value, list | tuple | Mapping):
        return json.dumps(value)
    return "" if value is None else str(value)


def _named(values: Mapping[str, Any], script: ScriptConfig) -> dict[str, Any]:
    """Return the values by the names of their flags, without hyphens in front."""
    return {script.flags.get(name, name).lstrip("-"): value for name, value in values.items()}


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with names like "optimizer.lr" as nested tables, as in a W&B sweep."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        *tables, last = name.split(".")
        place = result
        for table in tables:
            place = place.setdefault(table, {})
            if not isinstance(place, dict):
                raise TrainingFailed(f"{name}: {table} is also the name of a value")
        place[last] = value
    return result


def _macro(macro: str, script: ScriptConfig, values: Mapping[str, Any], directory: Path) -> str:
    name, _, argument = macro.partition(":")
    match name:
        case "env":
            return "/usr/bin/env"
        case "interpreter":
            return sys.executable
        case "program":
            return script.program
        case "args_json":
            return json.dumps(_nested(_named(values, script)))
        case "args_json_file":
            file = directory / _ARGS_FILE
            file.write_text(json.dumps(_nested(_named(values, script))), encoding="utf-8")
            return str(file)
        case "envvar":
            if argument not in os.environ:
                raise TrainingFailed(
                    f"task.command: the environment variable {argument!r} is not set here"
                )
            return os.environ[argument]
    raise AssertionError(macro)


_RANKS: Final = ("RANK", "LOCAL_RANK", "WORLD_SIZE")


def variables_of(
    script: ScriptConfig, start: Start, directory: Path, socket: Path
) -> dict[str, str]:
    """Return the environment variables of the process that trains a run."""
    smoothing = Smoothing(*start.smoothing)
    uniform = label_smoothing(smoothing, script.classes) if script.classes else None
    threads = str(script.threads)
    # The script's own launcher, such as torchrun, sets the ranks of its processes.
    inherited = {name: value for name, value in os.environ.items() if name not in _RANKS}
    return {
        **inherited,
        "PYTHONUNBUFFERED": "1",
        # The server that this process was forked from has fewer.
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "SWEEPER_DIR": str(directory),
        "SWEEPER_SOCKET": str(socket),
        "SWEEPER_SEED": str(start.seed),
        "SWEEPER_DATA_SEED": str(start.data_seed),
        "SWEEPER_SPLITS": "valid,test" if _needs_test(start) else "valid",
        **({} if script.loss else {"SWEEPER_EPSILON": str(smoothing.epsilon)}),
        **({} if uniform is None or script.loss else {"SWEEPER_LABEL_SMOOTHING": str(uniform)}),
    }


def _needs_test(start: Start) -> bool:
    """Whether the script evaluates its test split: in a confirmation, and to show that it can."""
    return start.arrays is not None or start.number == 0
