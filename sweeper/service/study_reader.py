"""The studies of a database as the service reads them: one reader, and answers a moment old."""

import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from sweeper import api
from sweeper.api import Study
from sweeper.errors import SweeperError
from sweeper.report import ReportInput
from sweeper.service.cache import Recent
from sweeper.store.database import NothingLaunched, Store, open_reader
from sweeper.store.studies import get_study, page_of_studies
from sweeper.store.urls import masked, parse_url, sqlite_path
from sweeper.study.progress import Progress
from sweeper.worker.presence import WorkerState

# How old a page's numbers may be; of one core, so as not to slow trainings on this machine; and
# how old they may be for that.
NUMBERS_SECONDS: Final = 1.0
NUMBERS_SHARE: Final = 0.03
NUMBERS_LONGEST: Final = 3.0


@dataclass(frozen=True)
class Snapshot:
    """A study as it was a moment ago."""

    name: str
    state: str
    metric: str
    created: float
    progress: Progress
    workers: tuple[WorkerState, ...]

    @property
    def working(self) -> int:
        """How many processes are alive at it."""
        return len({(worker.host, worker.pid) for worker in self.workers if not worker.stale})

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return {
            "name": self.name,
            "state": self.state,
            "metric": self.metric,
            "created": self.created,
            **{k: v for k, v in self.progress.to_dict().items() if k != "paused"},
            "ended": self.progress.ended,
            "workers": self.working,
        }


def version_of(snapshot: Snapshot) -> str:
    """Return what changes when a study's figures may."""
    counts = snapshot.progress
    return f"{snapshot.created} {snapshot.state} {counts.trials} {counts.ended} {counts.confirmed}"


class Library:
    """Every study of a database, read through one reader that is opened when it is needed.

    The database may come later, go away and come back: each call that needs it raises
    `SweeperError` for as long as it is not there. `closing` is set when the service ends.
    """

    def __init__(self, storage: str) -> None:
        self._url = parse_url(storage)
        self.storage = storage
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._reader: Store | None = None
        self._file: tuple[int, int] | None = None
        self.snapshot = Recent(
            self._snapshot, seconds=NUMBERS_SECONDS, share=NUMBERS_SHARE, most=1024
        )
        # By what it was at: the same for as long as nothing has changed.
        self.report_input = Recent(self._report_input, seconds=math.inf, most=8)

    def __str__(self) -> str:
        return masked(self._url)

    def reader(self) -> Store:
        """Return the reader, opened now if need be; raises `SweeperError` where it cannot be."""
        with self._lock:
            if self._reader is None or self._file != self._file_now():
                self._close()
                self._reader, self._file = open_reader(self.storage), self._file_now()
            return self._reader

    def study(self, name: str) -> Study:
        """Return a study; raises `UnknownName` where there is none of that name."""
        reader = self.reader()
        get_study(reader, name)
        return Study(name, self.storage, reader)

    def page(self, search: str, offset: int, limit: int) -> tuple[list[Snapshot], int]:
        """Return studies by name, newest first, and how many there are of such."""
        try:
            reader = self.reader()
        except NothingLaunched:
            return [], 0
        records, total = page_of_studies(reader, search=search, offset=offset, limit=limit)
        return [self.snapshot(record.name) for record in records], total

    @contextmanager
    def writer(self) -> Iterator[Store]:
        """Open the database to write to; it has to be there."""
        with api.writer_of(self.storage) as writer:
            yield writer

    def forget(self, name: str) -> None:
        """Let what was changed here be seen at once."""
        self.snapshot.forget(name)

    def problem(self) -> str:
        """Return why the database does not serve; "" where it does, or is still to be made."""
        try:
            page_of_studies(self.reader(), limit=1)
        except NothingLaunched:
            return ""
        except SweeperError as error:
            return str(error)
        return ""

    def close(self) -> None:
        """Give the connections back."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._reader = None

    def _file_now(self) -> tuple[int, int] | None:
        """Return which file an SQLite database is: another may have taken its place."""
        path = sqlite_path(self._url)
        if path is None:
            return None
        try:
            found = os.stat(path)
        except OSError:
            return (0, 0)
        return (found.st_dev, found.st_ino)

    def _snapshot(self, name: str) -> Snapshot:
        study = self.study(name)
        record, progress = get_study(self.reader(), name), study.progress()
        return Snapshot(
            name=name,
            state=study.state_at(progress),
            metric=study.spec.objective.metric,
            created=record.created,
            progress=progress,
            workers=tuple(study.workers()),
        )

    def _report_input(self, key: tuple[str, str]) -> ReportInput:
        return self.study(key[0]).report_input()
