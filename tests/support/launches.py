"""A slow study, and launches of it that tests interrupt."""

import subprocess
from pathlib import Path

from sweeper.api import Study
from sweeper.errors import SweeperError

SLOW = """
[study]
name = "slow"
[task]
use = "quick.py:slow"
options = {{ trace = '{trace}', pause = 0.06 }}
[budget]
trials = 24
"""


def wait_until(process: subprocess.Popen[str], storage: str, ended: int) -> Study:
    """Wait until so many trials have ended, by looking, for as long as the launch lives."""
    study = Study("slow", storage)
    for _ in range(3000):
        try:
            if study.progress().ended >= ended:
                return study
        except SweeperError:
            pass  # the launch has not made the database yet
        try:
            process.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
        break
    raise AssertionError(f"the launch ended too early: {process.communicate()[0]}")


def check_exact(study: Study, tmp_path: Path, *, again: int) -> None:
    """Check that every trial ended once, and that at most `again` were started anew."""
    frame = study.frame()
    assert frame["number"].tolist() == list(range(24))
    assert sorted(frame["ticket"]) == list(range(24))
    assert set(frame["state"]) <= {"complete", "pruned"}
    started = (tmp_path / "trace").read_text().split()
    assert 24 <= len(started) <= 24 + again
    assert len(set(started)) == 24
