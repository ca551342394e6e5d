"""Checks of the task and schedule code of a study, without importing it into this process."""

import tempfile
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sweeper.errors import SweeperError, suggestion
from sweeper.smoothing.names import BUILT_IN
from sweeper.study.dimensions import SMOOTHING_KEYS, Range, Space
from sweeper.study.resources import ranks_of
from sweeper.study.script_keys import DEFAULT_COMMAND, ScriptKeys
from sweeper.study.space import requirements
from sweeper.study.spec import StudySpec
from sweeper.tasks.facts import OPTIMIZER, CodeFacts, CodeRequest
from sweeper.trainers.channel import ChannelClosed
from sweeper.trainers.client import TrainerServer, start_loaded_server

# Loads the code of a study and builds its task once; raises `SweeperError` if that fails.
Inspect = Callable[[CodeRequest], CodeFacts]


def code_request(spec: StudySpec, folder: Path) -> CodeRequest:
    """Return the code that a study uses; `folder` contains its files."""
    return CodeRequest(
        use=spec.task.use,
        folder=str(folder),
        options=spec.task.options,
        schedules=[name for name in spec.space.schedule if ":" in name or name not in BUILT_IN],
        values={name: _values(values) for name, values in _hyperparameters(spec.space).items()},
        contexts={name: list(_contexts(spec.space, name)) for name in _hyperparameters(spec.space)},
        device=spec.task.device,
        threads=spec.task.threads,
        seed=spec.study.seed,
        script=_script(spec, folder) if spec.task.is_script else None,
        precision=spec.task.precision,
        ranks=ranks_of(spec),
    )


def _script(spec: StudySpec, folder: Path) -> dict[str, Any]:
    """Return the arguments of `ScriptConfig` for a study."""
    task = spec.task
    keys = task.model_dump(mode="json", include=set(ScriptKeys.model_fields))
    return {
        "folder": str(folder),
        "command": list(task.command or DEFAULT_COMMAND),
        **{key: value for key, value in keys.items() if key != "command"},
        "threads": task.threads,
        "options": task.options,
        "calibrates": spec.objective.metric == "nll_calibrated",
    }


def checked_code(spec: StudySpec, folder: Path, inspect: Inspect) -> CodeFacts:
    """Load and check the code of a study.

    Raises `SweeperError`, with one line per wrong key, if the code cannot be loaded, does not
    accept a hyperparameter of the space, or could not run any trial.
    """
    facts = inspect(code_request(spec, folder))
    if facts.is_task and ranks_of(spec) > 1:
        raise SweeperError(
            f"resources.{'ranks' if spec.resources.ranks else 'gpus'}: {spec.task.use} is a task, "
            "and the built-in loop trains in one process and on one GPU, but this is "
            f"{ranks_of(spec)}; set it to 1, or write a training function"
        )
    lines = [
        line
        for name, dimension in _hyperparameters(spec.space).items()
        for line in _hyperparameter_errors(name, dimension, facts)
    ]
    optimizers = spec.space.extras.get(OPTIMIZER, ())
    if any(" has no " in line for line in lines) and optimizers:
        lines.append(
            f"space.{OPTIMIZER}: a setting that only some optimizers have needs a condition, as "
            f'when = {{ {OPTIMIZER} = "sgd" }}'
        )
    if lines:
        raise SweeperError("\n".join(lines))
    return facts


def inspect_code(request: CodeRequest) -> CodeFacts:
    """Load code and build its task once; user code is loaded in a separate process."""
    if not request.has_files:
        return inspect_here(request)
    server, plain_facts = start_loaded_server(vars(request))
    try:
        facts = CodeFacts.from_dict(plain_facts)
        problem = _problem(server)
    finally:
        server.close()
    if problem:
        raise SweeperError(problem)
    return facts


def inspect_here(request: CodeRequest) -> CodeFacts:
    """Load code and build its task once, in this process."""
    from sweeper.tasks.program import program_of  # lazy: it imports torch

    program = program_of(request)
    program.check()
    return program.facts


def _problem(server: TrainerServer) -> str:
    """Let a trainer build the task; return why no trial could run, "" if one could."""
    with tempfile.TemporaryDirectory(prefix="sweeper-") as folder:
        output = Path(folder, "output")
        slot = server.slot()
        try:
            slot.start(output)
            assert slot.trainer is not None
            slot.trainer.send({"do": "check"})
            problem: str = slot.trainer.receive()["problem"]
        except ChannelClosed:
            printed = (
                output.read_text(encoding="utf-8", errors="replace") if output.exists() else ""
            )
            last = printed.strip().splitlines()[-1:] or ["nothing"]
            return f"task.use: the process that built the task died; its last output: {last[0]}"
        finally:
            slot.close()
    return problem


def _hyperparameters(space: Space) -> dict[str, Any]:
    """Return the searched and the fixed hyperparameters of the task."""
    return dict(sorted({**space.extras, **space.fixed}.items()))


def _values(values: Any) -> list[Any]:
    if isinstance(values, Range):
        return [values.low, values.high]
    return list(values) if isinstance(values, tuple) else [values]


def _contexts(space: Space, name: str) -> Iterator[dict[str, Any]]:
    """Yield the other hyperparameters on which it depends whether a task accepts a value.

    These are the fixed ones and each optimizer that the hyperparameter is used with.
    """
    fixed = {other: value for other, value in space.fixed.items() if other != name}
    optimizers = () if name == OPTIMIZER else space.extras.get(OPTIMIZER, ())
    if isinstance(optimizers, Range) or not optimizers:
        yield fixed
        return
    required = [allowed for parent, allowed in requirements(space, name) if parent == OPTIMIZER]
    for optimizer in optimizers:
        if all(optimizer in allowed for allowed in required):
            yield {**fixed, OPTIMIZER: optimizer}


def _hyperparameter_errors(name: str, dimension: Any, code: CodeFacts) -> Iterator[str]:
    """Yield an error message for each problem of a hyperparameter of the space."""
    if code.accepts is not None and name not in code.accepts:
        allowed = [*SMOOTHING_KEYS, *code.accepts]
        near = suggestion(name, allowed)
        yield (
            f"space.{name}: unknown hyperparameter of the task{near}; allowed: {', '.join(allowed)}"
        )
    elif code.accepts is None and get_close_matches(name, SMOOTHING_KEYS, cutoff=0.85):
        yield (
            f"space.{name}: unknown key{suggestion(name, SMOOTHING_KEYS)}; if it is a "
            "hyperparameter "
            "of your training function, choose a less similar name"
        )
    for index, error in code.refused.get(name, ()):
        value = f": {_values(dimension)[index]!r}" if isinstance(dimension, tuple) else ""
        yield f"space.{name}{value}: {error}"
