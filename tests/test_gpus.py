"""GPUs: what each slot gets, with made-up device lists; no GPU is needed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import sweeper
from sweeper.api.worker_pool import RunOptions, worker_pool
from sweeper.errors import SweeperError
from sweeper.executors import make_executor
from sweeper.study.load import parse_spec
from sweeper.study.resources import job_cores, job_slots, slot_cores
from sweeper.study.spec import StudySpec
from sweeper.worker import gpus
from sweeper.worker.gpus import GpuPool, check_slots, default_slots, gpu_names, slots_that_fit

UUIDS = ("GPU-11111111-2222", "GPU-33333333-4444")
MIGS = ("MIG-aaaa", "MIG-bbbb", "MIG-cccc")


def spec_of(resources: Any = None, **task: Any) -> StudySpec:
    return parse_spec(
        {
            "study": {"name": "s"},
            "task": {"use": "a.py:train", **task},
            "resources": resources or {},
        }
    )


@pytest.mark.parametrize(
    ("visible", "count", "names"),
    [
        (None, 0, ()),
        (None, 3, ("0", "1", "2")),
        ("", 0, ()),
        ("3, 1", 2, ("3", "1")),
        (",".join(UUIDS), 2, UUIDS),
        ("0,9", 1, ("0",)),  # there is no GPU 9, and what follows is ignored
        (",".join(MIGS), 1, MIGS),
    ],
)
def test_names_of_gpus(visible: str | None, count: int, names: Sequence[str]) -> None:
    assert gpu_names(visible, count) == names


def visible_devices(spec: StudySpec, names: Sequence[str], slots: int) -> list[str | None]:
    """Return the CUDA_VISIBLE_DEVICES of each slot, None if it has to wait for GPUs."""
    pool = GpuPool(names, slots)
    shares = [pool.take(spec) for _ in range(slots)]
    return [None if s is None else s.environment.get("CUDA_VISIBLE_DEVICES") for s in shares]


@pytest.mark.parametrize(
    ("resources", "names", "slots"),
    [
        ({}, ("0", "1", "2"), ["0", "1", "2"]),
        ({}, UUIDS, [*UUIDS]),
        ({"gpus": 1}, ("5",), ["5"]),
        ({"gpus": 0.5}, ("0", "1"), ["0", "1", "0", "1"]),
        ({"gpus": 0.1}, ("0",), ["0"] * 10),
        ({"gpus": 2}, ("0", "1", "2", "3", "4"), ["0,1", "2,3"]),
        ({"gpus": 2}, (*UUIDS, *MIGS), [",".join(UUIDS), "MIG-aaaa,MIG-bbbb"]),
    ],
)
def test_each_slot_gets_its_gpus(
    resources: Any, names: Sequence[str], slots: Sequence[str]
) -> None:
    spec = spec_of(resources)
    assert slots_that_fit(spec, names) == default_slots([spec], names) == len(slots)
    assert visible_devices(spec, names, len(slots)) == slots


def test_slots_share_gpus_equally_if_the_study_names_none() -> None:
    assert visible_devices(spec_of(), ("0", "1"), 4) == ["0", "1", "0", "1"]
    pool = GpuPool(("0", "1"), 4)
    assert [share.gpus for share in [pool.take(spec_of())] if share] == [0.5]


def test_no_gpu_is_given_twice_and_returned_ones_are_given_again() -> None:
    pool = GpuPool(("0", "1", "2"), 3)
    both = pool.take(spec_of({"gpus": 2}))
    single = pool.take(spec_of({"gpus": 1}))
    assert both is not None
    assert single is not None
    assert (both.names, both.gpus, single.names) == (("0", "1"), 2.0, ("2",))
    assert pool.take(spec_of({"gpus": 0.5})) is None
    pool.give_back(single)
    half = pool.take(spec_of({"gpus": 0.5}))
    assert half is not None
    assert (half.names, half.gpus) == (("2",), 0.5)
    assert pool.take(spec_of({"gpus": 1})) is None


def test_a_study_on_cpus_sees_no_gpu() -> None:
    spec = spec_of(device="cpu")
    assert slots_that_fit(spec, ("0", "1")) is None
    assert visible_devices(spec, ("0", "1"), 3) == ["", "", ""]


def test_a_study_of_one_device_sees_all_gpus() -> None:
    spec = spec_of(device="cuda:1")
    assert slots_that_fit(spec, ("0", "1")) == 1
    assert visible_devices(spec, ("0", "1"), 1) == [None]


@pytest.mark.parametrize(
    ("resources", "names", "error"),
    [
        (
            {"gpus": 1},
            (),
            "resources.gpus: gpus = 1, but torch can use 0 GPUs on this machine; use another "
            "machine, or lower gpus",
        ),
        (
            {"gpus": 2},
            ("7",),
            "resources.gpus: gpus = 2, but torch can use 1 GPU on this machine "
            '(CUDA_VISIBLE_DEVICES is "7"); use another machine, or lower gpus, or train the ranks '
            'on CPUs: resources.ranks = 2 and task.device = "cpu"',
        ),
    ],
)
def test_too_few_gpus(
    resources: Any, names: Sequence[str], error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if names:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(names))
    with pytest.raises(SweeperError) as raised:
        slots_that_fit(spec_of(resources), names)
    assert str(raised.value) == error


def test_too_many_slots_for_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    spec = spec_of({"gpus": 0.5})
    check_slots(spec, ("0", "1"), 4)
    with pytest.raises(SweeperError) as raised:
        check_slots(spec, ("0", "1"), 5)
    assert str(raised.value) == (
        "resources.gpus: 5 training runs at a time with gpus = 0.5 each, but torch can use 2 GPUs "
        "on this machine; use at most 4 (--workers, or --slots of a worker), or lower gpus"
    )


@pytest.mark.parametrize(
    ("task", "resources", "error"),
    [
        ({"device": "cpu"}, {"gpus": 1}, 'resources.gpus: gpus = 1 with task.device = "cpu"'),
        ({"device": "cuda:1"}, {"gpus": 1}, "task.device: a training run sees only its own GPUs"),
        ({}, {"gpus": 1.5}, "resources.gpus: must be an integer or a fraction below 1, got 1.5"),
        ({}, {"ranks": 2}, "resources.ranks: each rank needs a GPU or CPUs"),
        ({}, {"gpus": 2, "ranks": 3}, "resources.ranks: must be equal to gpus = 2"),
        ({"use": "", "program": "a.py"}, {"ranks": 2}, "resources.ranks: a script starts its"),
    ],
)
def test_contradictions_in_a_study_file(task: Any, resources: Any, error: str) -> None:
    with pytest.raises(SweeperError) as raised:
        spec_of(resources, **task)
    assert str(raised.value).startswith(error)


@pytest.mark.parametrize(
    ("resources", "cores", "slots", "of_slot"),
    [
        ({}, 2, 1, 2),
        ({"cpus": 8}, 8, 4, 2),
        ({"cpus": 8, "gpus": 1}, 8, 1, 8),
        ({"gpus": 2}, 4, 1, 4),
        ({"gpus": 0.5}, 2, 1, 2),
    ],
)
def test_cores_of_jobs_and_slots(resources: Any, cores: int, slots: int, of_slot: float) -> None:
    spec = spec_of(resources, threads=2)
    assert (job_cores(spec), job_slots(spec), slot_cores(spec)) == (cores, slots, of_slot)


FUNCTION = """
import os
from pathlib import Path

def train(run):
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    Path(run.options["log"], f"{run.number}").write_text(str(seen))
    run.report([[1.0, 0.0], [0.0, 1.0]], [0, 1], progress=1)
"""


def launch(tmp_path: Path, resources: str, **options: Any) -> list[str]:
    """Train a study; return the CUDA_VISIBLE_DEVICES of each trial."""
    (tmp_path / "log").mkdir()
    (tmp_path / "loop.py").write_text(FUNCTION)
    path = tmp_path / "loop.toml"
    path.write_text(
        f"[study]\nname = 'loop'\n[task]\nuse = 'loop.py:train'\n"
        f"[task.options]\nlog = '{tmp_path}/log'\n[budget]\ntrials = 8\n"
        f"[confirm]\nenabled = false\n[resources]\n{resources}\n"
    )
    storage = f"sqlite:///{tmp_path}/s.db"
    sweeper.launch(path, storage=storage, results=tmp_path / "results", check=False, **options)
    return [(tmp_path / "log" / str(number)).read_text() for number in range(8)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("resources", "names", "allowed"),
    [
        ("", UUIDS, {*UUIDS}),
        ("gpus = 0.5", ("3",), {"3"}),
        ("gpus = 1", MIGS, {*MIGS}),
    ],
)
def test_trainers_see_their_gpus(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    resources: str,
    names: Sequence[str],
    allowed: set[str],
) -> None:
    """The worker runs as a process; sitecustomize gives it the list of devices."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        f"import sweeper.worker.gpus as gpus\ngpus.visible_gpus = lambda: {tuple(names)!r}\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{site}:{Path(sweeper.__file__).parents[1]}")
    monkeypatch.setattr("sweeper.api.worker_pool.visible_gpus", lambda: tuple(names))
    seen = launch(tmp_path, resources)
    assert set(seen) <= allowed
    assert seen


def test_missing_gpus_are_an_error_before_anything_is_written(tmp_path: Path) -> None:
    if gpus.visible_gpus():
        pytest.skip("this machine has GPUs")
    with pytest.raises(SweeperError, match=r"resources\.gpus: gpus = 1, but torch can use 0 GPUs"):
        launch(tmp_path, "gpus = 1")
    assert not (tmp_path / "s.db").exists()


@pytest.mark.parametrize(
    ("executor", "settings", "expected"),
    [
        ("slurm", {}, ("--gpus-per-node=2", "--cpus-per-task=2", "--slots 1")),
        ("kubernetes", {"image": "i"}, ('nvidia.com/gpu: "2"', 'cpu: "2"', '"--slots", "1"')),
        ("ray", {}, ("each with 2 CPUs, 2 GPUs, 3 GiB", "--slots 1")),
    ],
)
def test_gpus_reach_the_jobs(executor: str, settings: Any, expected: Sequence[str]) -> None:
    made = make_executor(executor, settings=settings)
    options = RunOptions(executor=made, storage="postgresql+psycopg://a@host/b", workers=2)
    pool = worker_pool(options)
    job = pool.job("s", spec_of({"gpus": 2, "memory": 3.0}), options)
    shown = made.preview(job, pool.workers)
    assert [text for text in expected if text not in shown] == []
