"""Workers as the pods of a Job in Kubernetes."""

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
from sweeper.executors.templates import OURS, Template
from sweeper.executors.tools import Look, Refused, run_tool

TEMPLATE: Final = OURS / "kubernetes.yaml.j2"
# A pod's name is the job's with an index and a few letters, and is a name of DNS.
LONGEST_NAME: Final = 40

Status = Mapping[str, Any]
_GONE: Final[Status] = {"conditions": [{"type": "Failed", "status": "True"}]}

_tool = partial(run_tool, engine="kubernetes")


@dataclass
class _KubernetesJob:
    """A Job as Kubernetes has it, with all of its pods."""

    name: str
    namespace: Sequence[str]
    look: Look[Status] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.look = Look(self._status)

    def kubectl(self, *arguments: str) -> str:
        return _tool(["kubectl", *self.namespace, *arguments])

    def delete(self, *options: str) -> None:
        """Delete the Job; nothing is known of it after that."""
        self.kubectl("delete", "job", self.name, "--ignore-not-found", *options)
        self.look = Look(lambda: _GONE)

    def _status(self) -> Status:
        try:
            said = self.kubectl("get", "job", self.name, "--output=json")
        except Refused as error:
            if "NotFound" in str(error):
                return _GONE
            raise
        status: Status = json.loads(said).get("status", {})
        return status


@dataclass(frozen=True)
class PodJob:
    """One index of a Job: a pod, and those that replace it."""

    index: int
    job: _KubernetesJob

    def state(self) -> JobState:
        """Return where the index stands; all have failed with their Job, or without it."""
        status = self.job.look() or {}
        if self.index in _indexes(status.get("completedIndexes", "")):
            return JobState.SUCCEEDED
        if _failed(status):
            return JobState.FAILED
        return JobState.RUNNING if status.get("ready") else JobState.WAITING

    def cancel(self) -> None:
        """Delete the Job, so that all of its pods are sent SIGTERM: one alone would come back."""
        if not self.state().ended:
            self.job.delete("--cascade=foreground", "--timeout=50s")

    def kill(self) -> None:
        """Delete the Job and its pods at once."""
        self.job.delete("--force", "--grace-period=0")

    def log(self) -> str:
        """Return the end of what the pod printed; of all pods where the Job has failed."""
        mine = f"job-name={self.job.name}"
        if not _failed(self.job.look() or {}):
            mine += f",batch.kubernetes.io/job-completion-index={self.index}"
        try:
            return self.job.kubectl("logs", f"--selector={mine}", "--tail=200")
        except Refused as error:
            return str(error)


@dataclass(frozen=True)
class KubernetesExecutor:
    """Applies a Job, rendered from a template, with the kubectl of this machine."""

    template: Template
    traits: ClassVar[Traits] = Traits(
        "kubernetes", most=10_000, machines=True, files=False, survives=True
    )

    def check(self, spec: JobSpec, count: int) -> None:
        """Have the cluster say whether it would take the Job."""
        text = self._manifest(spec, count)
        self._metadata(text)
        _tool(["kubectl", "apply", "--dry-run=server", "--filename=-"], text=text)

    def start(self, spec: JobSpec, count: int) -> Sequence[PodJob]:
        """Apply a Job with `count` pods."""
        text = self._manifest(spec, count)
        metadata = self._metadata(text)
        namespace = metadata.get("namespace")
        job = _KubernetesJob(metadata["name"], [f"--namespace={namespace}"] if namespace else [])
        _tool(["kubectl", "apply", "--filename=-"], text=text)
        return [PodJob(index, job) for index in range(count)]

    def preview(self, spec: JobSpec, count: int) -> str:
        """Return the command and the manifest that it is given."""
        return f"kubectl apply --filename=- << 'END'\n{self._manifest(spec, count)}END\n"

    def close(self) -> None:
        """Do nothing."""

    def _manifest(self, spec: JobSpec, count: int) -> str:
        needs = spec.resources
        if needs.gpus != int(needs.gpus):
            raise SweeperError(
                f"resources.gpus: {needs.gpus:g}; Kubernetes gives whole GPUs to a pod, or none"
            )
        return self.template.render(
            needed=["name", "command", "count"],
            name=job_name(spec.name),
            command=["python", *spec.command[1:]],  # the image's, not this machine's
            count=count,
            cpus=needs.cpus,
            gpus=int(needs.gpus),
            memory=needs.mebibytes,
        )

    def _metadata(self, text: str) -> Mapping[str, Any]:
        try:
            manifest = yaml.safe_load(text)
            if manifest["kind"] == "Job":
                metadata: Mapping[str, Any] = manifest["metadata"]
                return metadata
        except yaml.YAMLError as error:
            said = " ".join(str(error).split())
            raise SweeperError(f"{self.template.path}: what it gives is no YAML: {said}") from None
        except (KeyError, TypeError):
            pass
        raise SweeperError(
            f"{self.template.path}: what it gives is no Job with a name; allowed: kind: Job, one "
            "document"
        )


def job_name(study: str) -> str:
    """Return a name for a study's Job that Kubernetes allows and that no other has."""
    plain = re.sub(r"[^a-z0-9]+", "-", study.lower()).strip("-")
    return f"sweeper-{plain[:LONGEST_NAME].strip('-')}-{os.urandom(3).hex()}"


def _failed(status: Status) -> bool:
    return any(
        condition["type"] == "Failed" and condition["status"] == "True"
        for condition in status.get("conditions", [])
    )


def _indexes(text: str) -> set[int]:
    """Return the numbers in `0,2-4`, which is how Kubernetes writes them."""
    ranges = (part.partition("-") for part in text.split(",") if part)
    return {n for low, _, high in ranges for n in range(int(low), int(high or low) + 1)}
