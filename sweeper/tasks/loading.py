"""Load the task or the training function that a study file names."""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any, get_args

from sweeper.errors import SweeperError, suggestion
from sweeper.tasks import BUILT_IN_TASKS
from sweeper.tasks.facts import MAIN
from sweeper.tasks.given import not_here, setup_of
from sweeper.tasks.importing import StudyModules, error_location, exception_text
from sweeper.training.packed.pack import train_or_resume
from sweeper.training.run import Trainer
from sweeper.training.task import Task


@dataclass(frozen=True)
class LoadedTask:
    """A loaded task or training function.

    `task` is None for a custom training function. `source` is its file, None for a built-in task.
    `accepts` are the hyperparameters that can be searched, None for any.
    """

    trainer: Trainer
    task: Task | None
    source: Path | None
    accepts: frozenset[str] | None


def load_task(
    use: str, options: Mapping[str, Any], modules: StudyModules, pickled: str = ""
) -> LoadedTask:
    """Load a built-in task by name, or "file.py:name" from the folder of `modules`.

    `pickled` is the path of the pickled object if `use` starts with "__main__:".

    The named object is a Task, a function that takes the options as keyword arguments and returns a
    Task, or a training function `train(run)`, which calls `run.report`, yields evaluations or
    returns an iterator of them. A training function is called with the options that its signature
    names; all options are in `run.options`. If a parameter is annotated as a `Path`, its option is
    converted to a `Path` relative to the folder. If a function `setup(options)` is next to a
    training function, it is called once. Raises SweeperError, with a message of one line, if the
    name, the file or the options are invalid.
    """
    target, source = _find(use, modules, pickled)
    given, options = options, _with_paths(target, options, modules.folder)
    if _is_training_function(target):
        function = _with_options(use, target, options)
        _set_up(use, target, given)
        return LoadedTask(function, None, source, accepts=None)
    task = _make_task(use, target, options)
    return LoadedTask(partial(train_or_resume, task), task, source, task.accepts())


def with_precision(loaded: LoadedTask, use: str, precision: str) -> LoadedTask:
    """Return a loaded task with another precision; raises SweeperError for a training function."""
    if loaded.task is None:
        raise SweeperError(
            f"task.precision: only tasks of the built-in loop have a precision, and {use} is a "
            "training function; remove the key, and use torch.autocast in the function"
        )
    task = replace(loaded.task, precision=precision)
    return replace(loaded, trainer=partial(train_or_resume, task), task=task)


def load_function(reference: str, modules: StudyModules) -> Callable[..., Any]:
    """Return the function of a reference "file.py:function" in the folder of `modules`.

    Raises SweeperError if the file or the function does not exist or cannot be imported.
    """
    target, _ = modules.load(reference)
    if not callable(target):
        raise SweeperError(f"{reference} must be a function, got {type(target).__name__}")
    function: Callable[..., Any] = target
    return function


def _find(use: str, modules: StudyModules, pickled: str) -> tuple[Any, Path | None]:
    if use.startswith(MAIN):
        if not pickled:
            raise SweeperError(not_here(use))
        return modules.load_pickled(use, pickled), None
    if ":" in use or use.endswith(".py"):
        return modules.load(use)
    if use not in BUILT_IN_TASKS:
        raise SweeperError(
            f"task.use: unknown task {use!r}{suggestion(use, BUILT_IN_TASKS)}; "
            f'allowed: {", ".join(BUILT_IN_TASKS)}, or "file.py:name" or "module:name"'
        )
    return BUILT_IN_TASKS[use].factory(), None


# ---- the task ----------------------------------------------------------------------------


def _make_task(use: str, target: object, options: Mapping[str, Any]) -> Task:
    if isinstance(target, Task):
        _check_no_options(use, options)
        return target
    if not isinstance(target, FunctionType | partial):
        raise SweeperError(f"task.use: {use} is {_kind(target)}; {_ALLOWED}")
    _check_options(use, inspect.signature(target), options)
    task = _call(target, options)
    if not isinstance(task, Task):
        raise SweeperError(f"task.use: {use} returned {type(task).__name__}; {_ALLOWED}")
    return task


_ALLOWED = (
    "allowed: a Task, a function that returns a Task, or a training function train(run), whose "
    "first parameter must be named run"
)


def _kind(target: object) -> str:
    if isinstance(target, type):
        return f"the class {target.__name__}"
    return f"of type {type(target).__name__}"


def _is_training_function(target: object) -> bool:
    """Return whether it is a generator function or a function whose first parameter is `run`."""
    if inspect.isgeneratorfunction(target):
        return True
    if not isinstance(target, FunctionType):
        return False
    return [*inspect.signature(target).parameters][:1] == ["run"]


def _with_options(
    use: str, function: Callable[..., Any], options: Mapping[str, Any]
) -> Callable[..., Any]:
    """Bind the options that the signature of a training function names."""
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise SweeperError(
            f"task.use: {use} is an async function; a training function must be a normal function"
        )
    signature = inspect.signature(function)
    others = [*signature.parameters.values()][1:]
    named = {p.name for p in others if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in others)
    if named and not takes_any:
        unknown = next((key for key in options if key not in named), None)
        if unknown is not None:
            raise SweeperError(
                f"task.options.{unknown}: {use} has no such option{suggestion(unknown, named)}; "
                f"allowed: {', '.join(sorted(named))}"
            )
    bound = {key: value for key, value in options.items() if takes_any or key in named}
    try:
        signature.bind(object(), **bound)
    except TypeError as error:
        raise SweeperError(
            f"task.use: {use} is a training function, but cannot be called as train(run): {error}; "
            "its parameters must be run (a TrainingRun) and options"
        ) from None
    return partial(function, **bound) if bound else function


def _set_up(use: str, function: object, options: Mapping[str, Any]) -> None:
    """Call the function `setup(options)` next to a training function, if there is one."""
    setup = setup_of(function)
    if setup is None:
        return
    try:
        setup(dict(options))
    except SweeperError:
        raise
    except (Exception, SystemExit) as error:
        raise SweeperError(
            f"task.use: setup of {use} failed: {error_location(error)}{exception_text(error)}"
        ) from error


def _with_paths(target: object, options: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """Convert options whose parameter is annotated as a `Path` to absolute paths."""
    if not options or not isinstance(target, FunctionType | partial):
        return options
    try:
        parameters = inspect.signature(target, eval_str=True).parameters
    except Exception:  # a string annotation that cannot be evaluated
        parameters = inspect.signature(target).parameters
    paths = {name for name, parameter in parameters.items() if _is_path(parameter.annotation)}
    return {key: _path(value, folder) if key in paths else value for key, value in options.items()}


def _is_path(annotation: object) -> bool:
    return annotation is Path or any(map(_is_path, get_args(annotation)))


def _path(value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [_path(item, folder) for item in value]
    return folder / value if isinstance(value, str) else value


def _check_no_options(use: str, options: Mapping[str, Any]) -> None:
    if options:
        raise SweeperError(
            f"task.options.{next(iter(options))}: {use} is a Task and has no options; remove "
            "them, or use a function that takes them and returns a Task"
        )


def _check_options(use: str, signature: inspect.Signature, options: Mapping[str, Any]) -> None:
    parameters = signature.parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    names = [p.name for p in named]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for key in options:
        if key not in names and not takes_any:
            raise SweeperError(
                f"task.options.{key}: {use} has no such option{suggestion(key, names)}; "
                f"allowed: {', '.join(names) or 'none'}"
            )
    missing = [p.name for p in named if p.default is p.empty and p.name not in options]
    if missing:
        raise SweeperError(
            f"task.options: {use} requires {', '.join(missing)}; set every option without a "
            "default (if this is a training function, its first parameter must be run, or it must "
            "yield evaluations)"
        )


def _call(factory: Callable[..., Any], options: Mapping[str, Any]) -> object:
    try:
        return factory(**options)
    except SweeperError:
        raise
    except Exception as error:
        text = (
            exception_text(error)
            if isinstance(error, ValueError)
            else f"{error_location(error)}{exception_text(error)}"
        )
        if isinstance(error, NameError) and error.name == "run":
            text += "; a training function must have the parameter run: def train(run)"
        raise SweeperError(f"{_key_of(text, options)}: {text}") from error


def _key_of(text: str, options: Mapping[str, Any]) -> str:
    words = re.findall(r"\w+", text)
    named = [key for key in options if key in words] or list(options)
    return f"task.options.{named[0]}" if len(named) == 1 else "task.options"
