"""Workers as the pods of a Kubernetes Job."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Final

import yaml

from sweeper.errors import SweeperError
from sweeper.executors.base import JobSpec, JobState, Traits
from sweeper.executors.templates import TEMPLATES, Template
from sweeper.executors.tools import CommandFailed, PolledStatus, run_tool

TEMPLATE: Final = TEMPLATES / "kubernetes.yaml.j2"
# Kubernetes appends an index and a random suffix to form a pod name, which is limited to 63
# characters.
LONGEST_NAME: Final = 40

Status = Mapping[str, Any]
_GONE: Final[Status] = {"conditions": [{"type": "Failed", "status": "True"}]}

_tool = partial(run_tool, executor="kubernetes")


@dataclass
class _KubernetesJob:
    """A Kubernetes Job with all of its pods; `namespace` is the kubectl option for it, if any."""

    name: str
    namespace: Sequence[str]
    status: PolledStatus[Status] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.status = PolledStatus(self._query_status)

    def kubectl(self, *arguments: str) -> str:
        return _tool(["kubectl", *self.namespace, *arguments])

    def delete(self, *options: str) -> None:
        """Delete the Job; it counts as failed afterwards."""
        self.kubectl("delete", "job", self.name, "--ignore-not-found", *options)
        self.status = PolledStatus(lambda: _GONE)

    def _query_status(self) -> Status:
        try:
            output = self.kubectl("get", "job", self.name, "--output=json")
        except CommandFailed as error:
            if "NotFound" in str(error):
                return _GONE
            raise
        status: Status = json.loads(output).get("status", {})
        return status


@dataclass(frozen=True)
class PodJob:
    """One index of a Job: a pod and its replacements."""

    index: int
    job: _KubernetesJob

    def state(self) -> JobState:
        """Return the state of the index; every index fails if the Job failed or was deleted."""
        status = self.job.status() or {}
        if self.index in _indexes(status.get("completedIndexes", "")):
            return JobState.SUCCEEDED
        if _failed(status):
            return JobState.FAILED
        return JobState.RUNNING if status.get("ready") else JobState.WAITING

    def cancel(self) -> None:
        """Delete the whole Job with SIGTERM: a single deleted pod would be replaced."""
        if not self.state().ended:
            self.job.delete("--cascade=foreground", "--timeout=50s")

    def kill(self) -> None:
        """Delete the Job and its pods immediately."""
        self.job.delete("--force", "--grace-period=0")

    def log(self) -> str:
        """Return the last lines of the pod's output; of all pods if the Job has failed."""
        selector = f"job-name={self.job.name}"
        if not _failed(self.job.status() or {}):
            selector += f",batch.kubernetes.io/job-completion-index={self.index}"
        try:
            return self.job.kubectl("logs", f"--selector={selector}", "--tail=200")
        except CommandFailed as error:
            return str(error)


@dataclass(frozen=True)
class KubernetesExecutor:
    """Applies a Job, rendered from a template, with kubectl."""

    template: Template
    traits: ClassVar[Traits] = Traits(
        "kubernetes",
        max_jobs=10_000,
        multiple_machines=True,
        shares_files=False,
        outlives_parent=True,
    )

    def check(self, spec: JobSpec, count: int) -> None:
        """Check with a server-side dry run that the cluster accepts the Job."""
        text = self._manifest(spec, count)
        self._metadata(text)
        _tool(["kubectl", "apply", "--dry-run=server", "--filename=-"], text=text)

    def start(self, spec: JobSpec, count: int) -> Sequence[PodJob]:
        """Apply a Job with `count` pods, and return one job per pod."""
        text = self._manifest(spec, count)
        metadata = self._metadata(text)
        namespace = metadata.get("namespace")
        job = _KubernetesJob(metadata["name"], [f"--namespace={namespace}"] if namespace else [])
        _tool(["kubectl", "apply", "--filename=-"], text=text)
        return [PodJob(index, job) for index in range(count)]

    def preview(self, spec: JobSpec, count: int) -> str:
        """Return the kubectl command and the manifest."""
        return f"kubectl apply --filename=- << 'END'\n{self._manifest(spec, count)}END\n"

    def close(self) -> None:
        """Do nothing: there are no resources to release."""

    def _manifest(self, spec: JobSpec, count: int) -> str:
        needs = spec.resources
        return self.template.render(
            needed=["name", "command", "count"],
            name=job_name(spec.name),
            command=["python", *spec.command[1:]],  # the Python of the image
            count=count,
            cpus=needs.cpus,
            gpus=needs.whole_gpus("Kubernetes"),
            memory=needs.mebibytes,
        )

    def _metadata(self, text: str) -> Mapping[str, Any]:
        try:
            manifest = yaml.safe_load(text)
            if manifest["kind"] == "Job":
                metadata: Mapping[str, Any] = manifest["metadata"]
                return metadata
        except yaml.YAMLError as error:
            message = " ".join(str(error).split())
            raise SweeperError(
                f"{self.template.path}: the rendered template is not valid YAML: {message}"
            ) from None
        except (KeyError, TypeError):
            pass
        raise SweeperError(
            f"{self.template.path}: the rendered template is not a Job with a name; allowed: one "
            "document with kind: Job and metadata"
        )


def job_name(study: str) -> str:
    """Return a unique name for a study's Job that Kubernetes accepts."""
    plain = re.sub(r"[^a-z0-9]+", "-", study.lower()).strip("-")
    return f"sweeper-{plain[:LONGEST_NAME].strip('-')}-{os.urandom(3).hex()}"


def _failed(status: Status) -> bool:
    return any(
        condition["type"] == "Failed" and condition["status"] == "True"
        for condition in status.get("conditions", [])
    )


def _indexes(text: str) -> set[int]:
    """Parse the completed indexes of a Job, such as `0,2-4`."""
    ranges = (part.partition("-") for part in text.split(",") if part)
    return {n for low, _, high in ranges for n in range(int(low), int(high or low) + 1)}
