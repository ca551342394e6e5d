"""The studies that a worker serves, with their loaded code."""

import gc
import logging
import time
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Final

from sweeper.confirmation.design import finished
from sweeper.errors import DatabaseFailed
from sweeper.store.damage import error_after_failure
from sweeper.store.database import Store
from sweeper.store.studies import StudyRecord, get_study, studies_with_work
from sweeper.study.spec import StudySpec
from sweeper.trainers.channel import Interrupted
from sweeper.worker.code import LoadedCode, load_code
from sweeper.worker.gpus import check_slots, default_slots, slots_that_fit, visible_gpus
from sweeper.worker.open_study import OpenStudy, open_for_work
from sweeper.worker.stopping import StopRequest
from sweeper.worker.worker_states import revoke_dead_leases

# Seconds between reads of the list of studies while the worker is busy.
REFRESH_SECONDS: Final = 5.0
# Seconds before a study that could not be served is tried again, in case files were added.
REFUSED_SECONDS: Final = 60.0

_log = logging.getLogger(__name__)


class EndReason(Enum):
    """Why a worker stopped."""

    FINISHED = "the study is finished"
    STOPPED = "it was asked to stop"
    STUDY_STOPPED = "the study was stopped"
    STUDY_FAILED = "its trials fail in the same way"
    IDLE = "there was nothing to do"
    TRIAL_LIMIT = "it has run the requested number of trials"


@dataclass(frozen=True)
class WorkerOptions:
    """Options of a worker.

    `name` is the study to work on, None for all running studies. `results` is the folder of
    checkpoints, which workers may share. `folder` contains the task files on this machine, None for
    the folder of the launch. The worker stops after `idle` seconds without work and after `trials`
    trials; None means no limit. `workers` is the expected number of workers, among which tickets
    are shared when packs are filled. `slots` is the number of trainers that run at a time: 0 trains
    in this process, None chooses by the number of GPUs or cores. `pickled` is the path of the
    function of a study that was launched from a notebook or a script.
    """

    name: str | None = None
    results: Path = Path("results")
    folder: Path | None = None
    idle: float | None = None
    trials: int | None = None
    workers: int = 1
    slots: int | None = 0
    pickled: str = ""


# (id, code revision, study file, folder): a study is opened again when one of these changes.
_Key = tuple[int, int, str, str]
# (id, code revision, folder): the code of a study is loaded again when one of these changes.
_CodeKey = tuple[int, int, str]


class ServedStudies:
    """The studies that a worker serves. A study is opened again when it has changed."""

    def __init__(
        self, store: Store, options: WorkerOptions, arrays: Path, stop: StopRequest
    ) -> None:
        self._store, self._arrays, self._stop = store, arrays, stop
        # A training run in this process may change the current folder.
        folder = None if options.folder is None else options.folder.absolute()
        self._options = replace(options, results=options.results.absolute(), folder=folder)
        # None for a study that cannot be served on this machine.
        self._opened: dict[_Key, OpenStudy | None] = {}
        self._retry_at: dict[int, float] = {}
        self._warnings: dict[int, str] = {}
        self._codes: dict[_CodeKey, LoadedCode] = {}
        self._refreshed_at = time.monotonic()
        self._records: list[StudyRecord] = []
        self.gpus = visible_gpus()
        self.refresh()
        self.slots = self._slots()

    def refresh(self) -> None:
        """Read the list of studies; open new and changed ones."""
        self._refreshed_at = time.monotonic()
        name = self._options.name
        self._records = (
            studies_with_work(self._store) if name is None else [get_study(self._store, name)]
        )
        before, now = self._opened, time.monotonic()
        self._opened = {}
        for record in self._records:
            key = record.id, record.code, record.spec, record.folder
            if key in before and (before[key] is not None or now < self._retry_at[record.id]):
                self._opened[key] = before[key]
            else:
                self._opened[key] = None
                self._opened[key] = self._open(record)

    def _slots(self) -> int:
        """Return the number of trainers that run at a time, 0 for training in this process."""
        if self._options.slots is not None:
            return self._options.slots
        specs = [study.spec for study in self._opened.values() if study is not None]
        return default_slots(specs, self.gpus)

    def to_serve(self) -> list[OpenStudy]:
        """Return the studies that this worker can work on, oldest first."""
        if time.monotonic() - self._refreshed_at > REFRESH_SECONDS:
            self.refresh()
        for study in list(self._opened.values()):
            if study is not None:
                with self.guard(study.record):
                    study.check_code()
        return [study for study in self._opened.values() if study is not None]

    def code(self, study: OpenStudy) -> LoadedCode | None:
        """Return the loaded code of a study.

        Returns None if the code cannot be loaded, or if the worker is asked to stop meanwhile.
        """
        key = _code_key(study)
        code = self._codes.get(key)
        if code is not None and not code.alive:
            code.close()
            del self._codes[key]
        if key not in self._codes:
            with self.guard(study.record):
                try:
                    self._codes[key] = self._load(study)
                except Interrupted:
                    return None
        return self._codes.get(key)

    def _load(self, study: OpenStudy) -> LoadedCode:
        code = load_code(
            study.stored,
            study.folder,
            in_process=self.slots == 0,
            pickled=self._options.pickled,
            interrupted=lambda: self._stop,
        )
        if not study.sources.record_imports(code.facts.sources):
            code.close()
        study.check_code()
        return code

    def end_reason(self) -> EndReason | None:
        """Return why the only study of this worker has ended, or None."""
        if self._options.name is None:
            return None
        (study,), (record,) = self.to_serve(), self._records
        if record.state == "stopped":
            return EndReason.STUDY_STOPPED
        if record.state == "failed":
            return EndReason.STUDY_FAILED
        over = finished(self._store, study.record, study.spec)
        return EndReason.FINISHED if over else None

    def revoke_dead_leases(self) -> int:
        """Revoke the leases of dead workers on this host; return the number of leases."""
        revoked = 0
        for record in self._records:
            with self.guard(record):
                revoked += revoke_dead_leases(self._store, record)
        return revoked

    def close(self) -> None:
        """Stop the server processes of all studies."""
        self._opened.clear()
        self.close_others()

    def close_others(self) -> None:
        """Stop the server processes of studies that are no longer served."""
        served = {_code_key(study) for study in self._opened.values() if study is not None}
        for key in [key for key in self._codes if key not in served]:
            self._codes.pop(key).close()

    def _open(self, record: StudyRecord) -> OpenStudy | None:
        options, study = self._options, None
        with self.guard(record):
            opened = open_for_work(
                self._store, record, options.results, self._arrays, options.folder
            )
            self._check_gpus(opened.spec)
            study = opened
        # Garbage collection of everything imported so far would cost 3% of a short trial.
        gc.freeze()
        return study

    def _check_gpus(self, spec: StudySpec) -> None:
        """Raise `SweeperError` if this machine does not have the GPUs that a study needs."""
        slots = self._options.slots
        if slots is None or (slots and self._options.name is None):
            slots_that_fit(spec, self.gpus)  # the slots of several studies share the GPUs
        else:
            check_slots(spec, self.gpus, slots)

    def guard(self, record: StudyRecord) -> "_Guard":
        """Return a context manager that stops serving the study if its block raises an exception.

        The exception is suppressed. But `DatabaseFailed` is raised if the database fails, and
        `SweeperError` if this is the only study of the worker.
        """
        return _Guard(self, record)

    def refuse(self, record: StudyRecord, failure: Exception) -> None:
        """Stop serving a study because of `failure`; raises as described in `guard`."""
        error = error_after_failure(self._store, record.name, failure)
        if self._options.name is not None or isinstance(error, DatabaseFailed):
            if error is failure:
                raise error
            raise error from failure
        for key in self._opened:
            if key[0] == record.id:
                self._opened[key] = None
        self._retry_at[record.id] = time.monotonic() + REFUSED_SECONDS
        text = str(error)
        if self._warnings.get(record.id) != text:
            self._warnings[record.id] = text
            prefix = "" if repr(record.name) in text else f"study {record.name!r}: "
            _log.warning("not served by this worker: %s%s", prefix, text)
            _log.debug("exception", exc_info=failure)


class _Guard:
    def __init__(self, studies: ServedStudies, record: StudyRecord) -> None:
        self._studies, self._record = studies, record

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if not isinstance(error, Exception):
            return False
        self._studies.refuse(self._record, error)
        return True


def _code_key(study: OpenStudy) -> _CodeKey:
    # Unlike _Key, without the study file: a changed budget does not require reloading the code.
    return study.record.id, study.record.code, str(study.folder)
