"""The keys of [task] for a script: a command that trains in a process of its own."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from sweeper import limits
from sweeper.errors import suggestion
from sweeper.smoothing.names import BUILT_IN
from sweeper.study.schema_errors import toml_value
from sweeper.study.section import FEW_KEYS, Reference, Section
from sweeper.training.messages import Grade
from sweeper.training.scripts.config import MACROS, SMOOTHING_NAMES, macros_of

if TYPE_CHECKING:
    from sweeper.study.dimensions import Space
    from sweeper.study.spec import TaskSection

Argument = Annotated[str, Field(max_length=limits.ARGUMENT_LENGTH)]

DEFAULT_COMMAND: Final = ("${interpreter}", "${program}", "${args}")


class ScriptKeys(Section):
    """The keys that only a script uses. They are not stored if they are not set."""

    program: Annotated[
        Reference, Field(description="A script relative to this file, for example train.py.")
    ] = ""
    command: Annotated[
        tuple[Argument, ...],
        Field(
            strict=False,
            max_length=limits.ARGUMENTS,
            description="The command that runs the script, with macros such as ${program} and "
            "${args}; default: the Python interpreter, the program and its arguments.",
        ),
    ] = ()
    flags: Annotated[
        dict[str, Argument],
        Field(
            description="Flags by the name of their value, for example epsilon = '--epsilon'; "
            "hyperparameters without a flag are passed as --NAME=VALUE.",
            json_schema_extra=FEW_KEYS,
        ),
    ] = {}  # noqa: RUF012  (pydantic copies it)
    loss: Annotated[
        Literal["sweeper"] | None,
        Field(description="sweeper: the script trains with sweeper.current_run().loss()."),
    ] = None
    evidence: Annotated[
        Grade | None,
        Field(
            description="What the script delivers: scored (logits and labels), per-example (NLL "
            "and correctness of each example) or self-reported (numbers on stdout, without a "
            "verdict); default: logits or files if a trial delivers them, else what it prints."
        ),
    ] = None
    pattern: Annotated[
        str | None,
        Field(
            max_length=limits.PATTERN_LENGTH,
            description="Regular expression with one group that finds the NLL in a line of "
            "stdout, instead of JSON lines; the evidence is then self-reported.",
        ),
    ] = None
    classes: Annotated[
        int | None,
        Field(
            ge=2,
            le=limits.CLASSES,
            description="Number of classes, which label_smoothing (torch's convention) depends on.",
        ),
    ] = None

    @property
    def is_script(self) -> bool:
        """Whether the task is a script."""
        return bool(self.program or self.command)

    @model_serializer(mode="wrap")
    def _without_unset_keys(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # So that studies without these keys keep the identity that earlier versions gave them.
        fields = {*ScriptKeys.model_fields, "precision"}
        plain: dict[str, Any] = dump(self)
        return {key: value for key, value in plain.items() if key not in fields or value}


def script_problems(
    task: ScriptKeys, use: str, options: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """Return pairs of a key of [task] and what is wrong with it."""
    if not task.is_script:
        if not use:
            return [("use", "missing; set use for a task or a function, or program for a script")]
        extra = next((key for key in ScriptKeys.model_fields if getattr(task, key)), None)
        return [(extra, "requires program or command")] if extra else []
    problems = list[tuple[str, str]]()
    if use:
        problems.append(("use", "cannot be combined with program or command; remove one of them"))
    command = task.command or DEFAULT_COMMAND
    for index, argument in enumerate(command):
        problem = _argument_problem(argument, task.program)
        if problem:
            problems.append((f"command[{index}]", problem))
    problems += _label_smoothing_problems(task)
    problems += _pattern_problems(task)
    return problems


def _argument_problem(argument: str, program: str) -> str:
    for macro in macros_of(argument):
        name = macro.partition(":")[0]
        if name not in MACROS:
            allowed = ", ".join(f"${{{known}}}" for known in MACROS)
            return f"unknown macro ${{{macro}}}{suggestion(name, MACROS)}; allowed: {allowed}"
        if name in ("args", "args_no_hyphens") and argument != f"${{{macro}}}":
            return f"${{{macro}}} stands for several arguments, so it must be an item of its own"
        if name == "program" and not program:
            return "${program} requires task.program"
    return ""


def _label_smoothing_problems(task: ScriptKeys) -> list[tuple[str, str]]:
    if "label_smoothing" in task.flags and task.classes is None:
        return [("classes", "missing; flags.label_smoothing depends on the number of classes")]
    return []


def _pattern_problems(task: ScriptKeys) -> list[tuple[str, str]]:
    if task.pattern is None:
        return []
    if task.evidence not in (None, "self-reported"):
        return [("pattern", f"cannot be combined with evidence = {toml_value(task.evidence)}")]
    try:
        groups = re.compile(task.pattern).groups
    except (re.error, OverflowError) as error:
        return [("pattern", f"not a regular expression: {error}")]
    if groups != 1:
        return [("pattern", f"must have one group, which matches the NLL; it has {groups}")]
    return []


def with_schedule(tables: Any) -> Any:
    """Return the tables of a study file, with `space.schedule` of a script that sets none.

    A script that gets ε as a number cannot change it during training.
    """
    if not isinstance(tables, Mapping) or not isinstance(task := tables.get("task"), Mapping):
        return tables
    space = tables.get("space", {})
    is_script = bool(task.get("program") or task.get("command"))
    if not is_script or task.get("loss") or not isinstance(space, Mapping) or "schedule" in space:
        return tables
    return {**tables, "space": {**space, "schedule": ["fixed"]}}


def space_problems(task: "TaskSection", space: "Space") -> list[tuple[str, str]]:
    """Return pairs of a key of the study file and what is wrong with it, for a script."""
    if not task.is_script:
        return []
    problems = list[tuple[str, str]]()
    others = [name for name in space.schedule if name != "fixed"]
    if others and task.loss is None:
        problems.append(
            (
                "space.schedule",
                f"a script that gets ε as a number can train only the schedule fixed, got "
                f'{others[0]!r}; set task.loss = "sweeper" if the script uses '
                "sweeper.current_run().loss()",
            )
        )
    custom = [name for name in others if name not in BUILT_IN]
    if custom and task.loss is not None:
        problems.append(
            ("space.schedule", f"a script cannot use a schedule of a file: {custom[0]!r}")
        )
    hyperparameters = {**space.extras, **space.fixed}
    return problems + flag_problems(task, hyperparameters) + _classes_problems(task, space)


def flag_problems(task: "TaskSection", extras: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what is wrong with [task.flags]; each value must have a name and a flag of its own."""
    problems = list[tuple[str, str]]()
    known = (*SMOOTHING_NAMES, *extras, *task.options)
    taken = {f"--{name}": name for name in (*extras, *task.options) if name not in task.flags}
    for name, flag in task.flags.items():
        other = "an option" if name in task.options else "a hyperparameter of [space]"
        text = ""
        if name not in known:
            text = (
                f"is neither a hyperparameter of [space] nor an option{suggestion(name, known)}; "
                f"allowed: {', '.join(known)}"
            )
        elif name in SMOOTHING_NAMES and (name in task.options or name in extras):
            text = (
                f"{name} is also {other}; give that another name, for example script_{name}, and "
                f'set flags.script_{name} = "--{name}"'
            )
        elif not flag.strip("- \t\r\n"):
            text = f"must be a flag such as --{name}, got {toml_value(flag)}"
        elif flag in taken:
            text = f"{toml_value(flag)} already passes {taken[flag]}; choose another flag"
        taken.setdefault(flag, name)
        if text:
            problems.append((f"task.flags.{name}", text))
    clash = next((name for name in task.options if name in extras), None)
    if clash is not None:
        problems.append((f"task.options.{clash}", "is also a hyperparameter of [space]"))
    return problems


def _classes_problems(task: "TaskSection", space: "Space") -> list[tuple[str, str]]:
    """Return a problem if ε in torch's convention could exceed 1."""
    passed = task.loss is None or "label_smoothing" in task.flags
    if task.classes is None or not passed:
        return []
    most, high = (task.classes - 1) / task.classes, space.epsilon.high
    if high <= most:
        return []
    return [
        (
            "space.epsilon.high",
            f"torch's label_smoothing would exceed 1; with {task.classes} classes, high must be at "
            f"most {most:.6g}, got {high:g}",
        )
    ]
