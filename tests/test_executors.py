"""One contract of all executors, on the engines themselves where they can run on this machine."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest

from sweeper.executors import Executor, JobSpec, Resources, make_executor
from sweeper.executors.base import Job, JobState
from tests.support.clusters import ROOT, fake_kubectl

pytestmark = pytest.mark.chaos

# What a shell, a template, Slurm's file names or YAML would make something else of.
HOSTILE = "a b; rm -rf \"x\" 'y' $HOME `id` {{ z }} %j \\ #\n- & é"
SECRET = "JOB_SECRET"  # as in tests/support/job.py, which is run and not imported
URL = "postgresql://somebody:secret@host/database"


def until(condition: Callable[[], Any], what: str) -> None:
    """Look again and again until the condition holds."""
    for _ in range(1200):
        if condition():
            return
        subprocess.run(["sleep", "0.05"], check=True)
    raise AssertionError(f"it did not come to pass: {what}")


def ended(job: Job) -> JobState:
    until(lambda: job.state().ended, "the job's end")
    return job.state()


def job_report(job: Job) -> list[Any]:
    """Return what `tests.support.job say` printed: its arguments, its secret and its process."""
    until(lambda: "\n" in job.log(), "what the job says")
    found: list[Any] = json.loads(job.log().splitlines()[0])
    return found


class Contract:
    """One test, a subclass an executor."""

    name: str
    settings: ClassVar[Mapping[str, str]] = {}
    # Whether a job's output can be read, and the job be reached, before it has ended.
    seen = True

    @pytest.fixture
    def executor(self) -> Iterator[Executor]:
        made = make_executor(self.name, settings=self.settings)
        yield made
        made.close()

    @pytest.fixture
    def spec(self, tmp_path: Path) -> JobSpec:
        command = (sys.executable, "-m", "tests.support.job", "say")
        env = {SECRET: URL, "PYTHONPATH": str(ROOT)}
        return JobSpec("study.of_Mine", command, tmp_path / "logs", env)

    def doing(self, spec: JobSpec, *arguments: str) -> JobSpec:
        return replace(spec, command=(*spec.command[:3], *arguments))

    def test_jobs_have_environment_and_log(self, executor: Executor, spec: JobSpec) -> None:
        jobs = executor.start(spec, min(2, executor.traits.max_jobs))
        assert [ended(job) for job in jobs] == [JobState.SUCCEEDED] * len(jobs)
        assert [job_report(job)[1] for job in jobs] == [URL] * len(jobs)
        if executor.traits.max_jobs > 1:
            assert len({job_report(job)[2] for job in jobs}) == len(jobs)

    def test_nonzero_exit_status_is_a_failed_job(self, executor: Executor, spec: JobSpec) -> None:
        [job] = executor.start(self.doing(spec, "end", "3"), 1)
        assert ended(job) is JobState.FAILED
        assert "ends with 3" in job.log()

    def test_arguments_are_passed_unchanged(
        self, executor: Executor, spec: JobSpec, tmp_path: Path
    ) -> None:
        hostile = replace(self.doing(spec, "say", HOSTILE, ""), logs=tmp_path / HOSTILE / "logs")
        executor.check(hostile, 1)
        [job] = executor.start(hostile, 1)
        assert ended(job) is JobState.SUCCEEDED, job.log()
        assert job_report(job)[0][:2] == [HOSTILE, ""]
        if executor.traits.shares_files:
            assert len(list(hostile.logs.iterdir())) == 1

    def test_preview_contains_no_secret(self, executor: Executor, spec: JobSpec) -> None:
        shown = executor.preview(spec, 1)
        assert "tests.support.job" in shown
        assert "secret@" not in shown
        assert "secret@" not in repr(spec)


class Outside(Contract):
    """What can be asked of jobs that run beside this process."""

    def running(self, executor: Executor, spec: JobSpec, mode: str) -> Job:
        [job] = executor.start(self.doing(spec, mode), 1)
        until(lambda: job.state() is JobState.RUNNING and self.process(job, spec), "its start")
        return job

    def process(self, job: Job, spec: JobSpec) -> int | None:
        """Return the job's process, None where it has not said it yet."""
        text = job.log() if self.seen else "".join(p.read_text() for p in spec.logs.glob("*.log"))
        return int(json.loads(text.splitlines()[0])[2]) if "\n" in text else None

    def test_canceled_job_ends_gracefully(self, executor: Executor, spec: JobSpec) -> None:
        job = self.running(executor, spec, "wait")
        job.cancel()
        assert ended(job) is JobState.FAILED
        assert f"told to end by {signal.SIGTERM}" in self.last_words(job, spec)
        job.cancel()  # no-op

    def last_words(self, job: Job, _: JobSpec) -> str:
        return job.log()

    def test_killed_job_has_ended(self, executor: Executor, spec: JobSpec) -> None:
        job = self.running(executor, spec, "stubborn")
        process = self.process(job, spec)
        assert process is not None
        assert psutil.pid_exists(process)
        job.kill()
        assert ended(job) is JobState.FAILED
        self.check_gone(process)

    def check_gone(self, process: int) -> None:
        until(lambda: not psutil.pid_exists(process), "the process's end")

    def test_a_lost_job_is_a_failure(self, executor: Executor, spec: JobSpec) -> None:
        job = self.running(executor, spec, "wait")
        process = self.process(job, spec)
        assert process is not None
        os.kill(process, signal.SIGKILL)
        assert ended(job) is JobState.FAILED

    def test_command_lines_contain_no_secret(self, executor: Executor, spec: JobSpec) -> None:
        job = self.running(executor, spec, "wait")
        lines = [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])]
        assert any("tests.support.job wait" in line for line in lines)
        assert not any(URL in line for line in lines)
        job.kill()
        ended(job)


class TestInline(Contract):
    name = "inline"

    def test_a_canceled_job_is_not_run(self, executor: Executor, spec: JobSpec) -> None:
        [job] = executor.start(spec, 1)
        job.cancel()
        assert job.state() is JobState.FAILED
        assert job.log() == ""

    def test_inline_job_restores_process_state(self, executor: Executor, spec: JobSpec) -> None:
        def here() -> tuple[Any, ...]:
            handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
            return (dict(os.environ), sys.argv, sys.stdout, handlers)

        before = here()
        [job] = executor.start(spec, 1)
        assert reported_by_this_process(job)
        assert here() == before

    def test_ctrl_c_is_propagated(self, executor: Executor, spec: JobSpec) -> None:
        [job] = executor.start(self.doing(spec, "end", str(128 + signal.SIGINT)), 1)
        with pytest.raises(KeyboardInterrupt):
            job.state()


def reported_by_this_process(job: Job) -> bool:
    return ended(job) is JobState.SUCCEEDED and job_report(job)[2] == os.getpid()


class TestLocal(Outside):
    name = "local"


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """Start a cluster of this machine, which each executor of this module finds."""
    pytest.importorskip("ray")
    started = make_executor("ray")
    started.check(JobSpec("none", (sys.executable, "-c", ""), Path(), {}), 1)
    yield
    started.close()


@pytest.mark.usefixtures("ray_cluster")
class TestRay(Outside):
    name = "ray"
    seen = False

    @pytest.fixture
    def spec(self, tmp_path: Path) -> JobSpec:
        command = (sys.executable, "-m", "tests.support.job", "say")
        env = {SECRET: URL, "PYTHONPATH": str(ROOT)}
        return JobSpec("quick", command, tmp_path / "logs", env)

    def check_gone(self, process: int) -> None:
        os.kill(process, signal.SIGKILL)  # a worker would see that its task is gone


class TestSlurm(Outside):
    name = "slurm"

    @pytest.fixture(autouse=True)
    def commands(self, slurm: None) -> None:
        """Let Slurm's commands find the cluster."""

    def test_unavailable_resources_are_rejected(self, executor: Executor, spec: JobSpec) -> None:
        for needs in (Resources(cpus=64), Resources(gpus=1), Resources(memory=900.0)):
            with pytest.raises(
                Exception, match=r"executor slurm: sbatch failed: .*(configuration|resource)"
            ):
                executor.check(replace(spec, resources=needs), 1)

    def test_a_waiting_job_that_is_canceled_never_runs(
        self, executor: Executor, spec: JobSpec
    ) -> None:
        first = replace(self.doing(spec, "wait"), resources=Resources(cpus=4))
        [at_it] = executor.start(first, 1)
        until(lambda: at_it.state() is JobState.RUNNING, "its start")
        [job] = executor.start(first, 1)
        assert job.state() is JobState.WAITING
        job.cancel()
        assert ended(job) is JobState.FAILED
        assert job.log().startswith("Slurm: ")  # nothing of the job
        at_it.kill()
        ended(at_it)


class TestKubernetes(Outside):
    """On a stand-in for kubectl that runs the pods' commands as processes."""

    name = "kubernetes"
    settings: ClassVar = {"image": "sweeper"}

    @pytest.fixture(autouse=True)
    def commands(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fake_kubectl(tmp_path / "bin")
        secrets = {"sweeper": {"storage": URL}}
        (tmp_path / "bin" / "cluster" / "secrets.json").write_text(json.dumps(secrets))
        folders = [str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
        monkeypatch.setenv("PATH", os.pathsep.join(folders))
        monkeypatch.setenv("PYTHONPATH", str(ROOT))  # what the image has
        monkeypatch.setenv(SECRET, URL)

    def last_words(self, job: Job, spec: JobSpec) -> str:
        # A deleted Job takes its pods' output with it.
        [folder] = (spec.logs.parent / "bin" / "cluster").glob("deleted-*")
        return (folder / "0.log").read_text()
