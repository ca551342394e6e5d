"""Cached access to the studies of a database for the service."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from sweeper import api
from sweeper.api import Study
from sweeper.confirmation.candidate import Candidate
from sweeper.errors import StudyDamaged, SweeperError, UnknownName
from sweeper.report import ReportInput
from sweeper.report.read_input import read_report_input
from sweeper.service.cache import TtlCache
from sweeper.snapshot import StudySnapshot, read_recommended, read_snapshot
from sweeper.store.confirmations import last_confirmation
from sweeper.store.damage import check_intact, damage_as_error
from sweeper.store.database import SchemaMissing, Store, open_reader
from sweeper.store.studies import find_study, get_study, page_of_studies
from sweeper.store.trials import read_warnings
from sweeper.store.urls import masked_url, parse_url
from sweeper.study.progress import Progress
from sweeper.study.space import EffectiveSmoothing, effective_smoothing
from sweeper.study.spec import digest
from sweeper.worker.worker_states import WorkerState

# Seconds after which the numbers of a study are read again. Slow reads are cached longer, so that
# reading takes at most this share of one core, which training runs on this machine need.
NUMBERS_SECONDS: Final = 1.0
NUMBERS_SHARE: Final = 0.03
NUMBERS_LONGEST: Final = 3.0
# Seconds between two checks of a study for damage.
CHECKED_SECONDS: Final = 30.0


@dataclass(frozen=True)
class StudyStatus:
    """The status of a study, possibly a few seconds old.

    `recommended` is the configuration to use and `recommended_trial` the number of its trial in the
    search; None without a verdict, or if the search did not try the configuration.
    """

    name: str
    state: str
    metric: str
    created: float
    progress: Progress
    workers: tuple[WorkerState, ...]
    revision: str  # changes with the study's spec and with each confirmation
    problem: str = ""  # why a damaged study cannot be read
    recommended: EffectiveSmoothing | None = None
    recommended_trial: int | None = None
    warnings: tuple[str, ...] = ()  # about the first report of the first trial

    @property
    def working(self) -> int:
        """The number of workers that are alive."""
        return len({(worker.host, worker.pid) for worker in self.workers if not worker.stale})

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "state": self.state,
            "metric": self.metric,
            "created": self.created,
            **{k: v for k, v in self.progress.to_dict().items() if k != "paused"},
            "ended": self.progress.ended,
            "workers": self.working,
            "problem": self.problem,
            "recommended": None if self.recommended is None else self.recommended._asdict(),
        }


def version_of(status: StudyStatus) -> str:
    """Return a version that changes whenever the figures of the study may change."""
    counts = status.progress
    return (
        f"{status.created} {status.state} {status.revision} "
        f"{counts.trials} {counts.ended} {counts.confirmed}"
    )


class StudyReader:
    """The studies of a database, read through one read-only store that is opened on first use.

    The database may be unavailable at any time; calls that need it then raise `SweeperError`.
    `closing` is set when the service stops.
    """

    def __init__(self, storage: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = parse_url(storage)
        self.storage = storage
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._reader: Store | None = None
        self.status = TtlCache(
            self._status,
            seconds=NUMBERS_SECONDS,
            share=NUMBERS_SHARE,
            longest=NUMBERS_LONGEST,
            most=1024,
            clock=clock,
        )
        self._checked = TtlCache(
            self._check, seconds=CHECKED_SECONDS, share=NUMBERS_SHARE, longest=math.inf, most=1024
        )
        # The key contains the version of the study, so the values never expire.
        self._recommended = TtlCache(self._recommendation, seconds=math.inf, most=1024)
        self._snapshots = TtlCache(self._snapshot, seconds=math.inf, most=8)
        self._report_inputs = TtlCache(self._report_input, seconds=math.inf, most=8)

    def __str__(self) -> str:
        return masked_url(self._url)

    def reader(self) -> Store:
        """Return the read-only store, opened if necessary; raises `SweeperError` if that fails."""
        with self._lock:
            file = None if self._reader is None else self._reader.file
            if self._reader is None or (file is not None and file.replaced_or_removed):
                self._close()
                self._reader = open_reader(self.storage)
            return self._reader

    def study(self, name: str) -> Study:
        """Return a study, even a damaged one; raises `UnknownName` if it does not exist."""
        reader = self.reader()
        get_study(reader, name, damaged=True)
        return Study(name, self.storage, reader)

    def snapshot(self, status: StudyStatus) -> StudySnapshot:
        """Return the snapshot of a study, cached until the study changes."""
        return self._snapshots((status.name, version_of(status)))

    def report_input(self, status: StudyStatus) -> ReportInput:
        """Return the input of pages and reports, cached until the study changes."""
        return self._report_inputs((status.name, version_of(status)))

    def damage_errors(self, name: str) -> AbstractContextManager[None]:
        """Return a context that raises `StudyDamaged` if an exception is caused by damaged rows."""
        return damage_as_error(self.reader(), name)

    def page(self, search: str, offset: int, limit: int) -> tuple[list[StudyStatus], int]:
        """Return a page of studies whose names contain `search`, newest first, and their count."""
        try:
            reader = self.reader()
        except SchemaMissing:
            return [], 0
        records, total = page_of_studies(reader, search=search, offset=offset, limit=limit)
        studies = []
        for record in records:
            with suppress(UnknownName):  # deleted in the meantime
                studies.append(self.status(record.name))
        return studies, total

    @contextmanager
    def writer(self) -> Iterator[Store]:
        """Open the database, which must exist, for writing."""
        with api.existing_writer(self.storage) as writer:
            yield writer

    def forget(self, name: str) -> None:
        """Remove the cached status of a study after a change by this service."""
        self.status.forget(name)

    def problem(self) -> str:
        """Return why the database is unavailable; "" if it is available or does not exist yet."""
        try:
            find_study(self.reader(), "")
        except SchemaMissing:
            return ""
        except SweeperError as error:
            return str(error)
        return ""

    def close(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._reader = None

    def _status(self, name: str) -> StudyStatus:
        try:
            return self._intact_status(name)
        except StudyDamaged as error:
            created = get_study(self.reader(), name, damaged=True).created
            none = Progress(0, 0, 0, 0, 0, 0, None, None, 0)
            return StudyStatus(name, "damaged", "nll", created, none, (), "", str(error))

    def _check(self, name: str) -> bool:
        check_intact(self.reader(), get_study(self.reader(), name))
        return True

    def _intact_status(self, name: str) -> StudyStatus:
        self._checked(name)
        study = self.study(name)
        record, progress = get_study(self.reader(), name), study.progress()
        confirmation = last_confirmation(self.reader(), record)
        number = 0 if confirmation is None else confirmation.number
        status = StudyStatus(
            name=name,
            state=study.state_at(progress),
            metric=study.spec.objective.metric,
            created=record.created,
            progress=progress,
            workers=tuple(study.workers()),
            revision=f"{digest(record.spec.encode())[:16]}.{number}",
            warnings=tuple(read_warnings(self.reader(), name, 0)),
        )
        if not progress.confirming or progress.confirmed < progress.confirming:
            return status
        candidate = self._recommended((name, version_of(status)))
        if candidate is None:
            return status
        return replace(
            status,
            recommended=effective_smoothing(candidate.point),
            recommended_trial=candidate.trial,
        )

    def _recommendation(self, key: tuple[str, str]) -> Candidate | None:
        return read_recommended(self.reader(), key[0])

    def _snapshot(self, key: tuple[str, str]) -> StudySnapshot:
        return read_snapshot(self.reader(), key[0])

    def _report_input(self, key: tuple[str, str]) -> ReportInput:
        return read_report_input(self.reader(), self._snapshots(key))
