"""Functions and tasks that are given to `sweeper.launch` as Python objects.

An object of an importable module is named by a reference and imported by the trainers. An object of
a notebook, of the script that calls `launch` or of another function is pickled for the trainers.
"""

import inspect
import os
import pickle
import sys
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any
from weakref import WeakValueDictionary

from sweeper.errors import SweeperError
from sweeper.tasks.digest import source_digest
from sweeper.tasks.facts import MAIN


@dataclass(frozen=True, eq=False)
class GivenObject:
    """A training function or a task; `use` is its reference, and `folder` contains its files.

    `pickled` is None if trainers can import the object.
    """

    use: str
    folder: Path
    pickled: "PickleFile | None" = None

    @property
    def name(self) -> str:
        """The name of the object in its module."""
        return self.use.rpartition(":")[2]

    @property
    def path(self) -> str:
        """The path of the pickle, "" if trainers can import the object."""
        return "" if self.pickled is None else self.pickled.path


class PickleFile:
    """A pickle that other processes of this machine can read at `path` while this object lives.

    On Linux it is in memory only; elsewhere it is a temporary file. `given` and `digest` are the
    pickled object and the digest of its source.
    """

    def __init__(self, content: bytes, given: object, digest: str) -> None:
        self.given, self.digest = given, digest
        in_memory = hasattr(os, "memfd_create")
        if in_memory:
            descriptor = os.memfd_create("sweeper")
            self.path = f"/proc/{os.getpid()}/fd/{descriptor}"
            weakref.finalize(self, os.close, descriptor)
        else:
            descriptor, self.path = tempfile.mkstemp(prefix="sweeper-")
            weakref.finalize(self, os.unlink, self.path)
        with open(descriptor, "wb", closefd=not in_memory) as stream:
            stream.write(content)
        _own_files[self.path] = self


_own_files: WeakValueDictionary[str, PickleFile] = WeakValueDictionary()
# The objects that this process has launched, by the digest of their source. A name would not do:
# the main module may have another object with the name of a function of a function.
_launched: dict[str, object] = {}


def given_object(given: object) -> GivenObject:
    """Return the reference of a function or a `Task`, with its pickle if it cannot be imported.

    Raises `SweeperError` if it is anything else or cannot be pickled.
    """
    from sweeper.training.task import Task  # imported here because it imports torch

    if not isinstance(given, FunctionType | Task):
        raise SweeperError(
            f"launch: {_described(given)} was given; allowed: the path of a study file, the name "
            "of an example study, a function or a Task"
        )
    place = _place_of(given)
    if place is not None and place[0].__name__ != "__main__":
        return GivenObject(*_reference(*place))
    name = given.__name__ if isinstance(given, FunctionType) else "task"
    use = MAIN + (name if place is None else place[1]).replace("<lambda>", "function")
    return GivenObject(use, _main_folder(), _pickled(use, given))


def keep(given: GivenObject | None) -> None:
    """Keep an object that is launched, for `given_again` in this process."""
    if given is not None and given.pickled is not None:
        _launched[given.pickled.digest] = given.pickled.given


def given_again(use: str, sources: Mapping[str, str]) -> GivenObject | None:
    """Return the object that a study was launched with; None if trainers can import it.

    `sources` are the digests of the study's code. The object was launched in this process, or the
    main module has it with the same source. Raises `SweeperError` if neither is the case.
    """
    if not use.startswith(MAIN):
        return None
    digest, name = sources.get(use, ""), use.removeprefix(MAIN)
    named = getattr(sys.modules["__main__"], name, None)
    found = [known for known in (_launched.get(digest), named) if known is not None]
    for known in found:
        try:
            given = given_object(known)
        except SweeperError:  # another object with this name, or it uses what cannot be pickled
            continue
        if given.pickled is not None and given.pickled.digest == digest:
            return GivenObject(use, given.folder, given.pickled)
    raise SweeperError(_changed(name) if found else not_here(use))


def not_here(use: str) -> str:
    """Return the error for a pickled object that is not defined in this process."""
    name = use.removeprefix(MAIN)
    return (
        f"task.use: {name} was defined in a notebook, a script or another function, and its code "
        f"is not stored; define it again and call sweeper.launch({name}, ...) there, or move it "
        "to a module"
    )


def _changed(name: str) -> str:
    return (
        f"task.use: {name} is not the object that was launched, or something that it uses has "
        "changed since; define it as it was, or launch it under another name"
    )


def _described(given: object) -> str:
    if isinstance(given, partial):
        return "a partial function (pass the function, and its options with options={...})"
    return f"the class {given.__name__}" if isinstance(given, type) else f"{type(given).__name__}"


# ---- importable objects ------------------------------------------------------------------


def _place_of(given: Any) -> tuple[ModuleType, str] | None:
    """Return the module and the name with which an object can be found, or None."""
    if isinstance(given, FunctionType):
        module = sys.modules.get(given.__module__)
        found = getattr(module, given.__name__, None) is given
        return (module, given.__name__) if module is not None and found else None
    # A task does not know its module. It may also have been imported into others.
    likely = {getattr(getattr(given, field.name), "__module__", "") for field in fields(given)}
    modules = [module for module in sys.modules.values() if _has_python_file(module)]
    modules.sort(key=lambda module: (module.__name__ not in likely, module.__name__))
    for module in (*modules, sys.modules["__main__"]):
        for name, value in vars(module).copy().items():
            if value is given:
                return module, name
    return None


def _has_python_file(module: Any) -> bool:
    file = vars(module).get("__file__") if isinstance(module, ModuleType) else None
    return isinstance(file, str) and file.endswith(".py") and module.__name__ != "__main__"


def _reference(module: ModuleType, name: str) -> tuple[str, Path]:
    """Return the reference of an object of a module, and the folder that contains the module."""
    file = getattr(module, "__file__", None)
    if file is None or not file.endswith(".py"):
        raise SweeperError(
            f"launch: {name} is in the module {module.__name__!r}, which has no Python file; move "
            "it to a module with a file"
        )
    top = sys.modules.get(module.__name__.partition(".")[0], module)
    top_file = getattr(top, "__file__", None)
    levels = module.__name__.count(".")
    if top_file is not None:
        path = Path(top_file)
        root = path.parent.parent if path.name == "__init__.py" else path.parent
    else:  # a package without __init__.py
        path = Path(file)
        root = path.parents[levels + (path.name == "__init__.py")]
    return f"{module.__name__}:{name}", root.resolve()


def _main_folder() -> Path:
    """Return the folder of the script that runs, or the current folder in a notebook."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    return Path(file).resolve().parent if file and Path(file).is_file() else Path.cwd()


# ---- pickles -----------------------------------------------------------------------------


def _pickled(use: str, given: Any) -> PickleFile:
    """Return the pickle of an object and of the function `setup` next to it.

    It begins with the digest of their source and the folders from which modules are imported.
    """
    import cloudpickle

    setup = setup_of(given)
    folders = [os.path.abspath(folder) for folder in sys.path]
    try:
        digest = source_digest(given, setup)  # its errors name the variable
        content = cloudpickle.dumps((given, setup))
    except Exception as error:
        reason = " ".join(str(error).split())
        if not isinstance(error, SweeperError):
            reason = f"{type(error).__name__}: {reason}"
        raise SweeperError(
            f"launch: {use.removeprefix(MAIN)} cannot be sent to a training process: {reason}; "
            "create such objects inside the function, or move the function to a module"
        ) from error
    return PickleFile(pickle.dumps((digest, folders)) + content, given, digest)


def load_pickled(path: str) -> tuple[object, str]:
    """Return a pickled object and the digest of its source.

    The import path of the launch is added to that of this process. Raises OSError if the launch has
    ended, and the exceptions of imports.
    """
    own = _own_files.get(path)
    if own is not None:  # unpickling a class here would change the original
        return own.given, own.digest
    with open(path, "rb") as stream:
        digest, folders = pickle.load(stream)
        sys.path.extend(folder for folder in folders if folder not in sys.path)
        given, setup = pickle.load(stream)
    if setup is not None:
        given.__globals__.setdefault("setup", setup)
    return given, digest


def setup_of(function: object) -> FunctionType | None:
    """Return the function `setup(options)` that is defined next to a training function, if any."""
    if not isinstance(function, FunctionType):
        return None
    setup = function.__globals__.get("setup")
    if not isinstance(setup, FunctionType) or setup.__globals__ is not function.__globals__:
        return None
    return setup if [*inspect.signature(setup).parameters] == ["options"] else None
