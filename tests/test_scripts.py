"""Studies whose task is a script: real processes, started by the trainers of a worker."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from sklearn.metrics import log_loss

from sweeper import api
from sweeper.api import Study
from sweeper.errors import SweeperError, TrialPruned, TrialReleased
from sweeper.export import document_of
from sweeper.scoring import score
from sweeper.smoothing import Smoothing
from sweeper.store.database import Store
from sweeper.study.load import parse_spec, read_study, submitted_study
from sweeper.study.registration import register
from sweeper.study.script_keys import DEFAULT_COMMAND
from sweeper.tasks.script_sources import ScriptSources
from sweeper.trainers.output_file import LONGEST_OUTPUT, shorten
from sweeper.training.failures import TrainingFailed
from sweeper.training.messages import (
    EXAMPLE_VALUES,
    LABELS,
    Action,
    FromTrainer,
    Reply,
    Report,
    Start,
    ToTrainer,
    TrainingEnd,
)
from sweeper.training.run import Evaluation, TrainingRun
from sweeper.training.scripts.client import connected_run
from sweeper.training.scripts.command import command_of, variables_of
from sweeper.training.scripts.config import ScriptConfig
from sweeper.training.scripts.delivered import read_file
from sweeper.training.scripts.evidence import measure_file, measure_line
from sweeper.training.scripts.output import ScriptOutput, SelfReport
from sweeper.training.scripts.ranks import Ranks
from sweeper.training.scripts.supervisor import ScriptTrainer
from sweeper.worker.served_studies import EndReason, WorkerOptions
from sweeper.worker.stopping import StopRequest
from sweeper.worker.worker import work
from tests.support.processes import StartSweeper
from tests.support.processes import run as command
from tests.support.serving import serve
from tests.support.studies import TASKS
from tests.tasks import softmax

STUDY = """
[study]
name = "x"
[task]
program = "{script}"
{task}
[task.options]
epochs = 4
{options}
[budget]
trials = {trials}
{budget}
[sampler]
name = "random"
[pruner]
{pruner}
[confirm]
{confirm}
"""
NO_CONFIRM = "enabled = false"
TORCHRUN = [
    "${interpreter}",
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    "2",
]

Run = Callable[..., pd.DataFrame]


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a study file for a script of tests/tasks."""

    def write(
        script: str = "script.py",
        task: str = "",
        options: str = "",
        trials: int = 3,
        budget: str = "",
        pruner: str = 'name = "none"',
        confirm: str = NO_CONFIRM,
    ) -> Path:
        for name in ("script.py", "script_ranks.py", "softmax.py"):
            shutil.copy(TASKS / name, tmp_path / name)
        text = STUDY.format(**locals())
        (tmp_path / "x.toml").write_text(text)
        return tmp_path / "x.toml"

    return write


@pytest.fixture
def run(file: Callable[..., Path], store: Store, storage: str, tmp_path: Path) -> Iterator[Run]:
    """Return a function that runs a study of a script; no process of it may be left."""

    def finished(slots: int = 1, **keys: Any) -> pd.DataFrame:
        register(store, read_study(file(**keys)))
        options = WorkerOptions("x", tmp_path / "results", slots=slots)
        assert work(store, options, StopRequest(grace=5.0)) is EndReason.FINISHED
        return Study("x", storage).frame()

    yield finished
    _, alive = psutil.wait_procs(processes_in(tmp_path), timeout=5)
    assert alive == []


def processes_in(folder: Path) -> list[psutil.Process]:
    """Return the processes that a script has started: their SWEEPER_DIR is below the folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(folder) in process.environ().get("SWEEPER_DIR", ""):
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_until(happened: Callable[[], bool], launch: "subprocess.Popen[str]") -> None:
    for _ in range(3000):
        if happened():
            return
        assert launch.poll() is None, launch.communicate()[0]
        time.sleep(0.02)
    raise AssertionError("it did not happen")


def kill_with_workers(launch: "subprocess.Popen[str]") -> None:
    workers = [p for p in psutil.Process(launch.pid).children() if "worker" in p.cmdline()]
    launch.kill()
    for worker in workers:
        worker.kill()


def log(storage: str, trial: int) -> str:
    study = Study("x", storage)
    try:
        return study.log(trial)
    finally:
        study.close()


# ---- one run, without a worker -------------------------------------------------------------


class Replies:
    """Stands for the worker: it replies to report n with the n-th action."""

    def __init__(self, *actions: Action) -> None:
        self.actions, self.reports, self.ending = (
            list(actions),
            list[Report](),
            TrainingEnd("", "failed"),
        )

    def __call__(self, message: FromTrainer) -> ToTrainer:
        for ending in message.endings:
            self.ending = ending
        self.reports += message.reports
        return ToTrainer(
            {
                report.key: Reply(self.actions.pop(0) if self.actions else "continue")
                for report in message.reports
            }
        )


Train = Callable[..., Replies]


@pytest.fixture
def train_one(tmp_path: Path) -> Iterator[Train]:
    """Return a function that trains one run of tests/tasks/script.py; no process may be left."""
    for name in ("script.py", "script_ranks.py", "softmax.py"):
        shutil.copy(TASKS / name, tmp_path / name)

    def train(
        *actions: Action, epsilon: float = 0.1, program: str = "script.py", **keys: Any
    ) -> Replies:
        replies = Replies(*actions)
        of_start = {
            name: keys.pop(name)
            for name in ("arrays", "claim", "reported", "number")
            if name in keys
        }
        start = Start(
            "k",
            (epsilon, "fixed", None),
            3,
            3,
            directory=str(tmp_path / "run"),
            socket=f"{sockets}/socket",
            **of_start,
        )
        options = {"epochs": 4, **keys.pop("options", {})}
        script = ScriptConfig(
            str(tmp_path), list(DEFAULT_COMMAND), program, options=options, **keys
        )
        ScriptTrainer(script, lambda _: {"python": "3"}).train(ToTrainer(starts=[start]), replies)
        return replies

    with tempfile.TemporaryDirectory() as sockets:
        yield train
    assert psutil.wait_procs(processes_in(tmp_path), timeout=5)[1] == []


def expected_nll(epsilon: float, epochs: int, split: str = "valid", seed: int = 3) -> float:
    """Return the NLL of the model of the scripts, by scikit-learn."""
    inputs, labels = softmax.data(split)
    *_, weights = softmax.train(epsilon, 0.5, epochs, seed)
    exponents = np.exp(inputs @ weights)
    return float(log_loss(labels, exponents / exponents.sum(1, keepdims=True)))


def test_files_are_scored_as_they_appear(train_one: Train) -> None:
    done = train_one()
    assert [report.progress for report in done.reports] == [0.25, 0.5, 0.75, 1.0]
    for report in done.reports:
        assert report.scores["nll"] == pytest.approx(expected_nll(0.1, report.number), abs=1e-6)
    assert done.ending.state == "complete"
    assert done.ending.last == done.reports[-1]
    calibrated = [report.scores["nll_calibrated"] is None for report in done.reports]
    assert calibrated == [True, True, True, False]  # the others are computed only if needed
    assert done.reports[-1].classes == softmax.CLASSES


def test_pruned_script_is_killed(train_one: Train) -> None:
    done = train_one("continue", "prune", options={"epochs": 1000})
    assert len(done.reports) == 2
    assert done.ending.state == "stopped"


def test_confirmation_scores_the_file_of_the_test_split(train_one: Train, tmp_path: Path) -> None:
    done = train_one(arrays=str(tmp_path / "examples.npz"))
    result = done.reports[-1].replicate_result
    assert result is not None
    assert result["rows"] == {"valid": 80, "test": 100}
    assert result["scores"]["test"]["nll"] == pytest.approx(expected_nll(0.1, 4, "test"), abs=1e-6)
    assert np.load(tmp_path / "examples.npz")["examples"].shape == (len(EXAMPLE_VALUES), 100)


@pytest.mark.parametrize("evidence", ["scored", "per-example"])
def test_script_that_ends_early_is_scored_with_its_last_file(
    evidence: str, train_one: Train, tmp_path: Path
) -> None:
    options = {"evidence": evidence, "stop": 3}
    done = train_one(options=options, arrays=str(tmp_path / "examples.npz"))
    assert done.ending.state == "complete"
    assert [report.progress for report in done.reports] == [0.25, 0.5, 0.75]
    assert "the script ended at progress 0.75, not 1" in done.ending.notes[0]
    last = done.ending.last
    assert last is not None
    assert (last.scores["nll_calibrated"] is None) == (evidence == "per-example")
    assert last.replicate_result is not None
    of_test = last.replicate_result["scores"]["test"]
    assert of_test["nll"] == pytest.approx(expected_nll(0.1, 3, "test"), abs=1e-6)
    assert np.load(tmp_path / "examples.npz")["examples"].shape == (len(EXAMPLE_VALUES), 100)


@pytest.mark.parametrize("stop", [3, 4])
def test_script_without_a_test_file_fails_in_a_confirmation(
    stop: int, train_one: Train, tmp_path: Path
) -> None:
    options = {"stop": stop, "then": "no-test"}
    assert train_one(options=options).ending.state == "complete"
    done = train_one(options=options, arrays=str(tmp_path / "examples.npz"))
    assert done.ending.state == "failed"
    assert "the script has written no file test-….npz" in done.ending.failure


@pytest.mark.parametrize("evidence", ["self-reported", "pattern"])
def test_self_reported_numbers(train_one: Train, evidence: str) -> None:
    pattern = r"validation loss (\S+)" if evidence == "pattern" else None
    stated = None if pattern else "self-reported"
    done = train_one(options={"evidence": evidence}, pattern=pattern, evidence=stated)
    assert done.ending.state == "complete", done.ending.failure
    assert [report.progress for report in done.reports] == (
        [1.0] if pattern else [0.25, 0.5, 0.75, 1.0]
    )
    last = done.reports[-1]
    assert last.scores["nll"] == pytest.approx(expected_nll(0.1, 4), abs=1e-5)
    assert last.scores["accuracy"] is None
    assert last.classes is None
    assert done.reports[0].environment["evidence"] == "self-reported"
    assert last.extra == ({} if pattern else {"epoch": 4.0})
    assert last.notes == ()


def test_lines_are_read_at_the_end_unless_the_study_says_that_they_are_the_results(
    train_one: Train,
) -> None:
    done = train_one(options={"evidence": "self-reported"})
    [report] = done.reports
    assert report.progress == 1.0
    assert report.scores["nll"] == pytest.approx(expected_nll(0.1, 4), abs=1e-5)
    assert report.environment["evidence"] == "self-reported"
    [note] = report.notes
    assert 'set task.evidence = "self-reported" to read them at once' in note


@pytest.mark.parametrize("log", ["first", "last"])
@pytest.mark.parametrize("evidence", ["scored", "per-example"])
@pytest.mark.parametrize("stated", [True, False])
def test_files_outrank_lines_whenever_they_come(
    train_one: Train, log: str, evidence: str, stated: bool
) -> None:
    options = {"log": log, "evidence": evidence}
    done = train_one(options=options, evidence=evidence if stated else None)
    assert done.ending.state == "complete", done.ending.failure
    assert [report.progress for report in done.reports] == [0.25, 0.5, 0.75, 1.0]
    assert done.reports[0].environment["evidence"] == evidence


@pytest.mark.parametrize("stop", [0, 2])
@pytest.mark.parametrize("then", ["", "no-test"])
def test_trial_0_shows_whether_there_is_a_test_split(
    train_one: Train, then: str, stop: int
) -> None:
    for number in (0, 1):
        done = train_one(options={"then": then, "stop": stop}, number=number)
        assert done.ending.last is not None
        has_test = number == 0 and then == ""
        assert done.ending.last.splits == (("test",) if has_test else ())


@pytest.mark.parametrize("then", ["nan", "inf"])
@pytest.mark.parametrize("caught", ["", "yes"])
def test_report_that_is_not_finite_has_diverged(
    train_one: Train, monkeypatch: pytest.MonkeyPatch, then: str, caught: str
) -> None:
    monkeypatch.setenv("CATCH", caught)
    done = train_one(program="script_ranks.py", options={"then": then}, loss="sweeper")
    assert (done.ending.state, done.ending.cause) == ("failed", "diverged")
    assert "training diverged: validation NLL is nan" in done.ending.failure
    assert done.reports == []


def test_files_and_reports_are_not_mixed(train_one: Train) -> None:
    done = train_one(program="script_ranks.py", options={"then": "files"}, loss="sweeper")
    assert done.ending.state == "failed"
    assert "in files valid-….npz and with sweeper.current_run().report" in done.ending.failure


@pytest.mark.parametrize(
    ("pattern", "printed", "expected"),
    [
        (None, 'first\n{"nll": 0.5, "progress": 0.1}\n{"nll": 0.4}\n', [0.5, 0.4]),
        (None, '\r  0%|  | 0/10{"nll": 0.3, "progress": 0.1}\n', [0.3]),
        (None, '{"nll": 0.2}', [0.2]),
        (None, "{'nll': 0.2}\n{broken\n", []),
        (r"loss: (\S+)", "\r 1/10 loss: 0.9 \r 10/10 loss: 0.4\n", [0.9, 0.4]),
    ],
)
@pytest.mark.usefixtures("capfd")
def test_self_reports_are_found_in_the_output(
    pattern: str | None, printed: str, expected: list[float]
) -> None:
    reader = ScriptOutput(pattern)
    os.write(1, printed.encode())
    assert [report.nll for report in reader.reports(ended=True)] == expected
    reader.close()


def test_lines_are_read_once_although_the_output_is_shortened(tmp_path: Path) -> None:
    output, stdout = tmp_path / "output.log", os.dup(1)
    descriptor = os.open(output, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def print_lines(first: int, count: int) -> None:
        for number in range(first, first + count):
            os.write(1, b'{"nll": %d}\n' % number + b"x" * 2**20 + b"\n")

    os.dup2(descriptor, 1)
    try:
        os.write(1, b'{"nll": 99}\n')  # of an earlier run
        reader = ScriptOutput(None)
        found = list[float]()
        for first in range(0, 30, 3):
            print_lines(first, 3)
            found += [report.nll for report in reader.reports()]
            shorten(output)
        os.write(1, b"the last line")
        assert reader.last_lines().endswith("x\nthe last line")
    finally:
        os.dup2(stdout, 1)
        os.close(descriptor)
        reader.close()
    assert output.stat().st_size < LONGEST_OUTPUT
    assert found == list(range(30))


def test_values_of_each_example(train_one: Train, tmp_path: Path) -> None:
    done = train_one(options={"evidence": "per-example"}, arrays=str(tmp_path / "examples.npz"))
    assert done.ending.state == "complete", done.ending.failure
    last = done.reports[-1]
    assert last.scores["nll"] == pytest.approx(expected_nll(0.1, 4), abs=1e-6)
    assert last.scores["nll_calibrated"] is None
    examples = dict(
        zip(EXAMPLE_VALUES, np.load(tmp_path / "examples.npz")["examples"], strict=True)
    )
    assert examples["nll"].mean() == pytest.approx(expected_nll(0.1, 4, "test"), abs=1e-6)
    assert np.isnan(examples["nll_calibrated"]).all()
    assert done.reports[0].environment["evidence"] == "per-example"


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"options": {"then": "raise"}}, "RuntimeError: device lost"),
        (
            {"options": {"then": "exit"}},
            "exited with status 3; the last lines of its output:\ntrain",
        ),
        ({"options": {"then": "bad-file"}}, "valid-0009.npz cannot be read"),
        ({"options": {"evidence": "pattern"}}, "delivered nothing"),
        (
            {"options": {"evidence": "pattern"}, "pattern": r"no such text (\S+)"},
            "no line of its output matched task.pattern",
        ),
        (
            {"evidence": "per-example"},
            'delivered scored results, but task.evidence is "per-example"; set task.evidence = ',
        ),
        ({"pattern": "(x)"}, "delivered scored results, but task.pattern makes its output the"),
        (
            {"evidence": "scored", "options": {"evidence": "self-reported"}},
            "delivered no scored results, which task.evidence requires",
        ),
        ({"options": {"evidence": "per-example"}, "calibrates": True}, "needs logits and labels"),
    ],
)
def test_failure_says_why(
    train_one: Train, keys: Any, text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    done = train_one(**keys)
    assert done.ending.state == "failed"
    assert text in "".join([done.ending.failure, *capfd.readouterr()])


def test_requeued_script_continues_in_its_folder(train_one: Train) -> None:
    first = train_one(options={"then": "requeue"})
    assert (first.ending.state, len(first.reports)) == ("stopped", 1)
    assert "exit status 75" in first.ending.failure
    second = train_one(options={"then": "requeue"}, claim=2, reported=[0.1, 0.2])
    assert second.ending.state == "complete"
    assert [report.number for report in second.reports] == [3, 4, 5, 6]


def test_labels_have_the_same_digest_in_each_run(train_one: Train) -> None:
    def digest(labels: str) -> str:
        done = train_one(options={"labels": labels, "epochs": 1})
        return done.reports[0].environment[LABELS.format(3)]

    assert digest("") == digest("") != digest("shuffled")


def test_large_files_are_scored_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.random.default_rng(0)
    logits = draws.normal(size=(50, 7, 6)).astype(np.float32)
    labels = draws.integers(0, 7, (50, 6))
    labels[draws.random((50, 6)) < 0.3] = -1
    np.savez_compressed(tmp_path / "valid-1.npz", logits=logits, labels=labels, ignore_index=-1)
    monkeypatch.setattr("sweeper.training.scripts.delivered._PIECE", 100)
    file = read_file(tmp_path / "valid-1.npz")
    assert [len(batch[0]) for batch in file.batches()] == [2] * 25
    evaluation = Evaluation(logits, labels, 1.0, ignore_index=-1)  # type: ignore[arg-type]
    expected = score(evaluation.logits, evaluation.labels, groups=evaluation.groups).to_dict()
    assert measure_file(file, None, None, full=True).scores == pytest.approx(expected, abs=1e-9)
    np.savez(tmp_path / "valid-2.npz", logits=logits[:40], labels=labels)
    with pytest.raises(TrainingFailed, match="logits have 40 rows and labels 50"):
        measure_file(read_file(tmp_path / "valid-2.npz"), None, None, full=False)


def test_a_negative_nll_is_refused(tmp_path: Path) -> None:
    losses = np.array([0.5, -0.1, 0.2])
    np.savez(tmp_path / "valid-1.npz", nll=losses, correct=losses > 0)
    with pytest.raises(TrainingFailed, match="never negative; deliver -log p"):
        measure_file(read_file(tmp_path / "valid-1.npz"), None, None, full=True)
    with pytest.raises(TrainingFailed, match=r"the NLL in the output is -0\.5"):
        measure_line(SelfReport(-0.5, None, {}))
    assert measure_line(SelfReport(-1e-9, None, {})).scores["nll"] == -1e-9


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("grouped", [False, True])
def test_large_logits_are_read_in_place(
    kind: type, grouped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = np.random.default_rng(0)
    logits: Any = draws.normal(size=(60, 5)).astype(kind)
    labels = draws.integers(0, 5, 60)
    groups: dict[str, Any] = {"groups": draws.integers(0, 20, 60)} if grouped else {}
    np.savez(tmp_path / "valid-1.npz", labels=labels, logits=logits, **groups)
    np.savez(tmp_path / "test-1.npz", logits=logits[:50], labels=labels[:50])
    valid, test = (read_file(tmp_path / f"{split}-1.npz") for split in ("valid", "test"))
    expected = measure_file(valid, lambda: test, tmp_path / "expected.npz", full=True)
    for module in ("training.scripts.delivered", "training.outputs", "scoring.temperature"):
        monkeypatch.setattr(f"sweeper.{module}.MAX_KEPT", 100)
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")  # nothing can be copied
    measured = measure_file(valid, lambda: test, tmp_path / "examples.npz", full=True)
    assert measured.scores == pytest.approx(expected.scores, abs=1e-9)
    assert measured.result is not None
    for name in ("examples", "groups"):
        found, wanted = (
            np.load(tmp_path / f"{file}.npz")[name] for file in ("examples", "expected")
        )
        assert np.allclose(found, wanted, atol=1e-6)
    np.savez(tmp_path / "valid-2.npz", logits=logits, labels=labels.astype(float))
    with pytest.raises(TrainingFailed, match="they must be integer class numbers"):
        measure_file(read_file(tmp_path / "valid-2.npz"), None, None, full=False)
    labels[3] = -100
    np.savez(tmp_path / "valid-3.npz", logits=logits, labels=labels)
    with pytest.raises(FileNotFoundError):  # ignored rows must be left out
        measure_file(read_file(tmp_path / "valid-3.npz"), None, None, full=False)


# ---- studies -----------------------------------------------------------------------------


def shown(storage: str, words: str) -> None:
    """Check that the commands and the pages show the grade of study x."""
    assert words in command("status", "x", "--storage", storage).out
    assert command("trials", "x", "--storage", storage).status == 0
    assert command("logs", "x", "0", "--storage", storage).status == 0
    site = serve(storage)
    for path in ("/studies/x/trials/0", "/studies/x/trials", "/v1/studies/x", "/v1/studies/x/best"):
        assert site.page(path).status == 200, path
    assert words in site.page("/studies/x").text


@pytest.mark.slow
def test_script_is_pruned_and_confirmed(run: Run, storage: str) -> None:
    frame = run(
        trials=6,
        options='then = "leave"',
        pruner="startup = 2\nwarmup = 0.3",
        confirm="replicates = 2\nshortlist = 1",
    )
    assert set(frame["state"]) == {"complete", "pruned"}, frame["failure"].tolist()
    assert set(frame.loc[frame["state"] == "pruned", "epochs"]) <= {1, 2, 3}
    assert set(frame["schedule"]) == {"fixed"}
    verdict = Study("x", storage).snapshot().verdict
    assert verdict is not None
    assert verdict.replicates == 2
    assert verdict.comparison is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("then", "cause", "text"),
    [
        ("crash", "crashed", "crashed 2 times with SIGSEGV"),
        ("requeue-always", "exited", "asked to be started again (exit status 75), 5 times"),
    ],
)
def test_script_is_started_again_a_few_times(
    run: Run, storage: str, then: str, cause: str, text: str
) -> None:
    frame = run(trials=2, options=f'then = "{then}"')
    assert frame["state"].tolist() == ["complete", "failed"]
    assert frame["cause"][1] == cause
    assert text in log(storage, 1)


@pytest.mark.slow
def test_time_limit_ends_a_script_and_its_processes(run: Run, storage: str) -> None:
    frame = run(trials=2, options='then = "hang"', budget="trial_timeout = 15.0")
    assert frame["state"].tolist() == ["complete", "failed"], frame["failure"].tolist()
    assert frame["cause"][1] == "timeout"
    assert "training with" in log(storage, 1)


@pytest.mark.slow
def test_memory_limit_counts_the_processes_of_a_script(run: Run, storage: str) -> None:
    limit = f"{NO_CONFIRM}\n[resources]\nmemory = 0.75"
    frame = run(trials=2, options='then = "memory"', confirm=limit)
    assert frame["state"].tolist() == ["complete", "failed"], frame["failure"].tolist()
    assert frame["cause"][1] == "memory"
    assert "more than 0.75 GiB of memory" in frame["failure"][1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "settings", "reason"),
    [
        (
            'then = "no-test"',
            "",
            "trial 0 has no test split; write test-0001.npz if SWEEPER_SPLITS",
        ),
        ("", "resplit = true", "confirm.resplit requires the training split, which files cannot"),
    ],
)
def test_script_that_cannot_be_confirmed_is_told_what_to_deliver(
    run: Run, storage: str, options: str, settings: str, reason: str
) -> None:
    frame = run(trials=2, options=options, confirm=f"replicates = 2\n{settings}")
    assert frame["state"].tolist() == ["complete"] * 2
    assert reason in Study("x", storage).snapshot().unconfirmed


@pytest.mark.slow
def test_script_may_deliver_its_only_result_at_its_end(
    run: Run, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.worker.epoch_durations.FIRST_EPOCH_SECONDS", 0.0)
    monkeypatch.setattr("sweeper.worker.epoch_durations.HUNG_SECONDS", 0.0)
    pattern = r"pattern = 'validation loss (\S+)'"
    frame = run(trials=2, task=pattern, options='evidence = "pattern"')
    assert frame["state"].tolist() == ["complete"] * 2, frame["failure"].tolist()
    assert Study("x", storage).progress().retried == 0


@pytest.mark.slow
def test_trials_of_different_grades_are_not_mixed(run: Run, storage: str) -> None:
    frame = run(trials=2, options='then = "downgrade"')
    assert frame["state"].tolist() == ["complete", "failed"]
    assert "delivered per-example results, but earlier trials" in log(storage, 1)


@pytest.mark.slow
def test_different_labels_fail_a_trial(run: Run, storage: str) -> None:
    frame = run(trials=2, options='labels = "shuffled"')
    assert frame["state"].tolist() == ["complete", "failed"]
    assert "the validation labels, or their order, differ" in log(storage, 1)


@pytest.mark.slow
def test_labels_of_trials_that_run_at_the_same_time_are_compared(run: Run, storage: str) -> None:
    frame = run(trials=2, options='labels = "meet"', slots=2)
    assert sorted(frame["state"]) == ["complete", "failed"]
    [failed] = frame.index[frame["state"] == "failed"]
    assert "the validation labels, or their order, differ" in frame["failure"][failed]


@pytest.mark.slow
def test_labels_of_a_failed_trial_are_not_the_reference(run: Run, storage: str) -> None:
    frame = run(trials=3, options='labels = "shuffled"\nthen = "raise-first"')
    assert frame["state"].tolist() == ["failed", "complete", "complete"], frame["failure"].tolist()
    assert frame["cause"][0] == "exited"


@pytest.mark.slow
def test_self_reported_study_has_no_verdict(run: Run, storage: str, tmp_path: Path) -> None:
    frame = run(
        trials=3,
        options='evidence = "self-reported"',
        confirm="replicates = 2\nshortlist = 1",
    )
    assert frame["state"].tolist() == ["complete"] * 3, frame["failure"].tolist()
    assert frame["accuracy"].isna().all()
    study = Study("x", storage)
    snapshot = study.snapshot()
    assert snapshot.verdict is None
    assert snapshot.grade == document_of(snapshot)["evidence"] == "self-reported"
    assert "reports its numbers itself" in snapshot.unconfirmed
    assert snapshot.health[0].startswith("Self-reported")
    shown(storage, "Self-reported")
    study.report(tmp_path / "report.html")
    assert "Self-reported" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_study_of_values_of_each_example_has_a_paired_verdict(
    run: Run, storage: str, tmp_path: Path
) -> None:
    run(trials=3, options='evidence = "per-example"', confirm="replicates = 2\nshortlist = 1")
    snapshot = Study("x", storage).snapshot()
    assert snapshot.verdict is not None
    assert snapshot.verdict.comparison is not None
    assert np.isfinite(snapshot.verdict.comparison.difference.low)
    assert snapshot.health[0].startswith("Per example")
    Study("x", storage).report(tmp_path / "report.html")
    assert "Per example" in (tmp_path / "report.html").read_text()
    shown(storage, "Per example")


@pytest.mark.parametrize(
    ("task", "error"),
    [
        ({"program": "a.py", "command": ["rm", "-rf", "/"]}, "task.command: a study that is sent"),
        ({"command": ["python", "a.py"]}, "task.command: a study that is sent"),
        ({"program": "../a.py"}, "task.program: must be"),
        ({"program": "b.py"}, "task.program: 'b.py' is not a file of this server"),
    ],
)
def test_network_cannot_send_commands(tmp_path: Path, task: Any, error: str) -> None:
    (tmp_path / "a.py").write_text("SWEEPER_EPSILON = 1")
    with pytest.raises(SweeperError) as refused:
        submitted_study({"study": {"name": "x"}, "task": task}, [tmp_path])
    assert error in str(refused.value)


# ---- arguments ---------------------------------------------------------------------------

HOSTILE = [
    "two words",
    'quo"te',
    "it's",
    "new\nline",
    "; rm -rf x",
    "$(id)",
    "`id`",
    "-x",
    "*",
    "ü",
]


def test_values_reach_a_script_as_one_argument_each(tmp_path: Path) -> None:
    hparams = {f"h{number}": value for number, value in enumerate(HOSTILE)}
    script = ScriptConfig(str(tmp_path), ["${program}", "${args}", "${args_json}"], "a b.py")
    start = Start("k", (0.25, "fixed", None), 7, 7, hparams=hparams)
    command = command_of(script, start, tmp_path)
    assert command[0] == "a b.py"
    assert command[1:-1] == [f"--h{number}={value}" for number, value in enumerate(HOSTILE)]
    assert json.loads(command[-1]) == hparams


def test_macros_and_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", "${program}")
    monkeypatch.setenv("RANK", "8")
    start = Start("k", (0.25, "fixed", None), 7, 8, number=1, hparams={"lr": 0.1, "on": True})
    flags = {
        "epsilon": "-e",
        "label_smoothing": "--label-smoothing",
        "lr": "--opt.lr",
        "seed": "-s",
    }
    command = [
        *("${env}", "${interpreter}", "${program}", "in=${envvar:DATA}", "${args}"),
        *("${args_no_hyphens}", "${args_json_file}"),
    ]
    script = ScriptConfig(str(tmp_path), command, "t.py", flags, classes=5, options={"n": [1, 2]})
    result = command_of(script, start, tmp_path)
    assert result[:4] == ["/usr/bin/env", sys.executable, "t.py", "in=${program}"]
    smoothing = Smoothing(0.25).label_smoothing(5)
    assert result[4:12] == [
        *("--n=[1, 2]", "--opt.lr=0.1", "--on=True", "-e", "0.25"),
        *(f"--label-smoothing={smoothing}", "-s", "7"),
    ]
    assert result[12:15] == ["n=[1, 2]", "opt.lr=0.1", "on=True"]
    assert Path(result[-1]).read_text() == (
        f'{{"n": [1, 2], "opt": {{"lr": 0.1}}, "on": true, "e": 0.25, "label-smoothing": '
        f'{smoothing}, "s": 7}}'
    )
    environment = variables_of(script, start, tmp_path, tmp_path / "socket")
    assert environment["SWEEPER_LABEL_SMOOTHING"] == str(smoothing) == "0.3125"
    assert environment["SWEEPER_SPLITS"] == "valid"
    assert "RANK" not in environment
    without_classes = replace(script, classes=None)
    for epsilon in (0.0, 0.1):
        fixed = replace(start, smoothing=(epsilon, "fixed", None))
        assert "SWEEPER_LABEL_SMOOTHING" not in variables_of(
            without_classes, fixed, tmp_path, tmp_path / "socket"
        )
    targets = torch.nn.functional.cross_entropy(
        torch.zeros(1, 5), torch.tensor([0]), label_smoothing=smoothing
    )
    assert targets == pytest.approx(np.log(5))


# ---- study files -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "space", "text"),
    [
        ({}, {}, "task.use: missing; set use"),
        ({"program": "a.py", "use": "digits"}, {}, "task.use: cannot be combined"),
        ({"use": "digits", "loss": "sweeper"}, {}, "task.loss: requires program or command"),
        ({"program": "a.py", "command": ["${prog}"]}, {}, "did you mean 'program'"),
        ({"program": "a.py", "command": ["x${args}"]}, {}, "an item of its own"),
        ({"command": ["${program}"]}, {}, "${program} requires task.program"),
        ({"program": "a.py", "flags": {"label_smoothing": "-l"}}, {}, "task.classes: missing"),
        ({"program": "a.py", "flags": {"lrr": "-l"}}, {"lr": [1, 2]}, "did you mean 'lr'"),
        ({"program": "a.py", "flags": {"epsilon": ""}}, {}, "task.flags.epsilon: must be a flag"),
        ({"program": "a.py", "flags": {"lr": "--"}}, {"lr": [1]}, "task.flags.lr: must be a flag"),
        (
            {"program": "a.py", "flags": {"seed": "-s"}, "options": {"seed": 1}},
            {},
            "task.flags.seed: seed is also an option",
        ),
        (
            {"program": "a.py", "flags": {"seed": "-s"}},
            {"seed": [1, 2]},
            "task.flags.seed: seed is also a hyperparameter of [space]",
        ),
        (
            {"program": "a.py", "flags": {"seed": "-s", "data_seed": "-s"}},
            {},
            "task.flags.data_seed: '-s' already passes seed",
        ),
        (
            {"program": "a.py", "flags": {"epsilon": "--lr"}},
            {"lr": [1, 2]},
            "task.flags.epsilon: '--lr' already passes lr",
        ),
        (
            {"program": "a.py", "classes": 2},
            {"epsilon": {"low": 0.0, "high": 0.6}},
            "space.epsilon.high: torch's label_smoothing would exceed 1",
        ),
        ({"program": "a.py", "pattern": "(a)(b)"}, {}, "must have one group"),
        ({"program": "a.py", "pattern": "("}, {}, "not a regular expression"),
        ({"program": "a.py", "pattern": "(a{99999999999})"}, {}, "not a regular expression"),
        ({"program": "a.py"}, {"schedule": ["cosine"]}, 'set task.loss = "sweeper"'),
        ({"program": "a.py", "loss": "sweeper"}, {"schedule": ["a.py:f"]}, "schedule of a file"),
        (
            {"program": "a.py", "classes": 2, "flags": {"label_smoothing": "-l"}},
            {"epsilon": {"low": 0.0, "high": 0.6}},
            "space.epsilon.high: torch's label_smoothing would exceed 1",
        ),
    ],
)
def test_invalid_script_keys_are_refused(task: Any, space: Any, text: str) -> None:
    with pytest.raises(SweeperError) as refused:
        parse_spec({"study": {"name": "x"}, "task": task, "space": space})
    assert text in str(refused.value)


def test_schedule_of_a_script_is_fixed_unless_it_uses_the_loss() -> None:
    def schedules(**task: Any) -> tuple[str, ...]:
        return parse_spec({"study": {"name": "x"}, "task": task}).space.schedule

    assert schedules(program="a.py") == ("fixed",)
    assert len(schedules(program="a.py", loss="sweeper")) == len(schedules(use="digits")) > 1


def test_keys_of_scripts_do_not_change_the_identity_of_other_studies() -> None:
    spec = parse_spec({"study": {"name": "x"}, "task": {"use": "digits"}})
    assert set(spec.task.model_dump()) == {"use", "options", "threads", "device"}


def test_modules_that_a_script_imports_count_as_code(tmp_path: Path) -> None:
    (tmp_path / "nets" / "deep").mkdir(parents=True)
    files = {
        "train.py": "import os, torch\nfrom nets.small import net\nimport helper",
        "helper.py": "def f():\n    from nets.deep import block",
        "nets/__init__.py": "",
        "nets/small.py": "from .deep.block import x\nfrom . import other",
        "nets/other.py": "SWEEPER_EPSILON = 1",
        "nets/deep/__init__.py": "",
        "nets/deep/block.py": "x = 1",
        "unused.py": "",
        "config.yaml": "a: 1",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    sources = ScriptSources(tmp_path, "train.py", ["python", "${program}", "config.yaml"])
    assert set(sources.digests) == set(files) - {"unused.py"}
    assert sources.knows_epsilon
    before = sources.digests
    (tmp_path / "nets/deep/block.py").write_text("x = 2")
    after = ScriptSources(tmp_path, "train.py", []).digests
    assert {name for name in after if after[name] != before[name]} == {"nets/deep/block.py"}


@pytest.mark.parametrize("option", [["-m", "app"], ["-mapp"], ["--module", "app"]])
def test_module_that_a_command_runs_counts_as_code(tmp_path: Path, option: list[str]) -> None:
    (tmp_path / "app" / "nets").mkdir(parents=True)
    files = {
        "app/__init__.py": "",
        "app/__main__.py": "from . import data\nfrom .nets.small import net",
        "app/data.py": "import helper",
        "app/nets/small.py": "from ..other import x",
        "app/other.py": "SWEEPER_EPSILON",
        "helper.py": "",
        "unused.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    sources = ScriptSources(tmp_path, "", ["${interpreter}", *option, "${args}"])
    assert set(sources.digests) == set(files) - {"unused.py"}
    assert sources.knows_epsilon
    module = [*option[:-1], option[-1].replace("app", "helper")]
    assert set(ScriptSources(tmp_path, "", ["torchrun", *module]).digests) == {"helper.py"}
    assert not ScriptSources(tmp_path, "", ["python", "-m", "no_such_module"]).digests


@pytest.mark.parametrize(
    ("text", "keys", "error"),
    [
        ("print(1)", "", "task.flags: ε does not reach the script"),
        ("def f(:\n", "", "invalid syntax"),
        ("SWEEPER_EPSILON", 'command = ["no-such-program"]', "task.command[0]: 'no-such-program'"),
    ],
)
def test_script_that_cannot_run_is_refused_at_launch(
    tmp_path: Path, text: str, keys: str, error: str
) -> None:
    (tmp_path / "t.py").write_text(text)
    study = f'[study]\nname = "x"\n[task]\nprogram = "t.py"\n{keys}\n'
    (tmp_path / "x.toml").write_text(study)
    with pytest.raises(SweeperError) as refused:
        read_study(tmp_path / "x.toml")
    assert error in str(refused.value)


# ---- current_run -------------------------------------------------------------------------


class Script:
    """Stands for the processes of a script: connects ranks to a `Ranks` served by a thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *actions: Action) -> None:
        self.replies = Replies(*actions)
        self._monkeypatch, self._over = monkeypatch, threading.Event()
        self._exits: list[Any] = []
        self._folder = tempfile.TemporaryDirectory()
        self.path = f"{self._folder.name}/socket"

    def __enter__(self) -> Self:
        start = Start("k", (0.1, "fixed", None), 3, 3, socket=self.path)
        begin = {"start": vars(start) | {"full": vars(start.full)}, "options": {}, "folder": "."}
        self._ranks = Ranks(Path(self.path), lambda: {**begin, "seconds": 0.0}, self.replies)
        self._ranks.__enter__()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def _serve(self) -> None:
        while not self._over.is_set():
            self._ranks.serve(0.01)

    def stop(self) -> None:
        if not self._over.is_set():
            self._over.set()
            self._thread.join()
            self._ranks.__exit__()

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._folder.cleanup()
        for function, *arguments in self._exits:
            function(*arguments)

    def rank(self, number: int) -> TrainingRun:
        self._monkeypatch.setenv("RANK", str(number))
        self._monkeypatch.setattr("sys.excepthook", sys.excepthook)
        self._monkeypatch.setattr("atexit.register", lambda *call: self._exits.append(call))
        return connected_run(self.path)


LOGITS = [[2.0, 0.0], [0.0, 1.0]], [0, 1]


def test_ranks_stop_at_the_same_report(monkeypatch: pytest.MonkeyPatch) -> None:
    with Script(monkeypatch, "continue", "prune") as script:
        first, second = script.rank(0), script.rank(1)
        with ThreadPoolExecutor(1) as threads:
            # Rank 1 may report before rank 0, and rank 0 never waits for it.
            waiting = threads.submit(second.report, *LOGITS, progress=0.5)
            first.report(*LOGITS, progress=0.5)
            waiting.result()
        for run in (first, second, second):
            with pytest.raises(TrialPruned):
                run.report(*LOGITS, progress=1.0)
        assert [report.number for report in script.replies.reports] == [1, 2]


def test_rank_waits_for_a_limited_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeper.training.scripts.client.REPLY_SECONDS", 0.0)
    with Script(monkeypatch) as script:
        second = script.rank(1)
        with pytest.raises(SweeperError, match="rank 1 waited 0 s for report 1 of rank 0"):
            second.report(*LOGITS, progress=0.5)


def test_rank_is_released_when_its_supervisor_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    with Script(monkeypatch) as script:
        runs = script.rank(0), script.rank(1)
        script.stop()
        for run in runs:
            with pytest.raises(TrialReleased):
                run.report(*LOGITS, progress=0.5)


@pytest.mark.slow
def test_script_is_replayed(run: Run, storage: str) -> None:
    run(script="script_ranks.py", task='loss = "sweeper"', trials=2)
    replay = api.replay("x", 1, storage)
    assert replay.same, (replay.reason, replay.scores)


@pytest.mark.slow
def test_killed_worker_leaves_no_script(
    file: Callable[..., Path], storage: str, tmp_path: Path, start_sweeper: StartSweeper
) -> None:
    study = file(options='then = "hang"', trials=2)
    launch = start_sweeper("launch", study, "--workers", 1, "--results", tmp_path / "results")
    wait_until((tmp_path / "results/x/trials/1/valid-0001.npz").exists, launch)
    scripts = processes_in(tmp_path)
    assert scripts
    kill_with_workers(launch)
    assert psutil.wait_procs(scripts, timeout=20)[1] == []


@pytest.mark.slow
def test_script_resumes_from_its_own_checkpoint_after_its_worker_is_killed(
    file: Callable[..., Path], storage: str, tmp_path: Path, start_sweeper: StartSweeper
) -> None:
    study, results = file(options='then = "resume"', trials=2), tmp_path / "results"
    launch = start_sweeper("launch", study, "--workers", 1, "--results", results)
    wait_until((results / "x/trials/1/checkpoint").exists, launch)
    running = Study("x", storage)
    wait_until(lambda: 1 in running.epochs()["number"].tolist(), launch)
    kill_with_workers(launch)
    done = command("launch", study, "--workers", 1, "--results", results, "--storage", storage)
    assert done.status == 0, done.err
    frame = Study("x", storage).frame()
    assert frame["state"].tolist() == ["complete"] * 2, frame["failure"].tolist()
    assert "resumed after epoch 1" in log(storage, 1)
    epochs = Study("x", storage).epochs()
    assert epochs.loc[epochs["number"] == 1, "epoch"].tolist() == [1, 2, 3, 4]
    expected = expected_nll(frame["epsilon"][1], 4, seed=0)
    assert frame["nll"][1] == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_script_reports_through_current_run(run: Run, storage: str) -> None:
    frame = run(
        script="script_ranks.py",
        task='loss = "sweeper"',
        trials=5,
        pruner="startup = 2\nwarmup = 0.3",
        confirm="replicates = 2\nshortlist = 1",
    )
    assert set(frame["state"]) == {"complete", "pruned"}, frame["failure"].tolist()
    assert len(set(frame["schedule"])) > 1
    pruned = frame.loc[frame["state"] == "pruned", "number"].tolist()
    assert "sweeper: the trial was pruned; stop training" in log(storage, pruned[0])
    assert "Traceback" not in log(storage, pruned[0])
    verdict = Study("x", storage).snapshot().verdict
    assert verdict is not None
    assert verdict.replicates == 2


@pytest.mark.slow
@pytest.mark.parametrize("then", ["", "kill-0", "kill-1", "segv"])
def test_torchrun_is_one_trial(run: Run, storage: str, then: str) -> None:
    command = [*TORCHRUN, "${program}", "${args}"]
    frame = run(
        script="script_ranks.py",
        task=f'loss = "sweeper"\ncommand = {command!r}',
        options=f'then = "{then}"',
        trials=2 if then else 4,
        pruner='name = "none"' if then else "startup = 2\nwarmup = 0.3",
    )
    assert frame["state"][0] == "complete", log(storage, 0)
    assert "rank 1 of 2: epoch 4" in log(storage, 0)
    progress = Study("x", storage).progress()
    if then == "segv":
        assert frame["cause"][1] == "crashed"
        assert "crashed 2 times with SIGSEGV" in frame["failure"][1]
    elif then:
        # A rank that is killed once, like a process that is killed, is tried again.
        assert frame["state"].tolist() == ["complete"] * 2, frame["failure"].tolist()
        assert progress.retried == 1
    else:
        assert set(frame["state"]) == {"complete", "pruned"}, frame["failure"].tolist()
        assert progress.retried == 0
