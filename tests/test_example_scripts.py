"""Eight example scripts: what they deliver, and how many of their lines are for sweeper."""

import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from sweeper.api import Study
from sweeper.store.database import Store
from sweeper.study.load import read_study
from sweeper.study.registration import register
from sweeper.worker.served_studies import EndReason, WorkerOptions
from sweeper.worker.stopping import StopRequest
from sweeper.worker.worker import work
from tests.support.studies import TASKS

EXAMPLES = TASKS / "example_scripts"
GUIDE = Path(__file__).parents[1] / "docs" / "how-to" / "scripts.md"
STUDY = """
[study]
name = "x"
[task]
program = "{script}.py"
{task}
[budget]
trials = 2
[sampler]
name = "random"
[confirm]
enabled = false
"""
TORCHRUN = (
    'command = ["${interpreter}", "-m", "torch.distributed.run", "--standalone", '
    '"--nproc-per-node", "2", "${program}"]\nloss = "sweeper"'
)
EPSILON = 'flags.epsilon = "--epsilon"'
SMOOTHING = "classes = 4\nflags.label_smoothing = "
SCRIPTS = {
    "plain_files": (EPSILON, "scored"),
    "current_run": ('loss = "sweeper"', "scored"),
    "per_example": (EPSILON, "per-example"),
    "json_lines": (f'{EPSILON}\nevidence = "self-reported"', "self-reported"),
    "unmodified": (
        f"pattern = 'val_loss (\\S+)'\n{SMOOTHING}\"--label-smoothing\"",
        "self-reported",
    ),
    "ranks": (TORCHRUN, "scored"),
    "trainer": ('loss = "sweeper"', "scored"),
    "timm_style": (f'{SMOOTHING}"--smoothing"', "scored"),
}


def lines_for_sweeper(script: str) -> int:
    files = [EXAMPLES / f"{script}.py"]
    if script == "trainer":
        files.append(TASKS.parents[1] / "studies" / "frameworks" / "digits_huggingface.py")
    for_sweeper = re.compile(r"sweeper|huggingface\.train|\brun\.|SWEEPER")
    code = (line for file in files for line in file.read_text().split('"""', 2)[2].splitlines())
    return sum(bool(for_sweeper.search(line)) for line in code)


@pytest.mark.parametrize("script", SCRIPTS)
def test_guide_has_the_number_of_lines_of_each_example(script: str) -> None:
    grade = SCRIPTS[script][1]
    row = re.search(rf"^\| .*`{script}\.py`.*\|$", GUIDE.read_text(), re.MULTILINE)
    assert row is not None
    assert row[0].split("|")[2:4] == [f" {grade} ", f" {lines_for_sweeper(script)} "]


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_example_script_is_trained(script: str, store: Store, storage: str, tmp_path: Path) -> None:
    if script == "trainer" and find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    for file in (EXAMPLES / f"{script}.py", TASKS / "softmax.py"):
        shutil.copy(file, tmp_path)
    shutil.copy(TASKS.parents[1] / "studies/frameworks/digits_huggingface.py", tmp_path)
    task, grade = SCRIPTS[script]
    (tmp_path / "x.toml").write_text(STUDY.format(script=script, task=task))
    register(store, read_study(tmp_path / "x.toml"))
    options = WorkerOptions("x", tmp_path / "results", slots=1)
    assert work(store, options, StopRequest(grace=5.0)) is EndReason.FINISHED
    study = Study("x", storage)
    frame = study.frame()
    assert frame["state"].tolist() == ["complete"] * 2, frame["failure"].tolist()
    assert study.snapshot().grade == grade
