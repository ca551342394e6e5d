"""Open a study for work in this process."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.trial import FrozenTrial

from sweeper.errors import SweeperError
from sweeper.store.code import note_sources, read_revisions
from sweeper.store.damage import check_intact
from sweeper.store.database import Store
from sweeper.store.records import read_environment_value
from sweeper.store.studies import StudyRecord, read_earlier_trials
from sweeper.store.tickets import planned_points
from sweeper.study.dimensions import Space
from sweeper.study.load import StoredStudy, check_packages, read_stored
from sweeper.study.sampler import as_frozen
from sweeper.study.sources import changed_code, check_sources
from sweeper.study.space import Point, canonical
from sweeper.study.spec import StudySpec
from sweeper.study.trials import open_optuna_study
from sweeper.training.messages import EVIDENCE, LABELS
from sweeper.worker.epoch_durations import EpochDurations
from sweeper.worker.trial_files import TrialFiles, claim_folder, files_of

DIFFERENT_LABELS: Final = (
    "the validation labels differ from those of earlier trials of the study; evaluate the same "
    "examples in every trial (with confirm.resplit: in every trial with the same data seed)"
)
DIFFERENT_ORDER: Final = (
    "the validation labels, or their order, differ from those of earlier trials of the study; "
    "evaluate the same examples in the same order in every trial (with confirm.resplit: in every "
    "trial with the same data seed)"
)
DIFFERENT_EVIDENCE: Final = (
    "this trial delivered %s results, but earlier trials of the study delivered %s results; "
    "deliver the same kind in every trial"
)


class BestSoFar:
    """The lowest value that this process has stored in a study, kept to avoid database reads."""

    def __init__(self) -> None:
        self._value = math.inf

    def improved_by(self, value: float) -> bool:
        """Return whether a value is lower than all values so far."""
        return value < self._value

    def update(self, value: float) -> None:
        """Record the value of a complete trial."""
        self._value = min(value, self._value)


@dataclass(eq=False)
class Sources:
    """The known source files of a study, with their SHA-256 digests.

    `problem` is set when a file was imported that has changed since the launch.
    """

    store: Store
    record: StudyRecord
    folder: Path
    known: Mapping[str, str]
    problem: SweeperError | None = None

    def record_imports(self, digests: Mapping[str, str]) -> bool:
        """Record imported files and their digests; return False if a file has changed."""
        if any(self.known.get(file) != digest for file, digest in digests.items()):
            self.known = self.store.retry(lambda: note_sources(self.store, self.record, digests))
        for file, digest in digests.items():
            if self.known[file] != digest:
                self.problem = changed_code(self.record.name, self.folder, file)
        return self.problem is None


@dataclass(frozen=True, eq=False)
class OpenStudy:
    """A study opened for work in this process; its code is not imported yet.

    `folder` contains the files of the study. `arrays` is a folder in which training runs store
    arrays for the worker. `earlier` are the trials of an earlier study that inform the sampler.
    """

    store: Store
    record: StudyRecord
    stored: StoredStudy
    folder: Path
    sources: Sources
    optuna: optuna.Study
    # Tickets whose planned configuration is that of an earlier ticket, too.
    repeated: frozenset[int]
    files: TrialFiles
    arrays: Path
    durations: EpochDurations = field(default_factory=EpochDurations)
    best_so_far: BestSoFar = field(default_factory=BestSoFar)
    # Parts of the environment of stored successful trials; see `compared`.
    agreed: dict[str, str] = field(default_factory=dict)
    earlier: tuple[FrozenTrial, ...] = ()

    @property
    def spec(self) -> StudySpec:
        """The settings of the study file."""
        return self.stored.spec

    def difference(self, environment: Mapping[str, str]) -> str:
        """Return why a trial is not comparable with earlier trials, "" if it is.

        `environment` is that of its first report.
        """
        for key, value in self.compared(environment).items():
            if key not in self.agreed:
                stored = read_environment_value(self.store, self.record, key)
                if stored is not None:
                    self.agreed[key] = stored
            if self.agreed.get(key, value) != value:
                return self.difference_in(key, value)
        return ""

    def difference_in(self, key: str, value: str) -> str:
        """Return the failure of a trial whose value of `key` differs from that of other trials."""
        if key == EVIDENCE:
            return DIFFERENT_EVIDENCE % (value, self.agreed[key])
        return DIFFERENT_ORDER if self.spec.task.is_script else DIFFERENT_LABELS

    def compared(self, environment: Mapping[str, str]) -> Mapping[str, str]:
        """Return what must be equal in all trials: the validation labels, and a script's grade.

        Trials with different data seeds may have different labels. A built-in task has the same
        labels by construction.
        """
        labels = LABELS.partition("{")[0]
        return {k: v for k, v in environment.items() if k == EVIDENCE or k.startswith(labels)}

    def check_code(self) -> "OpenStudy":
        """Return the study; raises `SweeperError` if its code has changed."""
        if self.sources.problem is not None:
            raise self.sources.problem
        return self


def open_for_work(
    store: Store, record: StudyRecord, results: Path, arrays: Path, folder: Path | None = None
) -> OpenStudy:
    """Open a study to work on it.

    `folder` contains its files on this machine, None for the folder of the launch. Raises
    `SweeperError` if files or package versions differ from those at launch.
    """
    stored = read_stored(record)
    check_intact(store, record)
    folder = folder or Path(record.folder)
    check_packages(record.name, stored.packages)
    known = read_revisions(store, record)[-1].sources
    check_sources(record.name, known, folder)
    claim_folder(record, store.location, results)
    return OpenStudy(
        store,
        record,
        stored,
        folder,
        Sources(store, record, folder, known),
        open_optuna_study(store, stored.spec),
        _repeated_tickets(planned_points(store, record), stored.spec.space),
        files_of(record, results),
        arrays,
        earlier=_earlier_trials(store, record, stored.spec),
    )


def _earlier_trials(store: Store, record: StudyRecord, spec: StudySpec) -> tuple[FrozenTrial, ...]:
    if spec.study.extends is None:
        return ()
    return as_frozen(read_earlier_trials(store, record), spec.space)


def _repeated_tickets(points: Mapping[int, Point], space: Space) -> frozenset[int]:
    """Return the tickets whose configuration is that of an earlier ticket."""
    first: dict[Any, int] = {}
    return frozenset(
        number
        for number, point in points.items()
        if first.setdefault(canonical(point, space), number) != number
    )
