"""Ten digits trials give the scores that were recorded, to the last bit, however they are run.

The scores were recorded before the modules were moved. The trials run without the instructions that
only some processors have, so all x86-64 machines give the same bits. When a release of torch
changes the scores, `python -m tests.test_recorded_scores` records them again.
"""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import torch

RECORDED: Final = Path(__file__).parent / "recorded" / "scores.json"
PORTABLE: Final = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OPENBLAS_CORETYPE": "Nehalem",
    "OMP_NUM_THREADS": "1",
}
TORCH: Final = torch.__version__.partition("+")[0]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the scores were recorded on x86-64"),
]


def run() -> Any:
    """Run the trials in all ways; return what tests/support/recorded_runs.py prints."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.recorded_runs"],
        env={**os.environ, **PORTABLE},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def recorded() -> Any:
    content = json.loads(RECORDED.read_text())
    if content["torch"] != TORCH:
        pytest.skip(f"the scores were recorded with torch {content['torch']}")
    return content


@pytest.fixture(scope="module")
def found(recorded: Any) -> Any:
    return run()


def test_trials_alone(found: Any, recorded: Any) -> None:
    assert found["alone"] == recorded["alone"]


def test_trials_in_a_pack(found: Any, recorded: Any) -> None:
    assert found["packed"] == recorded["packed"]


def test_interrupted_trials(found: Any, recorded: Any) -> None:
    assert found["checkpoints"] == 2
    assert found["interrupted"] == recorded["alone"]


def test_replayed_trials(found: Any) -> None:
    assert [(replay["same"], replay["epochs"]) for replay in found["replays"]] == [(True, 40)] * 4


if __name__ == "__main__":
    content = run()
    kept = {"torch": TORCH, "alone": content["alone"], "packed": content["packed"]}
    RECORDED.write_text(json.dumps(kept, indent=1) + "\n")
