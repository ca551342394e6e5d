"""Failures of training runs, and how exceptions are recorded."""

import traceback
from pathlib import Path
from typing import Final

import torch

from sweeper.errors import SweeperError
from sweeper.training.conversion import safe_exception_text
from sweeper.training.device import free_memory, is_out_of_memory
from sweeper.training.messages import Cause

# Maximum length of a failure text in characters.
LONGEST: Final = 2**16 - 64


class TrainingFailed(Exception):
    """A training run failed. The text and the cause are stored with the trial.

    `problem` (exception type and line) is used to recognize equal failures, because a traceback
    may differ between them; "" to use the text.
    """

    def __init__(self, text: str, cause: Cause = "raised", problem: str = "") -> None:
        super().__init__(shorten(text))
        self.cause, self.problem = cause, problem


def training_failure(error: BaseException, device: torch.device) -> TrainingFailed:
    """Return an exception of a training run as a `TrainingFailed`, with its cause."""
    if isinstance(error, TrainingFailed):
        return error
    if isinstance(error, SweeperError):
        return TrainingFailed(str(error))
    if is_out_of_memory(error):
        text = " ".join(safe_exception_text(error).split()) or type(error).__name__
        return TrainingFailed(f"out of memory: {text}; {free_memory(device)}", "memory")
    trace = "".join(traceback.format_exception(error))
    return TrainingFailed(trace, problem=f"{type(error).__name__}{_place(error)}")


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def shorten(text: str) -> str:
    """Shorten a text to about `LONGEST` characters by omitting its middle."""
    if len(text) <= LONGEST:
        return text
    half = LONGEST // 2
    return f"{text[:half]}\n[{len(text) - 2 * half:,} characters omitted]\n{text[-half:]}"
