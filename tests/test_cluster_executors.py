"""Whole studies on Ray, Slurm and Kubernetes: lost workers and rejected submissions."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args
from unittest.mock import patch

import psutil
import pytest
import yaml
from sqlalchemy import create_engine, inspect

import sweeper
from sweeper.api import Study
from sweeper.cli import options
from sweeper.errors import SweeperError
from sweeper.executors import (
    NAMES,
    JobSpec,
    Resources,
    kubernetes,
    make_executor,
    tools,
)
from sweeper.extras import MissingExtra
from tests.support.clusters import ROOT, fake_command, fake_kubectl
from tests.support.launches import SLOW, check_exact, wait_until
from tests.support.processes import StartSweeper

Write = Callable[..., Path]
RECORDED = Path(__file__).parent / "recorded"


@pytest.fixture
def slow(write_study: Write, tmp_path: Path) -> Path:
    return write_study(SLOW.format(trace=tmp_path / "trace"), "slow.toml")


def logs(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "results" / "slow" / "logs").glob("*.log"))


# ---- Ray ---------------------------------------------------------------------------------


class Nodes:
    """A Ray cluster as a process of its own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.ray_nodes"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.address = self._said("address")

    def do(self, what: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        self._said(f"done {what}")

    def close(self) -> None:
        self._process.communicate(timeout=60)

    def _said(self, first: str) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(first):
                return line.removeprefix(first).strip()
        raise AssertionError(f"the cluster ended with {self._process.wait()}")


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    pytest.importorskip("ray")
    cluster = Nodes()
    yield cluster
    cluster.close()


@pytest.mark.chaos
def test_study_is_exact_after_killed_ray_node(
    nodes: Nodes, slow: Path, postgresql: str, start_sweeper: StartSweeper, tmp_path: Path
) -> None:
    launch = start_sweeper(
        *("launch", slow, "--executor", "ray", "--set", f"address={nodes.address}"), url=postgresql
    )
    study = wait_until(launch, postgresql, 4)
    assert len(logs(tmp_path)) == 2  # a worker on each node
    nodes.do("kill")
    nodes.do("add")
    output = launch.communicate(timeout=120)[0]
    assert launch.returncode == 0, output
    assert len(logs(tmp_path)) == 3  # Ray has started the lost one again
    check_exact(study, tmp_path, again=1)
    assert (tmp_path / "results" / "slow" / "best.json").is_file()
    study.close()


@pytest.mark.chaos
def test_ctrl_c_ends_what_ray_runs(slow: Path, storage: str, start_sweeper: StartSweeper) -> None:
    pytest.importorskip("ray")
    launch = start_sweeper("launch", slow, "--executor", "ray")
    study = wait_until(launch, storage, 3)
    launch.send_signal(2)
    output = launch.communicate(timeout=90)[0]
    assert launch.returncode == 130, output
    counts = study.progress()
    assert (counts.running, counts.retried) == (0, 0)


@pytest.mark.slow
def test_ray_reports_unavailable_resources(slow: Path, storage: str) -> None:
    pytest.importorskip("ray")
    text = slow.read_text() + "[resources]\ngpus = 1\nmemory = 2.0\n"
    slow.write_text(text)
    with pytest.raises(SweeperError, match=r"no node has the 1 CPUs, 1 GPUs, 2 GiB of"):
        sweeper.launch(slow, executor="ray", storage=storage)
    assert nothing_launched(storage)


def test_unreachable_ray_cluster_is_reported(slow: Path, postgresql: str) -> None:
    pytest.importorskip("ray")
    ray = make_executor("ray", settings={"address": "127.0.0.1:1"})
    with pytest.raises(SweeperError, match=r"no cluster at 127\.0\.0\.1:1: .*refused"):
        sweeper.launch(slow, executor=ray, storage=postgresql)
    assert nothing_launched(postgresql)


def nothing_launched(storage: str) -> bool:
    """Return whether nothing was written, not even tables."""
    engine = create_engine(storage)
    tables = inspect(engine).get_table_names()
    engine.dispose()
    return not tables


# ---- Slurm -------------------------------------------------------------------------------


@pytest.mark.chaos
def test_study_is_exact_after_lost_slurm_worker(
    slurm: None, slow: Path, postgresql: str, start_sweeper: StartSweeper, tmp_path: Path
) -> None:
    launch = start_sweeper("launch", slow, "--executor", "slurm", url=postgresql)
    study = wait_until(launch, postgresql, 4)
    worker = study.workers()[0].pid
    assert "sweeper worker slow" in " ".join(psutil.Process(worker).cmdline())
    psutil.Process(worker).kill()
    output = launch.communicate(timeout=150)[0]
    assert launch.returncode == 0, output
    check_exact(study, tmp_path, again=1)
    assert len(logs(tmp_path)) == 3  # the launch has submitted another
    study.close()


@pytest.mark.chaos
def test_detached_launch_leaves_jobs_in_slurm(
    slurm: None, slow: Path, postgresql: str, start_sweeper: StartSweeper, tmp_path: Path
) -> None:
    launch = start_sweeper("launch", slow, "--executor", "slurm", "--detach", url=postgresql)
    output = launch.communicate(timeout=60)[0]
    assert launch.returncode == 0, output
    assert "Workers are submitted to slurm" in output
    study = Study("slow", postgresql)
    assert study.progress().ended < 24
    queue = ["squeue", "--noheader", "--states=PENDING,RUNNING,COMPLETING", "--name=sweeper-slow"]
    for _ in range(600):
        if not subprocess.check_output(queue):
            break
        subprocess.run(["sleep", "0.1"], check=True)
    assert study.finished
    check_exact(study, tmp_path, again=0)
    study.close()


# ---- Kubernetes --------------------------------------------------------------------------


@pytest.fixture
def cluster(postgresql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a cluster that a `kubectl` of ours serves."""
    fake_kubectl(tmp_path / "bin")
    folder = tmp_path / "bin" / "cluster"
    (folder / "secrets.json").write_text(json.dumps({"mine": {"storage": postgresql}}))
    path = [str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(path))
    return folder


@pytest.fixture
def local_results(tmp_path: Path) -> Path:
    """Return a template whose pods write beside the tests and not into their machine's root."""
    text = kubernetes.TEMPLATE.read_text()
    path = tmp_path / "mine.yaml"
    assert text.count('"/results"') == 1
    path.write_text(text.replace('"/results"', json.dumps(str(tmp_path / "volume"))))
    return path


@pytest.mark.chaos
def test_a_study_runs_in_the_pods_of_a_job(
    cluster: Path, local_results: Path, slow: Path, postgresql: str, tmp_path: Path
) -> None:
    settings = {"image": "sweeper", "secret": "mine"}
    study = sweeper.launch(
        slow,
        executor=make_executor("kubernetes", local_results, settings),
        storage=postgresql,
        results=tmp_path / "results",
    )
    assert study.finished
    check_exact(study, tmp_path, again=0)
    [job] = cluster.glob("sweeper-slow-*")
    assert [path.read_text().strip() for path in sorted(job.glob("*.end"))] == ["0", "0"]
    study.close()


@pytest.mark.chaos
def test_rejecting_pods_end_the_launch_with_reason(
    cluster: Path, local_results: Path, slow: Path, postgresql: str, tmp_path: Path
) -> None:
    settings = {"image": "sweeper", "secret": "mine", "folder": str(tmp_path / "nowhere")}
    with pytest.raises(SweeperError, match="nowhere"):
        sweeper.launch(
            slow,
            executor=make_executor("kubernetes", local_results, settings),
            storage=postgresql,
            results=tmp_path / "results",
        )


# ---- what is submitted -------------------------------------------------------------------


ENV = {"SWEEPER_STORAGE": "postgresql://sweeper:secret@db/sweeper"}
COMMAND = ("/opt/venv/bin/python", "-m", "sweeper", "worker", "digits", "--workers", "16")
LOGS = Path("/shared/results/digits/logs")
PLAIN = JobSpec("digits", COMMAND, LOGS, ENV)
LARGE = JobSpec("digits", COMMAND, LOGS, ENV, Resources(cpus=4, gpus=1, memory=8.0))
SUBMITTED: dict[str, tuple[str, JobSpec, dict[str, str]]] = {
    "slurm": ("slurm", PLAIN, {}),
    "slurm-large": (
        "slurm",
        LARGE,
        {"partition": "gpu", "account": "lab 7", "time": "04:00:00"},
    ),
    "kubernetes": ("kubernetes", PLAIN, {"image": "sweeper"}),
    "kubernetes-large": (
        "kubernetes",
        LARGE,
        {
            "image": "images.example.org/sweeper:1",
            "namespace": "sweeps",
            "secret": "database",
            "claim": "results",
            "folder": "/studies of mine",
        },
    ),
}


def submitted(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(os, "urandom", lambda count: b"\x01" * count)
    executor, spec, settings = SUBMITTED[name]
    return make_executor(executor, settings=settings).preview(spec, 16)


@pytest.mark.parametrize("name", SUBMITTED)
def test_submission_matches_recorded_files(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = submitted(name, monkeypatch)
    assert shown == (RECORDED / f"{name}.txt").read_text()
    assert "secret@" not in shown


@pytest.mark.parametrize("name", ["kubernetes", "kubernetes-large"])
def test_manifest_is_valid_against_the_kubernetes_schema(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = submitted(name, monkeypatch).partition("\n")[2].removesuffix("END\n")
    manifest = yaml.safe_load(text)
    check_kind(manifest, "V1Job")
    manifest["spec"]["parallel"] = 3
    with pytest.raises(AssertionError, match="spec: parallel is no key of V1JobSpec"):
        check_kind(manifest, "V1Job")


def check_kind(given: Any, kind: str, place: str = "") -> None:
    """Check a value against a type of Kubernetes' published API, as its client package has it."""
    models = pytest.importorskip("kubernetes.client.models")
    kind = kind.replace("List[", "list[").replace("Dict[", "dict[").replace("dict(", "dict[")
    if kind.startswith("list["):
        assert isinstance(given, list), f"{place}: {kind}"
        for one in given:
            check_kind(one, kind.removeprefix("list[").removesuffix("]"), place)
    elif kind.startswith("dict["):
        assert isinstance(given, dict), f"{place}: {kind}"
    elif kind in SCALARS:
        assert isinstance(given, SCALARS[kind]), f"{place}: {given!r} is no {kind}"
    else:
        model = getattr(models, kind)
        names = {published: own for own, published in model.attribute_map.items()}
        for key, value in given.items():
            assert key in names, f"{place}: {key} is no key of {kind}"
            check_kind(value, model.openapi_types[names[key]], f"{place}.{key}".strip("."))
        # The client's own check, of what is required and of patterns.
        model(**{names[key]: value for key, value in given.items()})


SCALARS: dict[str, Any] = {"str": str, "int": int, "bool": bool, "float": float, "object": object}


@pytest.mark.parametrize("study", ["digits", "A.b_C-", "9" * 100, "x-" * 50, "Z"])
def test_kubernetes_job_names_are_valid_and_unique(study: str) -> None:
    names = {kubernetes.job_name(study) for _ in range(20)}
    assert len(names) == 20
    # A label of DNS (RFC 1123), with room for what Kubernetes adds to the pods' names.
    assert all(re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,55}[a-z0-9])?", name) for name in names)


# ---- what engines refuse -----------------------------------------------------------------


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the only folder in which commands are looked for."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "bin"


def test_missing_ray_is_reported(slow: Path, storage: str) -> None:
    message = r"executor ray needs packages .* \(ray\); run: pip install \"[a-z-]+\[ray\]\"$"
    with patch.dict("sys.modules", {"ray": None}), pytest.raises(MissingExtra, match=message):
        sweeper.launch(slow, executor="ray", storage=storage)
    assert nothing_launched(storage)


@pytest.mark.parametrize(("name", "command"), [("slurm", "sbatch"), ("kubernetes", "kubectl")])
def test_missing_executor_command_is_reported(
    name: str, command: str, bare: Path, slow: Path, postgresql: str
) -> None:
    executor = make_executor(name, settings=SUBMITTED[name][2])
    with pytest.raises(SweeperError, match=f"executor {name}: {command} not found on this mach"):
        sweeper.launch(slow, executor=executor, storage=postgresql)
    assert nothing_launched(postgresql)


@pytest.mark.parametrize(("name", "command"), [("slurm", "sbatch"), ("kubernetes", "kubectl")])
def test_rejected_submission_does_not_change_the_study(
    name: str, command: str, bare: Path, slow: Path, postgresql: str, tmp_path: Path
) -> None:
    fake_command(bare, command, "echo first line >&2; echo 'no quota left' >&2; exit 1")
    executor = make_executor(name, settings=SUBMITTED[name][2])
    study = sweeper.launch(slow, storage=postgresql, detach=True)
    slow.write_text(slow.read_text().replace("trials = 24", "trials = 48"))
    with pytest.raises(SweeperError, match=f"executor {name}: {command} failed: no quota left"):
        sweeper.launch(slow, executor=executor, storage=postgresql)
    assert study.progress().trials == 24
    study.close()


def test_hanging_executor_command_times_out(
    bare: Path, slow: Path, postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "TOOL_SECONDS", 0.2)
    fake_command(bare, "sbatch", "exec /bin/sleep 60")
    with pytest.raises(SweeperError, match=r"executor slurm: sbatch did not respond within 0\.2 s"):
        sweeper.launch(slow, executor="slurm", storage=postgresql)
    assert nothing_launched(postgresql)


def test_lost_jobs_end_the_launch(
    bare: Path, slow: Path, postgresql: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sweeper.worker.launcher.MAX_DEATHS", 1)
    monkeypatch.setattr(tools, "POLL_SECONDS", 0.0)
    fake_command(bare, "sbatch", "echo 7")
    fake_command(bare, "squeue", "echo 'error: Invalid job id specified' >&2; exit 1")
    with pytest.raises(SweeperError, match=r"3 workers died .*: Slurm: the job is unknown"):
        sweeper.launch(slow, executor="slurm", storage=postgresql, results=tmp_path / "results")
    study = sweeper.open_study("slow", postgresql)
    assert (study.progress().ended, study.state) == (0, "unfinished")
    study.close()


def test_queued_jobs_are_reported_and_canceled_on_exit(
    bare: Path,
    slow: Path,
    postgresql: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("sweeper.worker.launcher.QUEUE_SECONDS", 0.0)
    monkeypatch.setattr(tools, "POLL_SECONDS", 0.0)
    fake_command(bare, "sbatch", "echo 7")
    state = f"$([ -e {tmp_path}/cancelled ] && echo CANCELLED || echo PENDING)"
    fake_command(bare, "squeue", f'for n in 0 1; do echo "7_$n {state} (Resources)"; done')
    fake_command(bare, "scancel", f"echo > {tmp_path}/cancelled")
    with caplog.at_level("INFO"):
        study = sweeper.launch(
            slow, executor="slurm", storage=postgresql, results=tmp_path / "results", timeout=2
        )
    assert "slurm: 2 jobs are still waiting in the queue" in caplog.text
    assert study.progress().ended == 0
    study.close()


def test_temporarily_failing_status_query_is_retried(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "POLL_SECONDS", 0.0)
    fake_command(bare, "sbatch", "echo 7")
    fake_command(bare, "squeue", "echo '7_0 RUNNING (None)'")
    [job] = make_executor("slurm").start(JobSpec("s", COMMAND, bare / "logs"), 1)
    assert not job.state().ended
    fake_command(bare, "squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    assert not job.state().ended
    fake_command(bare, "squeue", "echo '7_0 COMPLETED (None)'")
    assert job.state().ended
    monkeypatch.setattr(tools, "SILENCE_SECONDS", -1.0)
    fake_command(bare, "squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(SweeperError, match="Unable to contact slurm controller"):
        job.state()


WRONG: dict[str, tuple[str, str]] = {
    "no command": ("#!/bin/bash\n# {{ log }}", "{{ command }} is missing; put it where the worker"),
    "no log": ("exec {{ command }}", "{{ log }} is missing; put it where the worker's log file"),
    "no value": (
        "{{ command }} {{ log }} {{ partitoin }}",
        "{{ partitoin }} has no value; set it with --set partitoin=VALUE, or remove it",
    ),
    "no syntax": ("{{ command }}\n{{ log }}\n{% if %}", ", line 3: "),
}


@pytest.mark.parametrize("problem", WRONG)
def test_invalid_template_is_a_one_line_error(
    problem: str, slow: Path, postgresql: str, tmp_path: Path
) -> None:
    text, expected = WRONG[problem]
    template = tmp_path / "mine.sh"
    template.write_text(text)
    with pytest.raises(SweeperError) as caught:
        sweeper.launch(slow, executor=make_executor("slurm", template), storage=postgresql)
    assert str(caught.value).startswith(f"{template}{'' if expected[0] == ',' else ': '}{expected}")
    assert len(str(caught.value).splitlines()) == 1
    assert nothing_launched(postgresql)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ name }}: [{{ command }} {{ count }}", "the rendered template is not valid YAML"),
        ("kind: Pod # {{ name }} {{ command }} {{ count }}", "is not a Job with a name"),
        ("[{{ name | json }}, {{ command }}, {{ count }}]", "is not a Job with a name"),
    ],
)
def test_manifest_without_job_is_rejected(
    text: str, expected: str, slow: Path, postgresql: str, tmp_path: Path
) -> None:
    template = tmp_path / "mine.yaml"
    template.write_text(text)
    with pytest.raises(SweeperError, match=expected):
        sweeper.launch(slow, executor=make_executor("kubernetes", template), storage=postgresql)
    assert nothing_launched(postgresql)


def test_cli_lists_all_executors() -> None:
    choices, _ = get_args(options.ExecutorName)
    assert get_args(choices) == NAMES


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("slrum",), "unknown executor 'slrum' (did you mean 'slurm'?); allowed: inline, local, "),
        (("local", "x.sh"), "template: not supported by executor local; allowed with slurm and "),
        (("slurm", "/"), "template: / cannot be read: Is a directory"),
        (("kubernetes", "/none.yaml"), "template: /none.yaml cannot be read: No such file"),
        (
            ("local", None, {"cpus": "2"}),
            "--set cpus: unknown setting of executor local; allowed: none",
        ),
        (
            ("ray", None, {"adress": "x"}),
            "--set adress: unknown setting of executor ray; allowed: address",
        ),
    ],
)
def test_executors_reject_unknown_options(given: Any, expected: str) -> None:
    with pytest.raises(SweeperError) as caught:
        make_executor(*given)
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"partitoin": "gpu"}, "has no such placeholder (did you mean 'partition'?)"),
        ({"cpus": "3"}, "--set cpus: cannot be set, because the study and the launch define it"),
        (
            {"partition": "gpu\nrm"},
            "--set partition: must be one line of printable text, got 'gpu\\nrm'",
        ),
    ],
)
def test_settings_of_a_template_are_checked(settings: dict[str, str], expected: str) -> None:
    with pytest.raises(SweeperError) as caught:
        make_executor("slurm", settings=settings).preview(PLAIN, 1)
    assert expected in str(caught.value)


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_fractional_gpus_require_ray(name: str) -> None:
    part = JobSpec("digits", COMMAND, LOGS, ENV, Resources(gpus=0.5))
    with pytest.raises(
        SweeperError, match=rf"resources\.gpus: must be an integer with {name.title()}, got 0\.5"
    ):
        make_executor(name, settings=SUBMITTED[name][2]).preview(part, 1)


@pytest.mark.parametrize(
    ("name", "workers", "expected"),
    [
        ("local", 1000, r"workers: must be from 0 \(train in this process\) to 256, got 1000"),
        ("inline", 2, "workers: must be from 1 to 1 with inline, got 2"),
        ("slurm", 0, "workers: must be from 1 to 10000 with slurm, got 0"),
        ("ray", -1, "workers: must be from 1 to 10000 with ray, got -1"),
    ],
)
def test_worker_count_limits(
    name: str, workers: int, expected: str, slow: Path, postgresql: str
) -> None:
    with pytest.raises(SweeperError, match=expected):
        sweeper.launch(slow, workers=workers, executor=name, storage=postgresql)
    assert nothing_launched(postgresql)


@pytest.mark.parametrize("name", ["slurm", "kubernetes", "ray"])
def test_multiple_machines_reject_sqlite(name: str, slow: Path, storage: str) -> None:
    settings = {"address": "head:6379"} if name == "ray" else SUBMITTED[name][2]
    with pytest.raises(SweeperError, match=f"executor {name}: workers on several machines cannot"):
        sweeper.launch(slow, executor=make_executor(name, settings=settings), storage=storage)


@pytest.mark.parametrize("name", ["inline", "ray"])
def test_detach_requires_executor_that_outlives_launch(name: str, slow: Path, storage: str) -> None:
    with pytest.raises(
        SweeperError, match=f"detach: not possible with executor {name}, whose workers end"
    ):
        sweeper.launch(slow, executor=name, storage=storage, detach=True)
