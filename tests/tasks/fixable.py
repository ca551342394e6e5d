"""A loop that fails where a file is missing, and one whose modules are imported late."""

from collections.abc import Iterator
from pathlib import Path

import torch

from sweeper import Evaluation, TrainingRun

EPOCHS = 2


def needs_a_file(run: TrainingRun) -> Iterator[Evaluation]:
    """Fail where the option `file` names no file; only above `above` if that is given."""
    needed = Path(run.options["file"])
    if run.smoothing.epsilon >= run.options.get("above", 0.0) and not needed.exists():
        raise FileNotFoundError(f"no data in {needed}")
    yield from evaluations(run, 1.0)


def imports_late(run: TrainingRun) -> Iterator[Evaluation]:
    """Import two modules of the study's folder when it trains."""
    # A test writes them beside this file.
    from late import QUALITY  # type: ignore[import-not-found]
    from parts.late_part import SHARE  # type: ignore[import-not-found]

    yield from evaluations(run, QUALITY * SHARE)


def evaluations(run: TrainingRun, quality: float) -> Iterator[Evaluation]:
    """Yield evaluations of a surface without noise, with a test split."""
    labels = torch.arange(24) % 3
    one_hot = torch.nn.functional.one_hot(labels, 3)
    generator = torch.Generator().manual_seed(run.seed)
    noise = torch.randn(24, 3, generator=generator)
    logits = (quality - run.smoothing.epsilon) * one_hot + noise
    for epoch in range(1, EPOCHS + 1):
        yield Evaluation(
            logits, labels, epoch / EPOCHS, splits={"test": lambda: (logits + 0.1, labels)}
        )
