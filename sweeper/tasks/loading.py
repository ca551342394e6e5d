"""From the name in a study file to a task or a training loop that can be run."""

import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from sweeper.errors import SweeperError, nearest
from sweeper.tasks import READY
from sweeper.training.packed.pack import train_as_begun
from sweeper.training.run import Trainer
from sweeper.training.task import Task

_FOLDERS: set[Path] = set()  # where files have been imported from


@dataclass(frozen=True)
class LoadedTask:
    """What a study trains: the loop, and what is known about it.

    `task` is None for a training loop of the user's own, `source` None for a ready task.
    `accepts` are the hyperparameters that can be searched; None means any.
    """

    trainer: Trainer
    task: Task | None
    source: Path | None
    accepts: frozenset[str] | None


def load_task(use: str, options: Mapping[str, Any], folder: Path) -> LoadedTask:
    """Return the task of a ready name, or of "file.py:name" relative to `folder`.

    The named object is a Task, a function that takes the options as keywords and returns one,
    or a training loop `train(run)`, which yields evaluations or returns an iterator of them, and
    finds the options in `run.options`. Raises SweeperError, in one line, for everything that is
    wrong with the name, file or options.
    """
    found, source = _find(use, folder)
    if _is_loop(found):
        _check_takes_run(use, found)
        return LoadedTask(found, task=None, source=source, accepts=None)
    task = _make_task(use, found, options)
    return LoadedTask(partial(train_as_begun, task), task, source, task.accepts())


def load_function(reference: str, folder: Path) -> tuple[Callable[..., Any], Path]:
    """Return the function that "file.py:function" names, relative to `folder`, and its file.

    Raises SweeperError where there is no such file or function, or it does not import.
    """
    found, path = _load_object(reference, folder)
    if not callable(found):
        raise SweeperError(f"{reference} is of type {type(found).__name__}; name a function")
    return found, path


def _find(use: str, folder: Path) -> tuple[Any, Path | None]:
    if ":" in use or use.endswith(".py"):
        return _load_object(use, folder)
    if use not in READY:
        raise SweeperError(
            f"task.use: no ready task {use!r}{nearest(use, READY)}; "
            f'allowed: {", ".join(READY)}, or "file.py:name" beside the study file'
        )
    return READY[use].factory(), None


# ---- the task ----------------------------------------------------------------------------


def _make_task(use: str, found: object, options: Mapping[str, Any]) -> Task:
    if isinstance(found, Task):
        _check_no_options(use, options)
        return found
    if not isinstance(found, FunctionType | partial):
        raise SweeperError(f"task.use: {use} is {_kind(found)}; {_ALLOWED}")
    _check_options(use, inspect.signature(found), options)
    task = _call(found, options)
    if not isinstance(task, Task):
        raise SweeperError(f"task.use: {use} returned {type(task).__name__}; {_ALLOWED}")
    return task


_ALLOWED = "allowed: a Task, a function that returns one, or a loop train(run) that yields"


def _kind(found: object) -> str:
    return found.__name__ if isinstance(found, type) else f"of type {type(found).__name__}"


def _is_loop(found: object) -> bool:
    """Return whether it is a generator function, or a function whose first parameter is `run`."""
    if inspect.isgeneratorfunction(found):
        return True
    return isinstance(found, FunctionType) and [*inspect.signature(found).parameters][:1] == ["run"]


def _check_takes_run(use: str, loop: Callable[..., Any]) -> None:
    try:
        inspect.signature(loop).bind(object())
    except TypeError as error:
        raise SweeperError(
            f"task.use: {use} is a training loop, but it cannot be called as "
            f"train(run): {error}; take the one argument run, a TrainingRun"
        ) from None


def _check_no_options(use: str, options: Mapping[str, Any]) -> None:
    if options:
        raise SweeperError(
            f"task.options.{next(iter(options))}: {use} is a Task and takes no options; drop "
            "them, or name a function that takes them and returns a Task"
        )


def _check_options(use: str, signature: inspect.Signature, options: Mapping[str, Any]) -> None:
    parameters = signature.parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    names = [p.name for p in named]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for key in options:
        if key not in names and not takes_any:
            raise SweeperError(
                f"task.options.{key}: {use} takes no such option{nearest(key, names)}; "
                f"allowed: {', '.join(names) or 'none'}"
            )
    missing = [p.name for p in named if p.default is p.empty and p.name not in options]
    if missing:
        raise SweeperError(
            f"task.options: {use} needs {', '.join(missing)}; give every option without a "
            "default (a training loop must yield its evaluations)"
        )


def _call(factory: Callable[..., Any], options: Mapping[str, Any]) -> object:
    try:
        return factory(**options)
    except SweeperError:
        raise
    except Exception as error:
        text = _text(error) if isinstance(error, ValueError) else f"{_place(error)}{_text(error)}"
        raise SweeperError(f"{_key_of(text, options)}: {text}") from error


def _key_of(text: str, options: Mapping[str, Any]) -> str:
    words = re.findall(r"\w+", text)
    named = [key for key in options if key in words] or list(options)
    return f"task.options.{named[0]}" if len(named) == 1 else "task.options"


# ---- the file ----------------------------------------------------------------------------


def _load_object(reference: str, folder: Path) -> tuple[Any, Path]:
    file, _, name = reference.rpartition(":")
    if not file.endswith(".py") or not name:
        raise SweeperError(f'{reference!r} names no object in a file; write "file.py:name"')
    path = (folder / file).resolve()
    if not path.is_file():
        near = nearest(path.name, [p.name for p in path.parent.glob("*.py")])
        raise SweeperError(f"{reference}: there is no file {path}{near}")
    module = _import_file(path)
    if not hasattr(module, name):
        names = [n for n in vars(module) if not n.startswith("_")]
        raise SweeperError(f"{reference}: {path} has no {name!r}{nearest(name, names)}")
    return getattr(module, name), path


def _import_file(path: Path) -> ModuleType:
    name = f"sweeper_file_{path.stem}_{blake2b(bytes(path), digest_size=6).hexdigest()}"
    module = sys.modules[name] = ModuleType(name)
    module.__file__ = str(path)
    try:
        with _importing_from(path.parent):
            # not by a loader: its cached byte code can be older than the bytes that are hashed
            exec(compile(path.read_bytes(), path, "exec", dont_inherit=True), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise SweeperError(f"{_place(error, path)}{_text(error)}") from error
    return module


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """Let a file import what lies beside it: first now, after everything else later."""
    _forget_namesakes(folder)
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)
        _FOLDERS.add(folder)
        if entry not in sys.path:
            sys.path.append(entry)


def _forget_namesakes(folder: Path) -> None:
    """Forget modules of other studies' folders that share a name with one of this folder.

    Two studies may each have a model.py; a worker that serves both must not mix them up.
    """
    beside = {p.stem for p in folder.glob("*.py")} | {
        p.parent.name for p in folder.glob("*/__init__.py")
    }
    for name in [n for n in sys.modules if n.partition(".")[0] in beside]:
        file = getattr(sys.modules[name], "__file__", None)
        if file and any(Path(file).is_relative_to(other) for other in _FOLDERS - {folder}):
            del sys.modules[name]


def _text(error: BaseException) -> str:
    reason = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
    if isinstance(error, ValueError):
        return reason
    return f"{type(error).__name__}: {reason}"


def _place(error: BaseException, path: Path | None = None) -> str:
    """Return "file:line: " of the user's own code where an error came from."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: "
    frames = traceback.extract_tb(error.__traceback__)
    mine = [f for f in frames if path is None or Path(f.filename) == path] or frames
    return f"{mine[-1].filename}:{mine[-1].lineno}: "
