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
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from textwrap import dedent
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Final
from weakref import WeakValueDictionary

from sweeper.errors import SweeperError
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


def given_again(use: str) -> GivenObject:
    """Return the object of a reference that starts with `MAIN`, if it is defined in this process.

    Raises `SweeperError` if it is not.
    """
    name = use.removeprefix(MAIN)
    try:
        given = given_object(getattr(sys.modules["__main__"], name))
    except (AttributeError, SweeperError):
        raise SweeperError(not_here(use)) from None
    return GivenObject(use, given.folder, given.pickled)


def not_here(use: str) -> str:
    """Return the error for a pickled object that is not defined in this process."""
    name = use.removeprefix(MAIN)
    return (
        f"task.use: {name} was defined in a notebook, a script or another function, and its code "
        f"is not stored; define it again and call sweeper.launch({name}, ...) there, or move it "
        "to a module"
    )


def _described(given: object) -> str:
    if isinstance(given, partial):
        return "a partial function (pass the function, and its options with options={...})"
    return f"the class {given.__name__}" if isinstance(given, type) else f"{type(given).__name__}"


# ---- importable objects ------------------------------------------------------------------


def _place_of(given: object) -> tuple[ModuleType, str] | None:
    """Return the module and the name with which an object can be found, or None."""
    if isinstance(given, FunctionType):
        module = sys.modules.get(given.__module__)
        found = getattr(module, given.__name__, None) is given
        return (module, given.__name__) if module is not None and found else None
    names = {_module_of(value) for value in _fields(given)} | {"__main__"}
    for module in [sys.modules[name] for name in sorted(names) if name in sys.modules]:
        for name, value in vars(module).copy().items():
            if value is given:
                return module, name
    return None


def _fields(task: Any) -> list[Any]:
    return [getattr(task, field.name) for field in fields(task)]


def _module_of(value: object) -> str:
    return str(getattr(value, "__module__", None) or "")


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
        content = cloudpickle.dumps((given, setup))
    except Exception as error:
        raise SweeperError(
            f"launch: {use.removeprefix(MAIN)} cannot be sent to a training process: "
            f"{type(error).__name__}: {' '.join(str(error).split())}; create such objects inside "
            "the function, or move the function to a module"
        ) from error
    digest = source_digest(given, setup)
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


# ---- the digest of the source ------------------------------------------------------------


def source_digest(*given: object) -> str:
    """Return the SHA-256 of the source of functions and classes, and of what they use.

    It covers the functions and classes that cannot be imported, with the constants, arrays and
    tensors that they use, and the names of everything else.
    """
    walk = _Walk()
    for value in given:
        walk.add("", value)
    return sha256("\0".join(walk.parts).encode("utf-8", "surrogatepass")).hexdigest()


# Attributes of classes that depend on comments, line numbers or memory.
_UNUSED: Final = frozenset(
    ("__dict__", "__weakref__", "__doc__", "__firstlineno__", "__static_attributes__", "_abc_impl")
)


class _Walk:
    """Collects the sources of objects and of everything that they use."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self._seen: dict[int, object] = {}  # keeps the objects alive, so that ids are unique

    def add(self, name: str, value: Any) -> None:
        if isinstance(value, str | bytes | int | float | complex | None):
            self.parts.append(f"{name}={value!r}")
            return
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if isinstance(value, FunctionType | type) and _place_of_code(value) is None:
            self.parts.append(f"{name}={_source(value)}")
        else:
            self.parts.append(f"{name}={_outline(value)}")
            if isinstance(value, FunctionType | type | ModuleType):
                return
        for key, part in _uses(value):
            self.add(key, part)


def _place_of_code(value: FunctionType | type) -> str | None:
    """Return the name of an importable function or class, None if it is pickled by its code."""
    module = sys.modules.get(_module_of(value))
    if module is None or module.__name__ == "__main__":
        return None
    found: object = module
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    return f"{module.__name__}.{value.__qualname__}" if found is value else None


def _source(value: FunctionType | type) -> str:
    if isinstance(value, type):  # its source cannot be found in a notebook; its parts are added
        return value.__qualname__
    try:
        return dedent(inspect.getsource(value.__code__)).strip()
    except OSError:
        return _code_text(value.__code__)


def _code_text(code: CodeType) -> str:
    """Return a text of a code object, for functions without a source file."""
    constants = [
        _code_text(value)
        if isinstance(value, CodeType)
        # The order of a set differs from process to process.
        else repr(sorted(map(repr, value)) if isinstance(value, Set) else value)
        for value in code.co_consts
    ]
    return repr((code.co_name, code.co_code, code.co_names, constants))


def _outline(value: Any) -> str:
    """Return a text that is the same in every process: of an array its bytes, else its name."""
    if isinstance(value, FunctionType | type):
        return str(_place_of_code(value))
    if isinstance(value, ModuleType):
        return value.__name__
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if kind == "torch.Tensor":
        import torch

        tensor = value.detach().cpu().contiguous()
        value = tensor.flatten().view(torch.uint8).numpy() if tensor.numel() else tensor.numpy()
        kind = f"{kind}{tuple(tensor.shape)}{tensor.dtype}"
    if kind.startswith("torch.Tensor") or kind == "numpy.ndarray":
        shape = f"{value.shape}{value.dtype}"
        content = value.tobytes() if value.dtype != object else repr(value.tolist()).encode()
        return f"{kind}{shape}{sha256(content).hexdigest()}"
    return kind


def _uses(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the names and the objects that an object uses."""
    if isinstance(value, FunctionType):
        yield from _used_by_function(value)
    elif isinstance(value, type):
        yield from (("", base) for base in value.__bases__)
        yield from ((name, part) for name, part in vars(value).items() if name not in _UNUSED)
    elif isinstance(value, staticmethod | classmethod):
        yield "", value.__func__
    elif isinstance(value, property):
        yield from (("get", value.fget), ("set", value.fset))
    elif isinstance(value, MethodType):
        yield from (("", value.__func__), ("", value.__self__))
    elif isinstance(value, partial):
        yield from (("", value.func), ("", value.args), ("", value.keywords))
    elif isinstance(value, Mapping):
        yield from ((repr(key), part) for key, part in value.items())
    elif isinstance(value, Set):
        yield "", sorted(map(repr, value))
    elif isinstance(value, list | tuple):
        yield from (("", part) for part in value)
    elif is_dataclass(value):
        yield from ((field.name, getattr(value, field.name)) for field in fields(value))


def _used_by_function(function: FunctionType) -> Iterator[tuple[str, Any]]:
    yield from (("", value) for value in function.__defaults__ or ())
    yield from (function.__kwdefaults__ or {}).items()
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # the variable has no value yet
            continue
    known = function.__globals__
    yield from ((name, known[name]) for name in _names(function.__code__) if name in known)


def _names(code: CodeType) -> Iterator[str]:
    """Yield the names that a code object and the functions in it use."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
