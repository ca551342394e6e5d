"""Ways to start workers: one command line, N times, with the database in the environment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sweeper.errors import SweeperError, nearest
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
    """Return an executor by its name.

    `template` replaces what slurm and kubernetes render; `settings` fill places in it, and say
    at which `address` a Ray cluster is. Raises `SweeperError` for what an executor does not take.
    """
    settings = dict(settings or {})
    match name:
        case "slurm":
            return SlurmExecutor(Template(Path(template or slurm.TEMPLATE), settings))
        case "kubernetes":
            return KubernetesExecutor(Template(Path(template or kubernetes.TEMPLATE), settings))
    if name not in NAMES:
        raise SweeperError(f"executor: {name!r}{nearest(name, NAMES)}; allowed: {', '.join(NAMES)}")
    if template is not None:
        raise SweeperError(f"template: {name} has none; allowed with slurm and kubernetes")
    address = settings.pop("address", None) if name == "ray" else None
    if settings:
        takes = "address" if name == "ray" else "none"
        raise SweeperError(f"--set {next(iter(settings))}: {name} takes {takes}")
    if name == "ray":
        return RayExecutor(address)
    return InlineExecutor() if name == "inline" else LocalExecutor()
