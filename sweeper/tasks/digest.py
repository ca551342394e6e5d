"""The digest of Python objects: the same in every process for the same code and data."""

import dis
import inspect
import sys
from collections import ChainMap
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from hashlib import sha256
from pathlib import PurePath
from textwrap import dedent
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final
from weakref import WeakSet

from sweeper.errors import SweeperError

# Types whose `repr` contains the whole value.
_PLAIN: Final = frozenset((type(None), bool, int, float, complex, str, bytes))
# Attributes of classes that depend on comments, line numbers, memory or earlier use.
_UNUSED: Final = (
    *("__dict__", "__weakref__", "__doc__", "_abc_impl"),
    *("__firstlineno__", "__static_attributes__", "__annotations_cache__"),
)
# Operations that may read a global variable.
_READ: Final = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
_DEFINED_IN_PYTHON: Final = 1 << 9  # Py_TPFLAGS_HEAPTYPE


def source_digest(given: object, setup: FunctionType | None = None) -> str:
    """Return the SHA-256 of a function or another object, of its `setup`, and of what they use.

    Functions and classes count by their source, or by their name if they can be imported. All other
    values count by what would be pickled. The global variables that `setup` assigns do not count.
    Raises `SweeperError`, naming the variable, for a value that cannot be pickled.
    """
    assigned = () if setup is None else _global_names(setup.__code__, ("STORE_GLOBAL",))
    return _Walk({}, 0, frozenset(assigned)).text((given, setup))


class _Walk:
    """Digests objects and what they use. `texts` are the results so far, by the id of the object.

    While an object is being digested, its text is a number, for references in a cycle. The global
    variables `assigned` do not count.
    """

    def __init__(
        self, texts: MutableMapping[int, str], count: int, assigned: frozenset[str]
    ) -> None:
        self._texts, self._count, self._assigned = texts, count, assigned
        self._alive: list[object] = []  # ids are unique among living objects only

    def text(self, value: object) -> str:
        """Return the `repr` of a plain value, the digest of another one."""
        if type(value) in _PLAIN:
            return repr(value)
        if id(value) not in self._texts:
            self._alive.append(value)
            self._count += 1
            self._texts[id(value)] = f"#{self._count}"
            parts = "\0".join(self._parts(value)).encode("utf-8", "surrogatepass")
            self._texts[id(value)] = sha256(parts).hexdigest()
        return self._texts[id(value)]

    def _parts(self, value: Any) -> Iterator[str]:
        """Yield the texts of an object: its kind, and what it uses."""
        kind = type(value)
        yield f"{kind.__module__}.{kind.__qualname__}"
        if isinstance(value, FunctionType | type):
            yield from self._parts_of_code(value)
        elif isinstance(value, ModuleType):
            yield value.__name__
        elif isinstance(value, CodeType):
            yield from self._all((*_code_values(value), *value.co_consts))
        elif isinstance(value, PurePath):  # their pickle depends on the version of Python
            yield str(value)
        elif kind is dict:
            yield from self._all(part for item in value.items() for part in item)
        elif kind in (list, tuple):
            yield from self._all(value)
        elif isinstance(value, set | frozenset | WeakSet):
            yield self.text(kind)
            yield from sorted(map(self._text_of_member, value))
            yield self.text(getattr(value, "__dict__", None) if kind is not WeakSet else None)
        elif _is_tensor(value):
            yield from self._all(_tensor_values(value))
        else:
            yield from self._all(_pickled_values(value))

    def _all(self, values: Iterable[object]) -> Iterator[str]:
        return map(self.text, values)

    def _text_of_member(self, value: object) -> str:
        """Return the text of a member of a set, which must not depend on the order of members."""
        if type(value) in _PLAIN:
            return repr(value)
        return _Walk(ChainMap({}, self._texts), self._count, self._assigned).text(value)

    def _parts_of_code(self, value: FunctionType | type) -> Iterator[str]:
        name = _importable_name(value)
        if name is not None:
            yield name
        elif isinstance(value, FunctionType):
            yield _source(value) or self.text(value.__code__)
            for name, used in _used_by_function(value, self._assigned):
                yield name
                try:
                    yield self.text(used)
                except SweeperError:
                    raise
                except Exception as error:
                    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
                    raise SweeperError(
                        f"{name}, which {value.__name__} uses, cannot be pickled: {text}"
                    ) from error
        else:  # the source of a class cannot be found in a notebook
            yield value.__qualname__
            yield from self._all(value.__bases__)
            yield from self._all(
                part
                for name, attribute in vars(value).items()
                if name not in _UNUSED
                for part in (name, attribute)
            )


def _importable_name(value: FunctionType | type) -> str | None:
    """Return the name of an importable function or class, None if it is pickled by its code."""
    if isinstance(value, type) and not value.__flags__ & _DEFINED_IN_PYTHON:
        return f"{value.__module__}.{value.__qualname__}"  # some cannot be found by this name
    module = sys.modules.get(value.__module__ or "")
    if module is None or module.__name__ == "__main__":
        return None
    found: object = module
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    return f"{module.__name__}.{value.__qualname__}" if found is value else None


def _source(function: FunctionType) -> str:
    """Return the source of a function; "" if it is not known or contains several functions."""
    if function.__name__ == "<lambda>":
        return ""
    try:
        return dedent(inspect.getsource(function.__code__)).strip()
    except (OSError, IndentationError):
        return ""


def _code_values(code: CodeType) -> tuple[object, ...]:
    """Return what distinguishes a code object, except its constants."""
    arguments = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
    names = code.co_names, code.co_varnames, code.co_freevars
    return code.co_name, code.co_code, arguments, names


def _used_by_function(
    function: FunctionType, assigned: frozenset[str]
) -> Iterator[tuple[str, Any]]:
    """Yield the name and the value of all that a function uses, but the globals `assigned`."""
    yield from (("a default value", value) for value in function.__defaults__ or ())
    yield from (function.__kwdefaults__ or {}).items()
    yield from vars(function).items()
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # the variable has no value yet
            continue
    known = function.__globals__
    names = dict.fromkeys(_global_names(function.__code__, _READ))
    yield from ((name, known[name]) for name in names if name in known and name not in assigned)


def _global_names(code: CodeType, operations: Sequence[str]) -> Iterator[str]:
    """Yield the names of the operations of a code object and of the functions and classes in it."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in operations:
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _global_names(constant, operations)


def _is_tensor(value: object) -> bool:
    torch = sys.modules.get("torch")  # imported if there is a tensor
    return torch is not None and isinstance(value, torch.Tensor)


def _tensor_values(value: Any) -> tuple[object, ...]:
    """Return what distinguishes a tensor; its own pickle contains a file of changing bytes."""
    from sweeper.scoring.logits_file import bytes_of

    dense = value.detach().to_dense().cpu().resolve_conj().resolve_neg().contiguous()
    about = str(value.dtype), str(value.device), str(value.layout), value.requires_grad
    return type(value), tuple(value.shape), *about, sha256(bytes_of(dense)).digest(), vars(value)


def _pickled_values(value: Any) -> list[object]:
    """Return the values from which a pickle would restore an object."""
    import cloudpickle

    reduce = cloudpickle.CloudPickler.dispatch_table.get(type(value))
    reduced = value.__reduce_ex__(4) if reduce is None else reduce(value)
    if isinstance(reduced, str):  # the name of a global; decorators have the function they wrap
        return [getattr(value, "__module__", None), reduced, getattr(value, "__wrapped__", None)]
    return [list(part) if isinstance(part, Iterator) else part for part in reduced]
