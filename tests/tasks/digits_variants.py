"""The digits task with other settings."""

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from sweeper import Task
from sweeper.tasks.digits import digits


def short() -> Task:
    """Four epochs."""
    return replace(digits(), epochs=4)


def paced() -> Task:
    """Twelve epochs with dropout; each step waits for as long as DIGITS_STEP says, in seconds."""
    return replace(digits(), epochs=12, hparams={"width": 64, "dropout": 0.2}, augment=_wait)


def _wait(inputs: Tensor, hparams: Mapping[str, Any]) -> Tensor:
    time.sleep(float(os.environ.get("DIGITS_STEP", "0")))
    return inputs
