"""Outputs with several positions per example, in batches, and with groups."""

import math
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sweeper.errors import SweeperError
from sweeper.scoring import fit_temperature, score
from sweeper.scoring.logits_file import LogitsFile
from sweeper.smoothing import Smoothing
from sweeper.training import outputs
from sweeper.training.failures import TrainingFailed
from sweeper.training.replicate_scores import replicate_result
from sweeper.training.run import Evaluation as TypedEvaluation
from sweeper.training.run import TrainingRun, running

# Accepts lists, arrays and batches, which its fields are not typed for.
Evaluation: Any = TypedEvaluation


def batch(*shape: int, seed: int = 0, ignored: float = 0.3) -> tuple[Tensor, Tensor]:
    """Return logits of a shape (N, K, d1, …) and likely labels, some of them ignored (-100)."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(*shape, generator=generator)
    places = (shape[0], *shape[2:])
    noise = torch.randn(*shape, generator=generator)
    labels = (logits + noise).argmax(1)
    return logits, labels.where(torch.rand(places, generator=generator) >= ignored, -100)


def rows(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions that are not ignored, one after the other."""
    found = [
        (logits[(place[0], slice(None), *place[1:])], labels[tuple(place)])
        for place in (labels != -100).nonzero().tolist()
    ]
    return torch.stack([logit for logit, _ in found]), torch.stack([label for _, label in found])


def _scored(evaluation: TypedEvaluation) -> tuple[Tensor, Tensor]:
    return evaluation.logits, evaluation.labels


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write logits to a file from 100 on, and read them again in each pass."""
    monkeypatch.setattr(outputs, "MAX_KEPT", 100)
    monkeypatch.setattr("sweeper.scoring.temperature.MAX_KEPT", 100)
    monkeypatch.setattr(outputs, "_PIECE", 64)


@pytest.mark.parametrize("shape", [(30, 4), (6, 4, 7), (3, 11, 4, 5), (0, 3), (2, 3, 0)])
def test_only_the_positions_that_are_not_ignored_are_scored(shape: tuple[int, ...]) -> None:
    logits, labels = batch(*shape)
    if not labels.numel():
        with pytest.raises(ValueError, match=r"no (examples|samples)"):
            score(*_scored(Evaluation(logits, labels, 1.0)))
        return
    evaluation = Evaluation(logits, labels, 1.0)
    expected = rows(logits, labels)
    assert torch.equal(evaluation.logits, expected[0])
    assert torch.equal(evaluation.labels, expected[1])
    # As the loss takes them.
    nll = F.cross_entropy(logits.double(), labels, ignore_index=-100).item()
    assert score(evaluation.logits, evaluation.labels).nll == pytest.approx(nll, abs=1e-12)


def test_another_ignored_label_and_narrow_labels() -> None:
    logits, labels = batch(5, 3, 4)
    narrow = labels.where(labels != -100, 255).to(torch.uint8)
    found = Evaluation(logits, narrow, 1.0, ignore_index=255)
    assert torch.equal(found.logits, Evaluation(logits, labels, 1.0).logits)
    # In uint8, -100 and 156 are the same number.
    wrong = torch.tensor([156, 0], dtype=torch.uint8)
    with pytest.raises(ValueError, match="labels range from 0 to 156"):
        score(*_scored(Evaluation(torch.zeros(2, 3), wrong, 1.0)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(120, 5), (24, 12, 6)])
@pytest.mark.parametrize("memory", ["memory", "disk"])
def test_batches_of_any_size_have_the_bits_of_a_single_call(
    shape: tuple[int, ...], dtype: torch.dtype, memory: str, request: pytest.FixtureRequest
) -> None:
    logits, labels = batch(*shape)
    logits = logits.to(dtype)
    flat = rows(logits, labels)
    groups = None
    if len(shape) > 2:
        groups = torch.arange(shape[0]).unsqueeze(1).expand_as(labels)[labels != -100]
    in_memory = score(*flat, groups=groups)
    if memory == "disk":
        request.getfixturevalue("on_disk")
    expected = score(*flat, groups=groups)
    assert expected.to_dict() == pytest.approx(in_memory.to_dict(), abs=1e-9)
    sizes = [1, 7, shape[0] - 8]
    parts = list(zip(torch.split(logits, sizes), torch.split(labels, sizes), strict=True))
    scorer = TrainingRun(Smoothing(0.0), 1, 1).scorer()
    for part in parts:
        scorer.add(*part)
    for given in (scorer, parts, iter(parts)):
        found = Evaluation(given, None, 1.0)
        assert isinstance(found.logits, LogitsFile) == (memory == "disk")
        assert score(found.logits, found.labels, groups=found.groups) == expected
    single = Evaluation(logits, labels, 1.0)
    assert score(single.logits, single.labels, groups=single.groups) == expected


def test_a_class_that_is_masked_in_all_rows_of_a_file(on_disk: None) -> None:
    logits, labels = batch(60, 6, ignored=0)
    labels = labels.clamp(max=4)
    logits[:, 5] = -math.inf
    found = Evaluation([(logits, labels)], None, 1.0)
    assert isinstance(found.logits, LogitsFile)
    assert score(found.logits, found.labels) == score(logits, labels)
    logits[59, 5] = -800.0  # its probability underflows, but it is not masked
    found = Evaluation([(logits, labels)], None, 1.0)
    assert score(found.logits, found.labels) == score(logits, labels)
    masked = score(logits[:59], labels[:59]).ece_classwise
    assert masked is not None
    assert score(logits, labels).ece_classwise != pytest.approx(masked, rel=0.05)


def test_the_memory_of_a_batch_can_be_used_again() -> None:
    logits, labels = batch(10, 3, ignored=0)
    scorer = outputs.Scorer()
    reused = logits.clone()
    scorer.add(reused, labels)
    reused.zero_()
    assert torch.equal(Evaluation(scorer, None, 1.0).logits, logits)


@pytest.mark.parametrize("shape", [(40,), (40, 1), (8, 1, 5)])
@pytest.mark.parametrize("kind", [torch.int64, torch.float32, torch.bool])
def test_one_logit_per_example_is_scored_as_two_classes(
    shape: tuple[int, ...], kind: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(shape, generator=generator)
    labels = torch.rand(shape, generator=generator) < 0.4
    found = Evaluation(logits, labels.to(kind), 1.0)
    nll = F.binary_cross_entropy_with_logits(logits.double(), labels.double()).item()
    ours = score(found.logits, found.labels)
    assert ours.nll == pytest.approx(nll, abs=1e-12)
    assert ours.accuracy == ((logits > 0) == labels).double().mean().item()
    squeezed = Evaluation(logits, labels.reshape(shape[0], *shape[2:]), 1.0)
    assert torch.equal(squeezed.labels, found.labels)


# ---- groups ------------------------------------------------------------------------------------


def test_the_groups_of_positions() -> None:
    logits, labels = batch(3, 4, 2, ignored=0)
    labels[0, 1] = -100
    assert Evaluation(logits, labels, 1.0).groups.tolist() == [0, 1, 1, 2, 2]
    given = Evaluation(logits, labels, 1.0, groups=[7, 7, 9])
    assert given.groups.tolist() == [7, 7, 7, 9, 9]
    each = np.arange(6).reshape(3, 2)
    assert Evaluation(logits, labels, 1.0, groups=each).groups.tolist() == [0, 2, 3, 4, 5]
    parts = [(logits[:1], labels[:1]), (logits[1:], labels[1:])]
    in_batches = Evaluation(parts, None, 1.0)
    assert in_batches.groups.tolist() == [0, 1, 1, 2, 2]
    flat = batch(4, 3, ignored=0)
    assert Evaluation(*flat, 1.0).groups is None
    named = Evaluation([(*flat, [5, 5, 2, 2])], None, 1.0)
    assert named.groups.tolist() == [5, 5, 2, 2]


def test_a_group_is_not_divided_between_the_halves() -> None:
    """Each half is scaled with the temperature of the other half."""
    logits, labels = batch(90, 3, ignored=0)
    groups = torch.arange(90) % 3 * 5
    logits *= 1 + groups.unsqueeze(1)
    shuffled = torch.randperm(3, generator=torch.Generator().manual_seed(0))
    first = groups == 5 * shuffled[0]
    total = 0.0
    for scored in (first, ~first):
        beta = 1 / fit_temperature(logits[~scored], labels[~scored])
        scaled = logits[scored].double() * beta
        total += F.cross_entropy(scaled, labels[scored], reduction="sum").item()
    ours = score(logits, labels, groups=groups).nll_calibrated
    assert ours == pytest.approx(total / 90, abs=1e-7)
    assert ours != pytest.approx(score(logits, labels).nll_calibrated, abs=1e-3)
    alone = score(logits, labels, groups=torch.zeros(90, dtype=torch.long))
    assert alone.nll_calibrated == pytest.approx(alone.nll)
    assert score(logits, labels, groups=torch.arange(90)) == score(logits, labels)


def test_the_test_split_of_a_confirmation_may_come_in_batches_and_groups(on_disk: None) -> None:
    valid = batch(30, 4)
    test = batch(12, 4, 5, seed=1)
    expected = None
    for returned in (test, [test], iter([(test[0][:3], test[1][:3]), (test[0][3:], test[1][3:])])):
        evaluation = Evaluation(*valid, 1.0, splits={"test": lambda value=returned: value})
        found = replicate_result(evaluation, score(evaluation.logits, evaluation.labels))
        assert found.rows["test"] == int((test[1] != -100).sum())
        assert found.rows["test_groups"] == 12
        expected = found if expected is None else expected
        assert found.scores == expected.scores
        assert np.array_equal(found.examples, expected.examples)
        assert np.array_equal(found.groups, expected.groups)


# ---- what is refused ---------------------------------------------------------------------------

ZEROS, LABELS = torch.zeros(4, 3, 2), torch.zeros(4, 2, dtype=torch.long)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            lambda: Evaluation(ZEROS.movedim(1, -1), LABELS, 1.0),
            r"Evaluation.labels have shape \(4, 2\); .* it must be \(4, 3\); if the classes are on "
            r"the last axis, give logits.movedim\(-1, 1\)",
        ),
        (
            lambda: Evaluation(ZEROS, LABELS.float(), 1.0),
            "labels are torch.float32; .* integer class numbers",
        ),
        (lambda: Evaluation(ZEROS, LABELS - 100, 1.0), r"every label is -100 \(ignore_index\)"),
        (lambda: Evaluation(torch.zeros(3), torch.tensor([0, 0.5, 1]), 1.0), "must be 0 or 1"),
        (
            lambda: Evaluation(ZEROS, LABELS, 1.0, groups=torch.zeros(2).long()),
            r"Evaluation.groups are torch.int64 of shape \(2,\); .* shape \(4,\) or \(4, 2\)",
        ),
        (lambda: Evaluation(ZEROS, LABELS, 1.0, groups=torch.zeros(4)), "must be integers"),
        (lambda: Evaluation(ZEROS, None, 1.0), r"logits is a Tensor of shape \(4, 3, 2\) without"),
        (lambda: Evaluation([ZEROS], None, 1.0), "batch 1 is a Tensor .*; it must be"),
        (
            lambda: Evaluation([(ZEROS, LABELS), (ZEROS, LABELS[:1])], None, 1.0),
            r"Evaluation.batch 2: labels have shape \(1, 2\)",
        ),
        (
            lambda: Evaluation([(ZEROS, LABELS), (ZEROS.half(), LABELS)], None, 1.0),
            "batch 2: logits have 3 classes and type torch.float16; those of the first batch have "
            "3 classes and type torch.float32",
        ),
        (
            lambda: Evaluation([(ZEROS, LABELS), (ZEROS[:, :, 0], LABELS[:, 0])], None, 1.0),
            "groups must be given for all batches or for none",
        ),
        (lambda: Evaluation([], None, 1.0), "there are no batches"),
        (lambda: Evaluation(ZEROS, LABELS, 1.0, ignore_index=None), "must be an integer, got None"),
        (lambda: Evaluation([(ZEROS, LABELS)], None, 1.0, groups=LABELS), "add them to each batch"),
        (
            lambda: Evaluation(outputs.Scorer(), None, 1.0, ignore_index=7),
            r"ignore_index is 7, but .* -100; use run.scorer\(ignore_index=7\)",
        ),
    ],
)
def test_outputs_that_cannot_be_scored_are_refused(given: Callable[[], Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        given()


def test_outputs_in_a_file_can_be_reported_again_and_sent(on_disk: None) -> None:
    first = Evaluation([batch(60, 6)], None, 0.5)
    again = replace(first, progress=1.0)
    assert again.logits is first.logits
    assert score(*_scored(again)) == score(*_scored(first))
    assert torch.equal(pickle.loads(pickle.dumps(first.logits)), first.logits[:])


def test_a_reported_scorer_takes_no_more_batches() -> None:
    scorer = outputs.Scorer()
    scorer.add(ZEROS, LABELS)
    Evaluation(scorer, None, 1.0)
    with pytest.raises(SweeperError, match="already reported; create one for each report"):
        scorer.add(ZEROS, LABELS)


def test_invalid_outputs_of_a_split_name_the_split() -> None:
    splits: Any = {"test": lambda: (ZEROS, LABELS[:1])}
    evaluation = Evaluation(*batch(9, 3, ignored=0), 1.0, splits=splits)
    valid = score(evaluation.logits, evaluation.labels)
    with pytest.raises(TrainingFailed, match=r"splits\['test'\]: labels have shape \(1, 2\)"):
        replicate_result(evaluation, valid)


def test_a_full_disk_is_named(on_disk: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", write)
    with pytest.raises(SweeperError, match=r"temporary file in .*: No space left .*; free disk"):
        Evaluation([batch(60, 6)], None, 1.0)


def test_the_file_is_in_the_folder_of_the_run_and_without_a_name(
    on_disk: None, tmp_path: Path
) -> None:
    run = TrainingRun(Smoothing(0.0), 1, 1, directory=tmp_path)
    with running(run):
        scorer = run.scorer()
    scorer.add(*batch(60, 6))
    places = [Path(f"/proc/self/fd/{number}") for number in range(3, 200)]
    links = [str(place.readlink()) for place in places if place.is_symlink()]
    assert any(link.startswith(str(tmp_path)) for link in links)
    assert list(tmp_path.iterdir()) == []


MEMORY = """
import re
from pathlib import Path
import torch
from sweeper.scoring import examples, score, temperature
from sweeper.training import outputs as collected
from sweeper.training.run import Evaluation

collected.MAX_KEPT = temperature.MAX_KEPT = 2**22  # 16 MiB

def outputs():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        labels = torch.randint(5000, (256,), generator=generator)
        yield torch.randn(256, 5000, generator=generator), labels

def peak():
    # Not ru_maxrss, which includes the memory of the parent process.
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

torch.set_num_threads(1)
score(*next(outputs()))
before = peak()
evaluation = Evaluation(outputs(), None, 1.0)
scores = score(evaluation.logits, evaluation.labels)
examples(evaluation.logits, evaluation.labels, scores.temperature)
print(peak() - before)
"""


@pytest.mark.slow
def test_the_memory_in_use_does_not_grow_with_the_number_of_batches() -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # The logits have 244 MiB.
    assert int(done.stdout) < 60
