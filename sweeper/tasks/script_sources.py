"""Find the files of a script: the script itself, and the modules of the folder that it imports."""

import ast
import os
import re
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

from sweeper.errors import SweeperError
from sweeper.training.scripts.config import macros_of

# A script without any of these, and without a flag for ε, cannot know its ε.
_KNOWS_EPSILON: Final = (b"SWEEPER_EPSILON", b"SWEEPER_LABEL_SMOOTHING", b"current_run")
# A dotted name, short enough for a path.
_MODULE: Final = re.compile(r"(?!.{255})[^\W\d]\w*(\.[^\W\d]\w*)*")


class ScriptSources:
    """The files of a script, with their SHA-256 digests by path from the folder.

    Imports are found in the source text, so that no code runs. A module that is imported by a
    computed name is not found. Raises `SweeperError` if a file has a syntax error.
    """

    def __init__(self, folder: Path, program: str, command: Sequence[str]) -> None:
        self.digests: dict[str, str] = {}
        self.knows_epsilon = False
        self._folder = folder
        self._contents: dict[Path, bytes] = {}
        for path in _files(folder, program, command):
            self._add(path, path.parent)
        for path in _module_sources(folder.resolve(), command):
            self._add(path, folder.resolve())
        for path, content in self._contents.items():
            name = Path(os.path.relpath(path, folder)).as_posix()
            self.digests[name] = sha256(content).hexdigest()
            self.knows_epsilon |= any(word in content for word in _KNOWS_EPSILON)

    def _add(self, path: Path, root: Path) -> None:
        if path in self._contents:
            return
        self._contents[path] = content = path.read_bytes()
        if path.suffix == ".py":
            for module in self._imports(path, content, root):
                for place in dict.fromkeys((root, self._folder)):
                    for file in _module_files(place, module):
                        self._add(file, root)

    def _imports(self, path: Path, content: bytes, root: Path) -> Iterator[str]:
        """Yield the dotted names of the imported modules, and of what is imported from them."""
        try:
            tree = ast.parse(content, str(path))
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None)
            place = f"{path}:{line}" if line else str(path)
            raise SweeperError(f"{place}: {getattr(error, 'msg', error)}") from error
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                module = _absolute(node, path, root)
                yield from (f"{module}.{alias.name}".strip(".") for alias in node.names)


def _files(folder: Path, program: str, command: Sequence[str]) -> Iterator[Path]:
    """Yield the program, and the files of the folder that the command names."""
    if program:
        path = (folder / program).resolve()
        if not path.is_file():
            raise SweeperError(f"task.program: file {path} does not exist")
        yield path
    for argument in command:
        if not macros_of(argument) and "\n" not in argument and len(argument) < 255:
            path = folder / argument
            if path.is_file() and path.resolve().is_relative_to(folder.resolve()):
                yield path.resolve()


def _module_sources(folder: Path, command: Sequence[str]) -> Iterator[Path]:
    """Yield the files of the folder that a command runs as modules."""
    for module in _modules(command):
        yield from _module_files(folder, module)
        # A package is run by its __main__.py.
        yield from _module_files(folder, f"{module}.__main__")


def _modules(command: Sequence[str]) -> Iterator[str]:
    """Yield the modules that a command runs with -m, --module or --module=NAME."""
    for argument, following in zip(command, (*command[1:], ""), strict=False):
        for name in (
            following if argument in ("-m", "--module") else "",
            argument.removeprefix("--module=") if argument.startswith("--module=") else "",
            argument[2:] if argument.startswith("-m") else "",
        ):
            if _MODULE.fullmatch(name):
                yield name


def _absolute(node: ast.ImportFrom, path: Path, root: Path) -> str:
    """Return the module of `from module import …`; a relative one is resolved by its file."""
    if not node.level:
        return node.module or ""
    package = path.parent
    for _ in range(node.level - 1):
        package = package.parent
    parts = package.relative_to(root).parts if package.is_relative_to(root) else ()
    return ".".join((*parts, *filter(None, [node.module])))


def _module_files(root: Path, module: str) -> Iterator[Path]:
    """Yield the files of a module and of its packages that are below `root`."""
    place = root
    for part in module.split("."):
        package, file = place / part / "__init__.py", place / f"{part}.py"
        if package.is_file():
            yield package.resolve()
        elif file.is_file():
            yield file.resolve()
            return
        elif not (place / part).is_dir():
            return
        place /= part
