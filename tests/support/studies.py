"""Study files that many tests run, and the traces that their trials leave."""

import shutil
from pathlib import Path
from typing import Final

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


def steps(trace: Path) -> list[tuple[float, int]]:
    """Return (epsilon, epoch) of each epoch that was trained."""
    lines = [line.split() for line in trace.read_text().splitlines()]
    return [(float(epsilon), int(epoch)) for epsilon, epoch in lines]


def copy_task(folder: Path, name: str = "quick.py") -> Path:
    """Copy a file of tests/tasks into the folder of a study."""
    return Path(shutil.copy(TASKS / name, folder / name))
