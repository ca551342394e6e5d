"""`run.number` and `run.directory`: one folder per trial, which survives interruptions."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import sweeper
from sweeper.store.database import open_writer
from sweeper.store.tickets import claim, revoke_leases
from sweeper.study.registration import register
from sweeper.worker.served_studies import WorkerOptions
from sweeper.worker.stopping import StopRequest
from sweeper.worker.worker import work
from tests.support.in_process_runs import StopAfter, registered, run, text
from tests.support.in_process_runs import work as work_here
from tests.support.studies import copy_task, read_here

Write = Callable[..., Path]


@pytest.fixture
def write(write_study: Write, tmp_path: Path) -> Write:
    """Return a function that writes a study with a function of tests/tasks/folders.py."""

    def write(function: str, trials: int, rest: str = "[confirm]\nenabled = false") -> Path:
        copy_task(tmp_path, "folders.py")
        options = f"options = {{ trace = '{tmp_path}/trace' }}"
        return write_study(text(f"folders.py:{function}", options, trials, rest))

    return write


def traced(tmp_path: Path) -> list[tuple[int, int, Path]]:
    lines = [line.split() for line in (tmp_path / "trace").read_text().splitlines()]
    return [(int(number), int(epoch), Path(folder)) for number, epoch, folder in lines]


def test_an_interrupted_trial_finds_its_files_and_only_the_best_keeps_them(
    write: Write, storage: str, tmp_path: Path
) -> None:
    store, record = registered(write("resumable", trials=6), storage)
    work_here(store, record, StopAfter(4))
    folder = tmp_path / "results" / "quick" / "trials"
    assert (folder / "0" / "epoch").read_text() == "3"
    work_here(store, record, StopRequest())
    store.close()
    steps = traced(tmp_path)
    assert len(steps) == len({(number, epoch) for number, epoch, _ in steps})
    assert all(directory == folder / str(number) for number, _, directory in steps)
    study = sweeper.open_study("quick", storage)
    frame, best = study.frame(), study.best
    epochs = study.epochs()
    assert (epochs["progress"] == epochs["epoch"] / 8).all()
    assert epochs[epochs["number"] == 0]["epoch"].tolist() == list(range(1, 9))
    trained = frame[frame["epochs"] > 0]
    assert trained["extra_number"].tolist() == trained["number"].tolist()
    assert (trained["epochs"] == 8).sum() >= 2
    assert best is not None
    assert [path.name for path in folder.glob("[0-9]*")] == [str(best["number"])]
    assert sorted(os.listdir(folder)) == sorted([str(best["number"]), f".{best['number']}.owner"])


@pytest.mark.parametrize("function", ["early", "best_fails"])
def test_the_best_complete_trial_keeps_its_files(
    write: Write, storage: str, tmp_path: Path, function: str
) -> None:
    study = run(write(function, trials=6), storage)
    best = study.best
    assert best is not None
    assert set(study.frame()["state"]) - {"pruned"} == (
        {"complete"} if function == "early" else {"complete", "failed"}
    )
    folder = tmp_path / "results" / "quick" / "trials"
    assert [path.name for path in folder.glob("[0-9]*")] == [str(best["number"])]


def test_a_new_study_does_not_find_files_of_a_deleted_one(
    write: Write, storage: str, tmp_path: Path
) -> None:
    file, results = write("resumable", trials=1), tmp_path / "results"
    store, record = registered(file, storage)
    work_here(store, record, StopAfter(4))
    store.close()
    sweeper.delete("quick", storage)
    store = open_writer(storage)
    record = register(store, read_here(file))
    assert claim(store, record.id, "dead", below=1) is not None
    revoke_leases(store, ["dead"])  # so that the next claim is not the first one
    work(store, WorkerOptions("quick", results), StopRequest())
    store.close()
    assert [epoch for _, epoch, _ in traced(tmp_path)] == [1, 2, 3, *range(1, 9)]


def test_files_of_failed_trials_are_removed(write: Write, storage: str, tmp_path: Path) -> None:
    frame = run(write("fails", trials=2), storage).frame()
    assert set(frame["state"]) == {"failed"}
    assert os.listdir(tmp_path / "results" / "quick" / "trials") == []


def test_training_runs_of_a_confirmation_have_their_own_folders(
    write: Write, storage: str, tmp_path: Path
) -> None:
    rest = "[confirm]\nreplicates = 2\nshortlist = 1"
    study = run(write("replicate", trials=3, rest=rest), storage)
    assert study.verdict() is not None
    folder = tmp_path / "results" / "quick" / "trials"
    searched = [(number, d) for number, _, d in traced(tmp_path) if d.name.isdigit()]
    confirmed = [(number, d) for number, _, d in traced(tmp_path) if not d.name.isdigit()]
    assert [number for number, _ in confirmed] == list(range(len(confirmed)))
    assert [d for _, d in confirmed] == [folder / f"confirm-1-{n}" for n, _ in confirmed]
    assert [d for _, d in searched] == [folder / str(number) for number, _ in searched]
    assert len(confirmed) >= 4
    assert not list(folder.glob("*confirm*"))


def test_a_replay_uses_a_temporary_folder(write: Write, storage: str, tmp_path: Path) -> None:
    run(write("resumable", trials=2), storage)
    (tmp_path / "trace").unlink()
    assert sweeper.replay("quick", 1, storage).same
    [folder] = {folder for _, _, folder in traced(tmp_path)}
    assert {number for number, _, _ in traced(tmp_path)} == {1}
    assert not folder.exists()
    assert not folder.is_relative_to(tmp_path / "results")


def test_a_trial_that_does_not_use_its_folder_needs_none(
    write: Write, storage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "results" / "quick"
    folder.mkdir(parents=True)
    (folder / "trials").symlink_to("/dev/full/trials")
    with caplog.at_level(logging.WARNING):
        frame = run(write("no_folder", trials=1), storage).frame()
    assert frame["state"].tolist() == ["complete"]
    assert "cannot create the folder of the trial" in caplog.text


@pytest.mark.slow
def test_a_killed_trial_finds_its_files(write: Write, storage: str, tmp_path: Path) -> None:
    file = write("killed_once", trials=1)
    study = sweeper.launch(file, workers=1, storage=storage, results=tmp_path / "results")
    assert study.frame()["state"].tolist() == ["complete"]
    steps = [epoch for _, epoch, _ in traced(tmp_path)]
    assert steps == list(range(1, 9))
    assert {folder for *_, folder in traced(tmp_path)} == {tmp_path / "results/quick/trials/0"}
