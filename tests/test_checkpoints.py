"""Trials that go on where they were, and weights that are kept."""

import logging
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import sweeper
from sweeper import api
from sweeper.api import Study
from sweeper.smoothing import Smoothing
from sweeper.store.database import open_writer
from sweeper.store.tickets import Ticket, claim, revoke_leases
from sweeper.study.registration import register
from sweeper.tasks.digits import digits, mlp
from sweeper.tasks.importing import StudyModules
from sweeper.tasks.loading import load_task
from sweeper.training import checkpoints
from sweeper.training.checkpoints import (
    Checkpoint,
    discard,
    load,
    load_weights,
    save,
    save_weights,
)
from sweeper.training.loop import load_splits, predict, train
from sweeper.training.messages import Start
from sweeper.training.run import Evaluation, TrainingRun
from sweeper.training.task import Optimizer, Task
from sweeper.worker.served_studies import EndReason, WorkerOptions
from sweeper.worker.stopping import StopRequest
from sweeper.worker.trial_files import TrialFiles
from sweeper.worker.worker import work
from tests.support.in_process_runs import StopAfter
from tests.support.studies import RESUMABLE, read_here, steps

Write = Callable[..., Path]
STATE = {"epochs": 2, "model": {"w": torch.arange(3.0)}, "list": [1, 0.5, None, "ε"]}


# ---- files -------------------------------------------------------------------------------


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "trial-1.pt"
    save(path, Checkpoint("k", 2, 1.5, STATE))
    found = load(path, "k")
    assert found is not None
    assert (found.epochs, found.seconds) == (2, 1.5)
    assert torch.equal(found.state["model"]["w"], STATE["model"]["w"])  # type: ignore[index]
    assert found.state["list"] == STATE["list"]
    assert os.listdir(path.parent) == ["trial-1.pt"]


def test_checkpoint_of_another_trial_is_ignored(tmp_path: Path) -> None:
    save(tmp_path / "c.pt", Checkpoint("k", 2, 1.5, STATE))
    assert load(tmp_path / "c.pt", "other") is None
    assert load(tmp_path / "none.pt", "k") is None


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_checkpoint_is_ignored(tmp_path: Path, share: float) -> None:
    path = tmp_path / "c.pt"
    save(path, Checkpoint("k", 2, 1.5, STATE))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert load(path, "k") is None


class Hostile:
    """Runs a command where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("write", [torch.save, lambda v, p: p.write_bytes(pickle.dumps(v, 2))])
def test_malicious_checkpoint_executes_no_code(tmp_path: Path, write: Callable[..., Any]) -> None:
    path, trace = tmp_path / "c.pt", tmp_path / "trace"
    write({"format": 1, "key": "k", "state": Hostile(trace)}, path)
    assert load(path, "k") is None
    assert load_weights(path, "k") is None
    assert not trace.exists()


@pytest.mark.parametrize(
    ("state", "place"),
    [
        ({"a": [np.arange(2)]}, r"state\['a'\]\[0\] is an ndarray of shape \(2,\)"),
        ({"a": {1, 2}}, r"state\['a'\] is a set of length 2"),
        ({Path("x"): 1}, "a key of state is a PosixPath"),
    ],
)
def test_unloadable_state_is_not_saved(tmp_path: Path, state: Any, place: str) -> None:
    with pytest.raises(TypeError, match=place):
        save(tmp_path / "c.pt", Checkpoint("k", 1, 0.0, state))
    assert list(tmp_path.iterdir()) == []


def test_discard_removes_temporary_files_of_killed_writers(tmp_path: Path) -> None:
    path = tmp_path / "trial-1.pt"
    save_weights(path, "k", {"w": torch.zeros(1)})
    (tmp_path / ".trial-1.pt.abc").write_bytes(b"half")
    (tmp_path / ".trial-11.pt.abc").write_bytes(b"another's")
    discard(path)
    discard(path)
    assert os.listdir(tmp_path) == [".trial-11.pt.abc"]


# ---- the built-in loop -------------------------------------------------------------------


def logits_of(task: Task, run: TrainingRun) -> Iterator[Tensor]:
    return (evaluation.logits for evaluation in train(task, run))


@pytest.mark.parametrize("after", [1, 3])
@pytest.mark.parametrize("model", ["mlp", "cnn"])
@pytest.mark.parametrize(
    "optimizer",
    [
        Optimizer("adam", lr=3e-3),
        Optimizer("adamw", lr=3e-3, weight_decay=0.01),
        Optimizer("sgd", lr=0.1, momentum=0.9),
    ],
    ids=lambda optimizer: optimizer.name,
)
@pytest.mark.usefixtures("one_thread")
def test_resumed_training_is_bitwise_equal(
    tmp_path: Path, model: Any, optimizer: Optimizer, after: int
) -> None:
    task = replace(digits(model=model, train_fraction=0.3), epochs=4, optimizer=optimizer)
    run = TrainingRun(Smoothing(0.2, "linear", 1.0), 5, 5, hparams={"dropout": 0.3})
    straight = list(logits_of(task, run))
    for epoch, evaluation in enumerate(train(task, run), start=1):
        if epoch == after:
            assert evaluation.state is not None
            save(tmp_path / "c.pt", Checkpoint("k", epoch, 0.0, dict(evaluation.state())))
            break
    found = load(tmp_path / "c.pt", "k")
    assert found is not None
    resumed = list(logits_of(task, replace(run, state=found.state)))
    assert len(resumed) == 4 - after
    assert all(map(torch.equal, straight[after:], resumed))


class Normed(nn.Module):
    """A model with buffers that training changes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Linear(16, 10))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


@pytest.mark.usefixtures("one_thread")
def test_resume_restores_running_statistics(tmp_path: Path) -> None:
    task = replace(digits(train_fraction=0.3), epochs=3, model=lambda _: Normed(), hparams={})
    run = TrainingRun(Smoothing(0.1), 0, 0)
    straight = list(logits_of(task, run))
    first = next(iter(train(task, run)))
    assert first.state is not None
    save(tmp_path / "c.pt", Checkpoint("k", 1, 0.0, dict(first.state())))
    found = load(tmp_path / "c.pt", "k")
    assert found is not None
    resumed = list(logits_of(task, replace(run, state=found.state)))
    assert all(map(torch.equal, straight[1:], resumed))


@pytest.mark.usefixtures("one_thread")
def test_example_custom_loop_resumes(tmp_path: Path) -> None:
    trainer = load_task(
        "own_loop.py:train", {}, StudyModules(Path(__file__).parent.parent / "studies")
    ).trainer
    run = TrainingRun(Smoothing(0.1, "linear", 1.0), 3, 3)
    straight = [evaluation.logits for evaluation in trainer(run)]
    for epoch, evaluation in enumerate(trainer(run), start=1):
        if epoch == 12:
            assert evaluation.state is not None
            save(tmp_path / "c.pt", Checkpoint("k", epoch, 0.0, dict(evaluation.state())))
            break
    found = load(tmp_path / "c.pt", "k")
    assert found is not None
    resumed = [evaluation.logits for evaluation in trainer(replace(run, state=found.state))]
    assert len(resumed) == 18
    assert all(map(torch.equal, straight[12:], resumed))


# ---- studies -----------------------------------------------------------------------------

DIGITS = """
[study]
name = "digits"
[task]
use = "digits"
options = { train_fraction = 0.2 }
[budget]
trials = 6
[pruner]
name = "none"
"""


def run(file: Path, storage: str) -> Study:
    return sweeper.launch(file, workers=0, storage=storage, results=file.parent / "results")


def test_resumed_trial_repeats_no_epoch(write_study: Write, storage: str, tmp_path: Path) -> None:
    trace, results = tmp_path / "trace", tmp_path / "results"
    store = open_writer(storage)
    record = register(store, read_here(write_study(RESUMABLE.format(trace=trace, trials=2))))
    options = WorkerOptions("quick", results)
    work(store, options, StopAfter(4))  # asked twice before the first claim, once per epoch
    assert steps(trace) == [(0.0, 1), (0.0, 2), (0.0, 3)]
    assert os.listdir(results / "quick" / "checkpoints") == ["trial-0.1.pt"]
    work(store, options, StopRequest())
    store.close()
    trained = steps(trace)
    assert len(trained) == len(set(trained)) == 16
    assert os.listdir(results / "quick" / "checkpoints") == []
    study = Study(record.name, storage)
    assert study.epochs().groupby("number").size().tolist() == [8, 8]
    assert study.frame()["epochs"].tolist() == [8, 8]
    assert study.frame()["extra_sum"].nunique() == 2
    assert "quick training begins" in study.log(0)


def test_checkpoint_of_older_code_is_ignored(
    write_study: Write, storage: str, tmp_path: Path
) -> None:
    trace, results = tmp_path / "trace", tmp_path / "results"
    file = write_study(RESUMABLE.format(trace=trace, trials=1))
    store = open_writer(storage)
    register(store, read_here(file))
    work(store, WorkerOptions("quick", results), StopAfter(4))
    store.close()
    task = tmp_path / "quick.py"
    task.write_text(task.read_text() + "# edited\n")
    sweeper.launch(file, workers=0, storage=storage, results=results, accept_code=True)
    assert steps(trace) == [(0.0, epoch) for epoch in (1, 2, 3, *range(1, 9))]
    assert os.listdir(results / "quick" / "checkpoints") == []


def test_files_unknown_to_a_restored_database_are_ignored(
    write_study: Write, storage: str, tmp_path: Path
) -> None:
    trace, results = tmp_path / "trace", tmp_path / "results"
    store = open_writer(storage)
    register(store, read_here(write_study(RESUMABLE.format(trace=trace, trials=1))))
    api.backup(tmp_path / "backup.db", storage)
    work(store, WorkerOptions("quick", results), StopAfter(4))
    store.close()
    files = results / "quick" / "checkpoints"
    [checkpoint] = files.glob("*.pt")
    # A second claim of that history, which the restored database will reach too.
    shutil.copy(checkpoint, files / "trial-0.2.pt")
    shutil.copy(tmp_path / "backup.db", storage.removeprefix("sqlite:///"))
    for end in ("-wal", "-shm"):
        Path(storage.removeprefix("sqlite:///") + end).unlink(missing_ok=True)
    store = open_writer(storage)
    work(store, WorkerOptions("quick", results), StopAfter(3))
    work(store, WorkerOptions("quick", results), StopRequest())
    store.close()
    before, after = steps(trace)[:3], steps(trace)[3:]
    assert before == [(0.0, epoch) for epoch in (1, 2, 3)]
    assert after == [(0.0, epoch) for epoch in range(1, 9)]


@pytest.mark.slow
def test_interrupting_changes_no_result(write_study: Write, storage: str, tmp_path: Path) -> None:
    straight = run(write_study(DIGITS, "digits.toml"), storage)
    other = f"sqlite:///{tmp_path}/other.db"
    store = open_writer(other)
    register(store, read_here(tmp_path / "digits.toml"))
    for looks in (7, 30, 52, 12, 45):
        work(store, WorkerOptions("digits", tmp_path / "elsewhere"), StopAfter(looks))
    work(store, WorkerOptions("digits", tmp_path / "elsewhere"), StopRequest())
    store.close()
    interrupted = Study("digits", other)
    different = ["seconds", "core_hours", "peak_memory", "started", "finished"]
    pd.testing.assert_frame_equal(
        straight.frame().drop(columns=different), interrupted.frame().drop(columns=different)
    )
    pd.testing.assert_frame_equal(straight.epochs(), interrupted.epochs())


def rewritten(**fields: Any) -> Callable[[Path], None]:
    """Return a function that writes a checkpoint again with other fields."""

    def rewrite(path: Path) -> None:
        found = torch.load(path, weights_only=True)
        torch.save({**found, **fields}, path)

    return rewrite


def replaced_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "file").touch()


def replaced_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replaced_by_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(b""), "it cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-200]), "it cannot be read"),
        (lambda path: torch.save([1, 2], path), "it cannot be read"),
        (replaced_by_folder, "it cannot be read"),
        (replaced_by_pipe, "it cannot be read"),
        (replaced_by_loop, "it cannot be read"),
        (rewritten(key="another"), "it belongs to another trial"),
        (rewritten(format=99), "its format belongs to a different version"),
        (rewritten(more=1), "got an unexpected keyword argument 'more'"),
        (rewritten(epochs="2"), "epochs: 2"),
        (rewritten(epochs=-1), "epochs: -1"),
        (rewritten(epochs=10**30), "epochs: 1000"),
        (rewritten(seconds=float("nan")), "seconds: nan"),
        (rewritten(seconds=None), "seconds: None"),
        (rewritten(state=[1]), "state is of type list"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_ignored_with_a_warning(
    spoil: Callable[[Path], None],
    message: str,
    write_study: Write,
    storage: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    trace, results = tmp_path / "trace", tmp_path / "results"
    store = open_writer(storage)
    register(store, read_here(write_study(RESUMABLE.format(trace=trace, trials=1))))
    work(store, WorkerOptions("quick", results), StopAfter(4))
    checkpoint = results / "quick" / "checkpoints" / "trial-0.1.pt"
    spoil(checkpoint)
    assert work(store, WorkerOptions("quick", results), StopRequest()) is EndReason.FINISHED
    store.close()
    assert steps(trace) == [(0.0, 1), (0.0, 2), (0.0, 3)] + [(0.0, n) for n in range(1, 9)]
    assert f"ignoring the checkpoint {checkpoint}: " in caplog.text
    assert message in caplog.text
    assert Study("quick", storage).frame()["state"].tolist() == ["complete"]


def test_time_and_epochs_are_summed_over_attempts(
    write_study: Write, storage: str, tmp_path: Path
) -> None:
    options = f"options = {{ trace = '{tmp_path}/trace', pause = 0.05 }}"
    text = RESUMABLE.format(trace="", trials=1).replace("options = { trace = '' }", options)
    store = open_writer(storage)
    register(store, read_here(write_study(text)))
    work(store, WorkerOptions("quick", tmp_path / "results"), StopAfter(6))
    work(store, WorkerOptions("quick", tmp_path / "results"), StopRequest())
    store.close()
    row = Study("quick", storage).frame().iloc[0]
    assert row["epochs"] == 8
    assert row["seconds"] >= 8 * 0.05


def test_study_of_same_name_ignores_files_of_deleted_study(
    write_study: Write, storage: str, tmp_path: Path
) -> None:
    trace, results = tmp_path / "trace", tmp_path / "results"
    file = write_study(RESUMABLE.format(trace=trace, trials=1))
    for _ in range(2):
        store = open_writer(storage)
        register(store, read_here(file))
        work(store, WorkerOptions("quick", results), StopAfter(4))
        store.close()
        sweeper.delete("quick", storage)
    store = open_writer(storage)
    record = register(store, read_here(file))
    assert claim(store, record.id, "dead", below=1) is not None
    revoke_leases(store, ["dead"])  # so that the next claim looks for a checkpoint
    store.close()
    run(file, storage)
    assert steps(trace) == [(0.0, 1), (0.0, 2), (0.0, 3)] * 2 + [(0.0, n) for n in range(1, 9)]


@pytest.mark.slow
def test_the_best_trials_weights_are_kept_and_exported(
    write_study: Write, storage: str, tmp_path: Path
) -> None:
    study = run(write_study(DIGITS, "digits.toml"), storage)
    best = study.best
    assert best is not None
    kept = os.listdir(tmp_path / "results" / "digits" / "weights")
    assert kept == [f"trial-{best['ticket']}.pt"]
    file = study.export_model(tmp_path / "model.pt", tmp_path / "results")
    model = mlp({"width": 128, "dropout": 0.0})
    model.load_state_dict(torch.load(file, weights_only=True))
    inputs, labels = load_splits(digits(train_fraction=0.2), 0).valid
    assert functional.cross_entropy(predict(model, inputs), labels).item() == pytest.approx(
        best["nll"], rel=1e-6
    )


def test_missing_weights_are_reported(write_study: Write, storage: str, tmp_path: Path) -> None:
    study = run(write_study(), storage)  # its loop yields no state
    with pytest.raises(sweeper.SweeperError, match=r"weights of trial \d+ are not in .*--results"):
        study.export_model(tmp_path / "model.pt", tmp_path / "results")
    assert not (tmp_path / "model.pt").exists()


def test_unwritable_checkpoint_folder_fails_no_trial(
    write_study: Write,
    storage: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "TIMES", 0)
    folder = tmp_path / "results" / "quick"
    folder.mkdir(parents=True)
    (folder / "checkpoints").symlink_to("/dev/full/checkpoints")
    with caplog.at_level(logging.WARNING):
        study = run(write_study(RESUMABLE.format(trace=tmp_path / "trace", trials=2)), storage)
    assert study.frame()["state"].tolist() == ["complete", "complete"]
    assert "cannot write a file of the trial" in caplog.text


def test_unsavable_state_fails_the_trial_and_is_named(
    write_study: Write, storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    file = write_study(RESUMABLE.format(trace=tmp_path / "trace", trials=1))
    task = tmp_path / "quick.py"
    task.write_text(task.read_text().replace('"epoch": epoch, "model"', '"bad": {1}, "model"'))
    frame = run(file, storage).frame()
    assert frame["failure"].tolist() == [
        "Evaluation.state: state['bad'] is a set of length 1; allowed: tensors, numbers, strings, "
        "None, and lists, tuples and dicts of these"
    ]
    assert frame["cause"].tolist() == ["raised"]


def test_confirmation_does_not_use_search_checkpoints(tmp_path: Path) -> None:
    labels = torch.tensor([0, 1])
    evaluation = Evaluation(torch.eye(2), labels, 0.5, state=lambda: {"epochs": 2})
    trial, again = (Ticket(1, phase, 3, None, "w", 2, 2) for phase in ("search", "confirm-1"))
    files = TrialFiles(tmp_path, "study")

    def writer(ticket: Ticket) -> checkpoints.CheckpointWriter:
        base, identity = str(files.checkpoint(ticket)), files.checkpoint_key(ticket)
        start = Start("k", (0.1,), 0, 0, claim=2, checkpoint=base, identity=identity)
        return checkpoints.CheckpointWriter(start)

    writer(trial).write(evaluation.state, 2, 1.0)
    assert writer(trial).load() is not None
    assert writer(again).load() is None
    # Not even from a file that has its name.
    (of_trial,) = checkpoints.checkpoint_files(files.checkpoint(trial))
    of_trial.rename(of_trial.with_name(of_trial.name.replace("trial", "confirm-1")))
    assert len(checkpoints.checkpoint_files(files.checkpoint(again))) == 1
    assert writer(again).load() is None
