"""Import the Python files of a study under their own names, and hash the bytes that are used."""

import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Sequence
from hashlib import sha256
from importlib import import_module, invalidate_caches
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from sweeper.errors import SweeperError, suggestion
from sweeper.tasks.facts import MAIN
from sweeper.tasks.given import load_pickled

_MODULE: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


class StudyModules:
    """The modules in the folder of a study.

    A process has one at a time. Creating another one unloads the modules of the previous one,
    because two studies may each have a `model.py`.
    """

    def __init__(self, folder: Path) -> None:
        self._reported = set[str]()
        self._pickled: dict[str, str] = {}
        self.folder = folder.resolve()
        self._finders: dict[Path, _Finder] = {}
        for finder in [finder for finder in sys.meta_path if isinstance(finder, _Finder)]:
            finder.forget()
        invalidate_caches()

    @property
    def sources(self) -> dict[str, str]:
        """The SHA-256 digests of all files imported so far, by their path from the folder."""
        return self._pickled | {
            Path(os.path.relpath(path, self.folder)).as_posix(): digest
            for finder in self._finders.values()
            for path, digest in finder.digests.copy().items()
        }

    def new_sources(self) -> dict[str, str]:
        """Return the sources that no earlier call has returned."""
        new = {file: digest for file, digest in self.sources.items() if file not in self._reported}
        self._reported.update(new)
        return new

    def load(self, reference: str) -> tuple[Any, Path]:
        """Return the object of a reference "file.py:name" or "module:name", and its file.

        A module is in the folder, or it is installed. Raises `SweeperError`, with a message of one
        line, if the file or the object does not exist or the file cannot be imported.
        """
        file, _, name = reference.rpartition(":")
        if not (name and (file.endswith(".py") or _MODULE.fullmatch(file))):
            raise SweeperError(
                f'invalid reference {reference!r}; expected "file.py:name" or "module:name"'
            )
        module = self._of_file(reference, file) if file.endswith(".py") else self._of_module(file)
        path = Path(str(module.__file__))
        if not hasattr(module, name):
            names = [n for n in vars(module) if not n.startswith("_")]
            raise SweeperError(f"{reference}: {path} has no {name!r}{suggestion(name, names)}")
        return getattr(module, name), path

    def load_pickled(self, reference: str, path: str) -> object:
        """Return an object that the launch has pickled; see `sweeper.tasks.given`.

        Raises `SweeperError`, with a message of one line, if it cannot be loaded.
        """
        self._serve(self.folder)
        try:
            given, self._pickled[reference] = load_pickled(path)
        except (Exception, SystemExit) as error:
            name = reference.removeprefix(MAIN)
            raise SweeperError(
                f"{name} cannot be loaded in a training process: {exception_text(error)}"
            ) from error
        return given

    def _of_file(self, reference: str, file: str) -> ModuleType:
        path = (self.folder / file).resolve()
        if not path.is_file():
            near = suggestion(path.name, [p.name for p in path.parent.glob("*.py")])
            raise SweeperError(f"{reference}: file {path} does not exist{near}")
        self._serve(path.parent)
        if not self._finders[path.parent].owns(path.stem):
            raise SweeperError(
                f"{path}: the file hides the module {path.stem!r} of Python or of an installed "
                "package; rename the file"
            )
        return _imported(path.stem, path)

    def _of_module(self, name: str) -> ModuleType:
        """Import a module from the folder, or an installed one."""
        top = name.partition(".")[0]
        beside = [self.folder / f"{top}.py", self.folder / top]
        root = self.folder if any(path.exists() for path in beside) else _root_of(top)
        self._serve(root, top if _is_installed(root) else None)
        if not self._finders[root].owns(top):
            # In this process, for a debugger, the module may have been imported before.
            self._finders[root].adopt(top)
        return _imported(name)

    def _serve(self, folder: Path, package: str | None = None) -> None:
        """Import modules from a folder, only those of one package if it is given."""
        if folder in self._finders:
            return
        finder = self._finders[folder] = _Finder(folder, package)
        sys.meta_path.insert(0, finder)
        if str(folder) not in sys.path:
            # For processes that a training run spawns, which inherit this list.
            sys.path.append(str(folder))


class _Finder(MetaPathFinder):
    """Finds the modules of a folder before installed ones, except names that are already used."""

    def __init__(self, folder: Path, package: str | None = None) -> None:
        self._folder, self._package = folder, package
        # A copy, because another thread may import modules meanwhile.
        imported = sys.modules.copy()
        self._taken = {
            name for name, module in imported.items() if not _is_in(module, folder)
        } | set(sys.stdlib_module_names)
        self.digests: dict[Path, str] = {}

    def owns(self, name: str) -> bool:
        """Return whether a module with this name can be imported from the folder."""
        return name not in self._taken and self._package in (None, name)

    def adopt(self, name: str) -> None:
        """Hash the files of a package that this process has imported without this finder."""
        for imported, module in sys.modules.copy().items():
            file = getattr(module, "__file__", None)
            if imported.partition(".")[0] == name and file and file.endswith(".py"):
                self.digests[Path(file)] = sha256(Path(file).read_bytes()).hexdigest()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module in the folder, None for other modules."""
        if self._package not in (None, fullname.partition(".")[0]):
            return None
        if path is None:
            places = [self._folder] if self.owns(fullname) else []
        else:
            places = [Path(place) for place in path if Path(place).is_relative_to(self._folder)]
        name = fullname.rpartition(".")[2]
        for place in places:
            package = place / name / "__init__.py"
            if package.is_file():
                loader = _Loader(fullname, str(package), self.digests)
                return spec_from_file_location(
                    fullname,
                    package,
                    loader=loader,
                    submodule_search_locations=[str(package.parent)],
                )
            file = place / f"{name}.py"
            if file.is_file():
                loader = _Loader(fullname, str(file), self.digests)
                return spec_from_file_location(fullname, file, loader=loader)
        return None

    def forget(self) -> None:
        """Unload the modules of the folder and remove this finder."""
        sys.meta_path.remove(self)
        for name, module in list(sys.modules.items()):
            if _is_in(module, self._folder):
                del sys.modules[name]


class _Loader(SourceFileLoader):
    """Compiles the bytes that it hashes, because cached byte code may be outdated."""

    def __init__(self, name: str, path: str, digests: dict[Path, str]) -> None:
        super().__init__(name, path)
        self._digests = digests

    def get_code(self, fullname: str) -> Any:
        """Return the compiled code of the module."""
        path = self.get_filename(fullname)
        content = self.get_data(path)
        self._digests[Path(path)] = sha256(content).hexdigest()
        return compile(content, path, "exec", dont_inherit=True)


def _is_in(module: ModuleType, folder: Path) -> bool:
    loader = getattr(getattr(module, "__spec__", None), "loader", None)
    file = getattr(module, "__file__", None)
    return isinstance(loader, _Loader) and bool(file) and Path(str(file)).is_relative_to(folder)


def _imported(name: str, path: Path | None = None) -> ModuleType:
    try:
        return import_module(name)
    except (Exception, SystemExit) as error:
        text = exception_text(error) if path is None else import_problem(error, path)
        raise SweeperError(text) from error


def _root_of(package: str) -> Path:
    """Return the folder that contains an installed package or module."""
    spec = find_spec(package)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise SweeperError(
            f"the module {package!r} is neither next to the study file nor installed"
        )
    path = Path(spec.origin).resolve()
    return path.parent.parent if path.name == "__init__.py" else path.parent


def _is_installed(folder: Path) -> bool:
    return folder in {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}


def import_problem(error: BaseException, path: Path) -> str:
    """Return one line that says why a file could not be imported, with file and line number."""
    return f"{error_location(error, path)}{exception_text(error)}{_advice(error)}"


def _advice(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return (
            "; the file exits when it is imported: move code that reads the command line under "
            'if __name__ == "__main__":'
        )
    if isinstance(error, ImportError) and "relative import" in str(error):
        return "; relative imports do not work here: write from helper import ..."
    return ""


def exception_text(error: BaseException) -> str:
    """Return the text of an exception on one line, with its type unless it is a ValueError."""
    reason = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
    if isinstance(error, ValueError):
        return reason
    return f"{type(error).__name__}: {reason}"


def error_location(error: BaseException, path: Path | None = None) -> str:
    """Return "file:line: " of the last frame of an error, in `path` if it occurs there."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: "
    frames = traceback.extract_tb(error.__traceback__)
    in_path = [f for f in frames if path is None or Path(f.filename) == path] or frames
    return f"{in_path[-1].filename}:{in_path[-1].lineno}: "
