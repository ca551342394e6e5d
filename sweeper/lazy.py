"""Lazy imports of the public names of a package."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from sweeper.extras import MODULES, MissingExtra, require


def lazy(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a module-level `__getattr__` (PEP 562) that imports names on first use.

    `homes` maps each public name to the module that defines it. If packages that the module needs
    are not installed, `MissingExtra` is raised.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            return getattr(import_module(homes[name]), name)
        except ImportError as error:
            if isinstance(error, MissingExtra) or error.name in MODULES["sweep"]:
                require("sweep", f"{package}.{name}")
            raise

    return get
