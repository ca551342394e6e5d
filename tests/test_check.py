"""`sweeper check`: faults that are planted in training code, and clean code without a finding."""

import sys
from pathlib import Path
from typing import Any, Final

import pytest
import torch

from sweeper import StudySnapshot, SweeperError, TrainingRun, check, launch
from sweeper.checking.check import run_check
from sweeper.checking.finding import Check
from sweeper.study.load import StudyFile, read_study
from tests.support.processes import run

PLANTED: Final = Path(__file__).parent / "planted"

LOOPS: Final = {
    "argument_ignored": {"no-effect"},
    "constant_smoothing": {"no-effect", "hidden-smoothing"},
    "added_smoothing": {"hidden-smoothing"},
    "read_at_import": {"no-effect", "hidden-smoothing"},
    "smoothing_in_mixup": {"hidden-smoothing"},
    "wrong_criterion": {"no-effect", "smoothed-validation"},
    "auxiliary_criterion": {"no-effect"},
    "smoothed_validation": {"smoothed-validation"},
    "constant_smoothed_validation": {"smoothed-validation"},
    "shuffled_validation": {"shuffled-split"},
    "redrawn_split": {"redrawn-split"},
    "redrawn_stratified_split": {"redrawn-split"},
    "softmax_outputs": {"probabilities"},
    "training_mode": {"training-mode"},
    "duplicated_rows": {"shared-rows"},
    "validates_on_training": {"shared-rows"},
    "missing_class": {"missing-classes"},
    **dict.fromkeys(
        (
            *("clean", "clean_mixup", "clean_class_weights", "clean_noisy", "clean_noisy_custom"),
            *("clean_log_softmax", "clean_focal", "clean_binary"),
        ),
        frozenset[str](),
    ),
}
FRAMEWORKS: Final = {
    "hf_model_loss": {"no-effect"},
    "hf_factor_left": {"no-effect", "hidden-smoothing", "smoothed-validation"},
    "hf_factor_beside_the_adapter": {"fails"},
    "hf_smoothed_eval_loss": {"smoothed-validation"},
    "lightning_one_criterion": {"smoothed-validation"},
    "lightning_ignored": {"no-effect"},
    "timm_mixup_default": {"no-effect", "hidden-smoothing"},
    "timm_smoothing_default": {"no-effect", "hidden-smoothing"},
    **dict.fromkeys(
        ("clean_hf", "clean_lightning", "clean_timm", "clean_timm_mixup"), frozenset[str]()
    ),
}
SCRIPTS: Final = {
    "ignored": {"no-effect"},
    "noise-ignored": {"no-effect"},
    "shuffled": {"shuffled-split"},
    "probabilities": {"probabilities"},
    "none": set[str](),
    "noise": set[str](),
}


def study(folder: Path, task: str, trials: int = 64) -> StudyFile:
    """Return a study of a planted file."""
    for path in PLANTED.glob("*.py"):
        (folder / path.name).write_bytes(path.read_bytes())
    path = folder / "planted.toml"
    path.write_text(
        f'[study]\nname = "planted"\nseed = 3\n[budget]\ntrials = {trials}\n[task]\n{task}'
    )
    return read_study(path)


def kinds(result: Check) -> set[str]:
    return {line.kind for line in result.findings}


@pytest.mark.parametrize("name", LOOPS)
def test_a_fault_of_a_training_loop_is_named(tmp_path: Path, name: str) -> None:
    result = run_check(study(tmp_path, f'use = "loops.py:{name}"'))
    assert kinds(result) == LOOPS[name], result.lines
    assert result.share <= 0.02


@pytest.mark.slow
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_fault_with_a_framework_is_named(tmp_path: Path, name: str) -> None:
    result = run_check(study(tmp_path, f'use = "frameworks.py:{name}"'))
    assert kinds(result) == FRAMEWORKS[name], result.lines


@pytest.mark.slow
@pytest.mark.parametrize("fault", SCRIPTS)
def test_a_fault_of_a_script_is_named(tmp_path: Path, fault: str) -> None:
    task = (
        f'program = "script.py"\nclasses = 5\nflags = {{ label_smoothing = "--smoothing" }}\n'
        f'options = {{ fault = "{fault}" }}'
    )
    result = run_check(study(tmp_path, task))
    assert kinds(result) == SCRIPTS[fault], result.lines


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "expected"), [("soft", {"hidden-smoothing"}), ("none", set())])
def test_soft_labels_of_a_connected_script_are_found(
    tmp_path: Path, fault: str, expected: set[str]
) -> None:
    task = f'program = "connected.py"\nloss = "sweeper"\noptions = {{ fault = "{fault}" }}'
    assert kinds(run_check(study(tmp_path, task))) == expected


# ---- launches ----------------------------------------------------------------------------


def launched(folder: Path, name: str, **options: Any) -> StudySnapshot:
    study(folder, f'use = "loops.py:{name}"', trials=8)
    given = {"storage": str(folder / "s.db"), "results": folder / "results", "confirm": False}
    return launch(folder / "planted.toml", **{**given, **options}).snapshot()


@pytest.mark.usefixtures("checked_launches")
def test_a_launch_stops_at_a_finding_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(SweeperError, match=r"ε has no effect(.|\n)*--no-check"):
        launched(tmp_path, "argument_ignored")
    assert not (tmp_path / "s.db").exists()


@pytest.mark.usefixtures("checked_launches")
def test_a_launch_without_a_check_runs(tmp_path: Path) -> None:
    assert launched(tmp_path, "argument_ignored", check=False).finished


@pytest.mark.usefixtures("checked_launches")
def test_a_warning_is_stored_and_the_same_code_is_not_checked_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "sweeper"):
        first = launched(tmp_path, "smoothed_validation")
        assert "val_loss is not the NLL" in caplog.text
        caplog.clear()
        again = launched(tmp_path, "smoothed_validation", trials=10)
    assert "three short runs" not in caplog.text
    for shown in (first, again):
        assert any("val_loss is not the NLL" in note for note in shown.health)


def test_a_function_of_a_script_is_checked() -> None:
    def train(run: TrainingRun) -> None:
        y = torch.arange(60) % 3
        model, loss = torch.nn.Linear(3, 3), torch.nn.CrossEntropyLoss()
        loss(model(torch.eye(3)[y]), y).backward()
        run.report(model(torch.eye(3)[y]), y, progress=1.0)

    for given in (train, lambda run: train(run)):
        assert "no-effect" in kinds(check(given, name="mine"))


@pytest.mark.usefixtures("checked_launches")
def test_the_check_trains_what_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The main module has another function with the name of the given one."""

    def train(run: TrainingRun) -> None:
        raise ValueError("the given function")

    monkeypatch.setattr(sys.modules["__main__"], "train", lambda run: None, raising=False)
    with pytest.raises(SweeperError, match="the given function"):
        launch(train, name="mine", storage=str(tmp_path / "s.db"), results=tmp_path)


def test_the_command_prints_the_findings_and_exits_with_1(tmp_path: Path) -> None:
    study(tmp_path, 'use = "loops.py:training_mode"')
    done = run("check", str(tmp_path / "planted.toml"))
    assert done.status == 1
    assert "training-mode" in done.out
    assert "1 finding;" in done.out
