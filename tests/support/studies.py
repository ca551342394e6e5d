"""Study files that many tests run, and the traces that their trials leave."""

import shutil
from pathlib import Path
from typing import Any, Final

from sweeper.study.code import inspect_here
from sweeper.study.load import StudyFile, read_study

TASKS: Final = Path(__file__).parent.parent / "tasks"
STUDY = """
[study]
name = "quick"
seed = 3
[task]
use = "quick.py:train"
[budget]
trials = 12
"""
RESUMABLE = """
[study]
name = "quick"
[task]
use = "quick.py:resumable"
options = {{ trace = '{trace}' }}
[budget]
trials = {trials}
"""


def read_here(reference: str | Path, **given: Any) -> StudyFile:
    """Read a study file and load its code in this process: a process of its own takes seconds."""
    return read_study(reference, inspect=inspect_here, **given)


def steps(trace: Path) -> list[tuple[float, int]]:
    """Return (epsilon, epoch) of each epoch that was trained."""
    lines = [line.split() for line in trace.read_text().splitlines()]
    return [(float(epsilon), int(epoch)) for epsilon, epoch in lines]


def copy_task(folder: Path, name: str = "quick.py") -> Path:
    """Copy a file of tests/tasks into the folder of a study."""
    return Path(shutil.copy(TASKS / name, folder / name))
