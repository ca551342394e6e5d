"""Executors start N workers: they run one command N times, with the database in its environment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sweeper.errors import SweeperError, suggestion
from sweeper.executors import kubernetes, slurm
from sweeper.executors.base import Executor, JobSpec, Resources
from sweeper.executors.inline import InlineExecutor
from sweeper.executors.kubernetes import KubernetesExecutor
from sweeper.executors.local import LocalExecutor
from sweeper.executors.ray import RayExecutor
from sweeper.executors.slurm import SlurmExecutor
from sweeper.executors.templates import Template

__all__ = ["NAMES", "Executor", "JobSpec", "Resources", "make_executor"]

NAMES: Final = ("inline", "local", "ray", "slurm", "kubernetes")


def make_executor(
    name: str = "local",
    template: str | Path | None = None,
    settings: Mapping[str, str] | None = None,
) -> Executor:
    """Return the executor with this name.

    `template` replaces the bundled template of slurm or kubernetes. `settings` are values for its
    placeholders; for ray, the only setting is the `address` of a cluster. Raises `SweeperError`
    for an argument that the executor does not accept.
    """
    settings = dict(settings or {})
    match name:
        case "slurm":
            return SlurmExecutor(_template(template or slurm.TEMPLATE, settings))
        case "kubernetes":
            return KubernetesExecutor(_template(template or kubernetes.TEMPLATE, settings))
    if name not in NAMES:
        raise SweeperError(
            f"unknown executor {name!r}{suggestion(name, NAMES)}; allowed: {', '.join(NAMES)}"
        )
    if template is not None:
        raise SweeperError(
            f"template: not supported by executor {name}; allowed with slurm and kubernetes"
        )
    address = settings.pop("address", None) if name == "ray" else None
    if settings:
        allowed = "address" if name == "ray" else "none"
        raise SweeperError(
            f"--set {next(iter(settings))}: unknown setting of executor {name}; allowed: {allowed}"
        )
    if name == "ray":
        return RayExecutor(address)
    return InlineExecutor() if name == "inline" else LocalExecutor()


def _template(path: str | Path, settings: Mapping[str, str]) -> Template:
    """Return a template; it is checked here, before a launch opens the database."""
    template = Template(Path(path), settings)
    template.check()
    return template
