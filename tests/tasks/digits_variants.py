"""The digits task with other settings."""

from dataclasses import replace

from sweeper import Task
from sweeper.tasks.digits import digits


def short() -> Task:
    """Four epochs."""
    return replace(digits(), epochs=4)


def wide() -> Task:
    """A wide model with dropout, for twelve epochs."""
    return replace(digits(), epochs=12, hparams={"width": 512, "dropout": 0.2})
