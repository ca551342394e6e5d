"""Devices by name, and what is stored about the place where a trial ran."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sweeper.errors import SweeperError
from sweeper.training import environment, pick_device
from sweeper.training.device import device_named

CPU = torch.device("cpu")


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "study.toml").write_text("a = 1")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    git(folder, "tag", "-a", "-m", "a tag must not stand for the commit", "v1")
    return folder


def test_cpu_and_auto() -> None:
    assert pick_device("cpu") == CPU
    assert pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_stored_device_name_is_resolved() -> None:
    name = environment(pick_device())["device"]
    assert environment(device_named(name))["device"] == name
    assert device_named("cpu") == CPU
    assert device_named("a GPU of elsewhere") == pick_device()


@pytest.mark.parametrize("name", ["gpu", "", "cuda:", "cuda:-1", "cuda:x", "cuda:²", "cpu:0:0"])
def test_invalid_device_name_is_rejected(name: str) -> None:
    with pytest.raises(SweeperError) as caught:
        pick_device(name)
    assert str(caught.value) == (
        f"unknown device {name!r}; allowed: auto, cpu, cuda, cuda:0, cuda:1, ..."
    )


def test_missing_device_is_rejected() -> None:
    with pytest.raises(SweeperError) as caught:
        pick_device("cuda:99")
    assert str(caught.value) == (
        f"device 'cuda:99' is not available: torch {torch.__version__} finds "
        f"{torch.cuda.device_count()} CUDA devices; use auto or cpu, or install a torch build and "
        "driver that support the device"
    )


def test_environment_lists_what_determines_results() -> None:
    found = environment(CPU)
    assert found["torch"] == torch.__version__
    assert found["threads"] == str(torch.get_num_threads())
    assert found["device"] == "cpu"
    assert found["python"] == sys.version.split()[0]
    assert {"numpy", "optuna", "cpu", "cpu_instructions"} <= set(found)
    assert all(found.values())
    assert "commit" not in found


def test_the_commit_of_a_checkout_and_whether_it_was_changed(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    assert environment(CPU, checkout)["commit"] == commit
    (checkout / "study.toml").write_text("a = 2")
    assert environment(CPU, checkout)["commit"] == f"{commit}-dirty"


def test_no_commit_outside_a_checkout_or_without_git(
    tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "commit" not in environment(CPU, tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert "commit" not in environment(CPU, checkout)
