"""Trials that go on where they were, and weights that are kept."""

import logging
import os
import pickle
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
from sweeper.api import Study
from sweeper.scoring import score
from sweeper.smoothing import Smoothing
from sweeper.store.database import open_writer
from sweeper.store.tickets import Ticket, claim, free_leases
from sweeper.study.load import read_study
from sweeper.study.objective import Epoch
from sweeper.study.registration import register
from sweeper.tasks.digits import digits, mlp
from sweeper.training.checkpoints import (
    Checkpoint,
    discard,
    load,
    load_weights,
    save,
    save_weights,
)
from sweeper.training.loop import load_splits, predict, train
from sweeper.training.run import Evaluation, TrainingRun
from sweeper.training.task import Optimiser, Task
from sweeper.worker import trial_files
from sweeper.worker.stopping import StopRequest
from sweeper.worker.worker import Terms, work
from tests.support.in_process_runs import StopAfter
from tests.support.studies import RESUMABLE, steps

Write = Callable[..., Path]
STATE = {"epochs": 2, "model": {"w": torch.arange(3.0)}, "list": [1, 0.5, None, "ε"]}


# ---- files -------------------------------------------------------------------------------


def test_a_checkpoint_comes_back_as_it_went(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "trial-1.pt"
    save(path, Checkpoint("k", 2, 1.5, STATE))
    found = load(path, "k")
    assert found is not None
    assert (found.epochs, found.seconds) == (2, 1.5)
    assert torch.equal(found.state["model"]["w"], STATE["model"]["w"])  # type: ignore[index]
    assert found.state["list"] == STATE["list"]
    assert os.listdir(path.parent) == ["trial-1.pt"]


def test_another_trials_checkpoint_is_none(tmp_path: Path) -> None:
    save(tmp_path / "c.pt", Checkpoint("k", 2, 1.5, STATE))
    assert load(tmp_path / "c.pt", "other") is None
    assert load(tmp_path / "none.pt", "k") is None


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_torn_checkpoint_is_none(tmp_path: Path, share: float) -> None:
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
def test_a_hostile_file_is_read_as_data(tmp_path: Path, write: Callable[..., Any]) -> None:
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
        ({Path("x"): 1}, "state's keys is of type PosixPath"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(tmp_path: Path, state: Any, place: str) -> None:
    with pytest.raises(TypeError, match=place):
        save(tmp_path / "c.pt", Checkpoint("k", 1, 0.0, state))
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_is_removed_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "trial-1.pt"
    save_weights(path, "k", {"w": torch.zeros(1)})
    (tmp_path / ".trial-1.pt.abc").write_bytes(b"half")
    (tmp_path / ".trial-11.pt.abc").write_bytes(b"another's")
    discard(path)
    discard(path)
    assert os.listdir(tmp_path) == [".trial-11.pt.abc"]


# ---- the ready loop ----------------------------------------------------------------------


def logits_of(task: Task, run: TrainingRun) -> Iterator[Tensor]:
    return (evaluation.logits for evaluation in train(task, run))


@pytest.mark.parametrize("after", [1, 3])
@pytest.mark.parametrize("model", ["mlp", "cnn"])
@pytest.mark.parametrize(
    "optimiser",
    [
        Optimiser("adam", lr=3e-3),
        Optimiser("adamw", lr=3e-3, weight_decay=0.01),
        Optimiser("sgd", lr=0.1, momentum=0.9),
    ],
    ids=lambda optimiser: optimiser.name,
)
@pytest.mark.usefixtures("one_thread")
def test_a_training_goes_on_bit_for_bit(
    tmp_path: Path, model: Any, optimiser: Optimiser, after: int
) -> None:
    task = replace(digits(model=model, train_fraction=0.3), epochs=4, optimiser=optimiser)
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
def test_running_statistics_go_on_too(tmp_path: Path) -> None:
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
def test_the_ready_loop_of_ones_own_goes_on_too(tmp_path: Path) -> None:
    trainer = read_study("own_loop").task.trainer
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


def test_a_stopped_trial_trains_no_epoch_twice(
    write_study: Write, storage: str, tmp_path: Path
) -> None:
    trace, results = tmp_path / "trace", tmp_path / "results"
    store = open_writer(storage)
    record = register(store, read_study(write_study(RESUMABLE.format(trace=trace, trials=2))))
    terms = Terms("quick", results)
    work(store, terms, StopAfter(4))  # looks: two before the first claim, one an epoch
    assert steps(trace) == [(0.0, 1), (0.0, 2), (0.0, 3)]
    assert os.listdir(results / "quick" / "checkpoints") == ["trial-0.pt"]
    work(store, terms, StopRequest())
    store.close()
    trained = steps(trace)
    assert len(trained) == len(set(trained)) == 16
    assert os.listdir(results / "quick" / "checkpoints") == []
    study = Study(record.name, storage)
    assert study.epochs().groupby("number").size().tolist() == [8, 8]
    assert study.frame()["epochs"].tolist() == [8, 8]
    assert study.frame()["extra_sum"].nunique() == 2
    assert "quick training begins" in study.log(0)


@pytest.mark.slow
def test_interrupting_changes_no_result(write_study: Write, storage: str, tmp_path: Path) -> None:
    straight = run(write_study(DIGITS, "digits.toml"), storage)
    other = f"sqlite:///{tmp_path}/other.db"
    store = open_writer(other)
    register(store, read_study(tmp_path / "digits.toml"))
    for looks in (7, 30, 52, 12, 45):
        work(store, Terms("digits", tmp_path / "elsewhere"), StopAfter(looks))
    work(store, Terms("digits", tmp_path / "elsewhere"), StopRequest())
    store.close()
    interrupted = Study("digits", other)
    different = ["seconds", "started", "finished"]
    pd.testing.assert_frame_equal(
        straight.frame().drop(columns=different), interrupted.frame().drop(columns=different)
    )
    pd.testing.assert_frame_equal(straight.epochs(), interrupted.epochs())


def test_time_and_epochs_of_all_attempts_are_counted(
    write_study: Write, storage: str, tmp_path: Path
) -> None:
    options = f"options = {{ trace = '{tmp_path}/trace', pause = 0.05 }}"
    text = RESUMABLE.format(trace="", trials=1).replace("options = { trace = '' }", options)
    store = open_writer(storage)
    register(store, read_study(write_study(text)))
    work(store, Terms("quick", tmp_path / "results"), StopAfter(6))
    work(store, Terms("quick", tmp_path / "results"), StopRequest())
    store.close()
    row = Study("quick", storage).frame().iloc[0]
    assert row["epochs"] == 8
    assert row["seconds"] >= 8 * 0.05


def test_a_study_of_the_same_name_does_not_go_on_from_anothers_files(
    write_study: Write, storage: str, tmp_path: Path
) -> None:
    trace, results = tmp_path / "trace", tmp_path / "results"
    file = write_study(RESUMABLE.format(trace=trace, trials=1))
    for _ in range(2):
        store = open_writer(storage)
        register(store, read_study(file))
        work(store, Terms("quick", results), StopAfter(4))
        store.close()
        sweeper.delete("quick", storage)
    store = open_writer(storage)
    record = register(store, read_study(file))
    assert claim(store, record.id, "dead", below=1) is not None
    free_leases(store, ["dead"])  # so that the next claim looks for a checkpoint
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


def test_weights_that_are_not_here_are_said_to_be_missing(
    write_study: Write, storage: str, tmp_path: Path
) -> None:
    study = run(write_study(), storage)  # its loop yields no state
    with pytest.raises(sweeper.SweeperError, match=r"weights of trial \d+ are not in .*--results"):
        study.export_model(tmp_path / "model.pt", tmp_path / "results")
    assert not (tmp_path / "model.pt").exists()


def test_a_folder_that_takes_no_checkpoint_costs_no_trial(
    write_study: Write,
    storage: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(trial_files, "SECONDS", 0.0)
    monkeypatch.setattr(trial_files, "TIMES", 0)
    folder = tmp_path / "results" / "quick"
    folder.mkdir(parents=True)
    (folder / "checkpoints").write_text("a file in its place")
    with caplog.at_level(logging.WARNING):
        study = run(write_study(RESUMABLE.format(trace=tmp_path / "trace", trials=2)), storage)
    assert study.frame()["state"].tolist() == ["complete", "complete"]
    assert "cannot be written" in caplog.text


def test_a_state_that_cannot_be_kept_fails_its_trial_by_name(
    write_study: Write, storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_files, "SECONDS", 0.0)
    file = write_study(RESUMABLE.format(trace=tmp_path / "trace", trials=1))
    task = tmp_path / "quick.py"
    task.write_text(task.read_text().replace('"epoch": epoch, "model"', '"bad": {1}, "model"'))
    frame = run(file, storage).frame()
    assert frame["failure"].tolist() == [
        "Evaluation.state: state['bad'] is a set of length 1; allowed: tensors, numbers, strings, "
        "None, and lists, tuples and dicts of them"
    ]
    assert frame["cause"].tolist() == ["raised"]


def test_a_confirmation_goes_on_from_no_trials_checkpoint(tmp_path: Path) -> None:
    labels = torch.tensor([0, 1])
    evaluation = Evaluation(torch.eye(2), labels, 0.5, state=lambda: {"epochs": 2})
    epoch = Epoch(2, evaluation, score(torch.eye(2), labels), 0.1, 1.0)
    trial, again = (Ticket(1, phase, 3, None, "w", 1, 1) for phase in ("search", "confirm-1"))
    of_studies = trial_files.TrialFiles(tmp_path, "study")
    trial_files.Checkpoints(of_studies, trial).write(epoch)
    assert trial_files.Checkpoints(of_studies, trial).load() is not None
    assert trial_files.Checkpoints(of_studies, again).load() is None
    # Not even from a file that has its name.
    of_studies.checkpoint(trial).rename(of_studies.checkpoint(again))
    assert trial_files.Checkpoints(of_studies, again).load() is None
