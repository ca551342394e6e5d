"""Training functions on several ranks: complete, pruned, failed and killed, with gloo on CPUs."""

import os
from pathlib import Path
from typing import Any

import psutil
import pytest

import sweeper
from sweeper import SweeperError

pytestmark = pytest.mark.slow
TASKS = Path(__file__).parent / "tasks"
RANKS = 2


@pytest.fixture
def log(tmp_path: Path) -> Path:
    folder = tmp_path / "log"
    folder.mkdir()
    return folder


def study(tmp_path: Path, log: Path, **tables: Any) -> sweeper.Study:
    """Launch a study of the function in tests/tasks/ranked.py on ranks."""
    (tmp_path / "ranked.py").write_text((TASKS / "ranked.py").read_text())
    task = {"use": "ranked.py:train", "device": "cpu", **tables.get("task", {})}
    log_option = {"log": str(log)} if task["use"].startswith("ranked.py") else {}
    task["options"] = {**log_option, **tables.get("options", {})}
    lines = [
        "[study]\nname = 'ranked'",
        "[task]",
        *(f"{key} = {value!r}" for key, value in task.items() if key != "options"),
        "[task.options]",
        *(
            f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}"
            for key, value in task["options"].items()
        ),
        "[space]\nschedule = ['fixed']\nepsilon = { low = 0.0, high = 0.9 }",
        f"[budget]\ntrials = {tables.get('trials', 3)}",
        "[sampler]\nname = 'random'",
        f"[confirm]\nenabled = {str(tables.get('confirm', False)).lower()}\nreplicates = 2",
        tables.get("pruner", "[pruner]\nname = 'none'"),
        f"[resources]\nranks = {RANKS}",
    ]
    path = tmp_path / "ranked.toml"
    path.write_text("\n".join(lines))
    return sweeper.launch(
        path,
        storage=f"sqlite:///{tmp_path}/s.db",
        results=tmp_path / "results",
        workers=tables.get("workers", 1),
        check=False,
    )


def processes(log: Path) -> list[int]:
    return [int(path.name.rpartition("-")[2]) for path in log.glob("rank-*")]


def assert_none_left(log: Path) -> None:
    assert processes(log)
    assert not [process for process in processes(log) if psutil.pid_exists(process)]


@pytest.mark.parametrize("everyone_reports", [True, False])
def test_function_runs_on_all_ranks_and_is_confirmed(
    tmp_path: Path, log: Path, everyone_reports: bool
) -> None:
    done = study(tmp_path, log, options={"all": everyone_reports}, confirm=True, workers=2)
    assert done.frame()["state"].tolist() == ["complete"] * 3
    assert done.frame()["epochs"].tolist() == [4] * 3
    assert done.progress().confirmed == done.progress().confirming > 0
    ranks = [path.name.split("-")[1:3] for path in log.glob("rank-*")]
    assert ranks.count(["1", "0"]) == ranks.count(["1", "1"]) == 2  # also in the confirmation
    assert_none_left(log)


def test_function_that_yields_runs_on_ranks(tmp_path: Path, log: Path) -> None:
    done = study(tmp_path, log, task={"use": "ranked.py:yields"})
    assert done.frame()["state"].tolist() == ["complete"] * 3


@pytest.mark.parametrize("everyone_reports", [True, False])
def test_pruned_trial_ends_on_all_ranks(tmp_path: Path, log: Path, everyone_reports: bool) -> None:
    pruner = "[pruner]\nname = 'percentile'\npercentile = 1.0\nstartup = 1\nwarmup = 0.0"
    done = study(tmp_path, log, options={"all": everyone_reports}, pruner=pruner, trials=4)
    states = done.frame()["state"].tolist()
    assert states[0] == "complete"
    assert set(states[1:]) == {"pruned"}
    assert_none_left(log)


@pytest.mark.parametrize("at", range(RANKS))
def test_trial_resumes_after_one_rank_is_killed(tmp_path: Path, log: Path, at: int) -> None:
    done = study(tmp_path, log, options={"at": at, "how": "kill"})
    assert done.frame()["state"].tolist() == ["complete"] * 3
    assert done.progress().retried == 1
    assert_none_left(log)


@pytest.mark.parametrize("at", range(RANKS))
@pytest.mark.parametrize(
    ("how", "cause", "failure"),
    [
        ("raise", "raised", "rank {at} is broken"),
        ("exit", "exited", "rank {at} exited with status 3"),
    ],
)
def test_trial_fails_with_the_failure_of_its_rank(
    tmp_path: Path, log: Path, at: int, how: str, cause: str, failure: str
) -> None:
    done = study(tmp_path, log, options={"at": at, "how": how}, trials=2)
    frame = done.frame()
    assert frame["state"].tolist() == ["complete", "failed"]
    assert frame["cause"].tolist() == ["", cause]
    text = done.trial(1).result.failure
    assert failure.format(at=at) in text
    assert text.startswith("rank 1: ") == (how == "raise" and at == 1)
    assert_none_left(log)


def test_task_cannot_be_trained_on_ranks(tmp_path: Path, log: Path) -> None:
    with pytest.raises(SweeperError, match=r"resources\.ranks: digits is a task, .* this is 2"):
        study(tmp_path, log, task={"use": "digits"}, options={})


def test_ranks_need_a_worker_process(tmp_path: Path, log: Path) -> None:
    with pytest.raises(SweeperError, match="a training run with 2 ranks cannot be trained in the"):
        study(tmp_path, log, workers=0)
    assert os.listdir(log) == []
