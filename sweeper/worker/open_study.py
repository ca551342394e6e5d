"""A study opened for work in this process."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import torch

from sweeper.store.database import Store
from sweeper.store.studies import StudyRecord
from sweeper.store.tickets import laid_points
from sweeper.study.load import StudyFile, stored_study
from sweeper.study.space import Point, canonical
from sweeper.study.trials import open_optuna_study
from sweeper.training.device import environment, pick_device
from sweeper.worker.leases import Pace
from sweeper.worker.trial_files import TrialFiles, files_of


class Lowest:
    """The lowest value that this process has found in a study: to ask them all costs a reading."""

    def __init__(self) -> None:
        self._value = math.inf

    def improved_by(self, value: float) -> bool:
        """Take note of a value; return whether there was none as low."""
        improved = value < self._value
        self._value = min(value, self._value)
        return improved


@dataclass(frozen=True)
class OpenStudy:
    """A study opened for work in this process."""

    store: Store
    record: StudyRecord
    file: StudyFile
    optuna: optuna.Study
    device: torch.device
    environment: Mapping[str, str]
    # Tickets whose point was laid into an earlier one too.
    repeated: frozenset[int]
    files: TrialFiles
    pace: Pace = field(default_factory=Pace)
    lowest: Lowest = field(default_factory=Lowest)


def open_for_work(
    store: Store, record: StudyRecord, results: Path, folder: Path | None = None
) -> OpenStudy:
    """Load the study's code as it was launched, and choose the device.

    `folder` is where its files lie here, if not where the launch read them. Raises
    `SweeperError` where the code or the packages are others than those it was launched with.
    """
    file = stored_study(record.spec, folder or Path(record.folder))
    device = pick_device(file.spec.task.device)
    return OpenStudy(
        store,
        record,
        file,
        open_optuna_study(store, file.spec),
        device,
        environment(device, file.folder),
        _repeated(laid_points(store, record)),
        files_of(record, results),
    )


def _repeated(points: Mapping[int, Point]) -> frozenset[int]:
    """Return the tickets whose configuration an earlier one has already."""
    first: dict[Any, int] = {}
    return frozenset(n for n, point in points.items() if first.setdefault(canonical(point), n) != n)
