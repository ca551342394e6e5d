"""Versions of the packages that determine a result. Does not import torch."""

from importlib.metadata import version

from sweeper.version import __version__


def versions() -> dict[str, str]:
    """Return the versions of sweeper, torch, NumPy and Optuna."""
    others = {package: version(package) for package in ("torch", "numpy", "optuna")}
    return {"sweeper": __version__, **others}
