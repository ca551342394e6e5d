"""Control of studies and databases: pause, stop, delete, back up, run workers."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sweeper.confirmation.design import check_confirmable, finished
from sweeper.errors import Conflict, DatabaseFailed
from sweeper.store.backup import copy_database
from sweeper.store.confirmations import last_confirmation
from sweeper.store.database import OUTAGE_SECONDS, Store, is_older, open_reader, open_writer
from sweeper.store.migrate import NewerSchema
from sweeper.store.reopening import reopen_failed
from sweeper.store.studies import StudyState, delete_study, get_study, set_state, update_spec
from sweeper.store.urls import DEFAULT_STORAGE, check_sqlite_path
from sweeper.study.load import read_stored, with_confirmation_enabled
from sweeper.study.trials import delete_optuna_study
from sweeper.worker.served_studies import WorkerOptions
from sweeper.worker.stopping import StopRequest
from sweeper.worker.worker import work

# From the first SIGTERM to the end of a worker. Preemptible machines allow more than this.
GRACE_SECONDS: Final = 20.0


def delete(name: str, storage: str = DEFAULT_STORAGE) -> None:
    """Delete a study and all its results; raises `SweeperError` if it does not exist."""
    with existing_writer(storage) as writer, writer.exclusive_lock():
        record = get_study(writer, name, damaged=True)
        delete_study(writer, record)
        delete_optuna_study(writer, name)


def pause(name: str, storage: str = DEFAULT_STORAGE) -> None:
    """Pause a study until it is resumed; its workers wait.

    Running trials return to the queue with their checkpoints at the end of their epoch. Raises
    `Conflict` if the study is finished.
    """
    _set_state(name, storage, "paused")


def stop(name: str, storage: str = DEFAULT_STORAGE) -> None:
    """Stop a study until it is resumed or launched again; its workers exit.

    Running trials return to the queue with their checkpoints at the end of their epoch. Raises
    `Conflict` if the study is finished.
    """
    _set_state(name, storage, "stopped")


def resume(name: str, storage: str = DEFAULT_STORAGE) -> None:
    """Resume a paused or stopped study; raises `Conflict` if the study is finished."""
    _set_state(name, storage, "running")


def reopen(name: str, storage: str = DEFAULT_STORAGE) -> int:
    """Return the failed and lost trials of a study to the queue; return their number.

    Each keeps its number, configuration and seeds, and counts once in the budget. Existing workers
    run them; `retry` also starts workers. Raises `Conflict` if there are no such trials.
    """
    with existing_writer(storage) as writer, writer.exclusive_lock():
        record = get_study(writer, name)
        trials = read_stored(record).spec.budget.trials
        last = last_confirmation(writer, record)
        number = None if last is None else last.number
        count = reopen_failed(writer, record, below=trials, confirmation=number)
        if not count:
            raise Conflict(f"study {name!r} has no failed or lost trial to run again")
        set_state(writer, record, "running")
    return count


def request_confirmation(name: str, storage: str = DEFAULT_STORAGE) -> None:
    """Request the confirmation of a study whose search has ended.

    Existing workers run it; `confirm` also starts workers. Raises `Conflict` if the search has not
    ended, or if there is nothing to confirm.
    """
    with existing_writer(storage) as writer:
        record = get_study(writer, name)
        check_confirmable(writer, record, read_stored(record).spec)
        update_spec(
            writer, record, spec=with_confirmation_enabled(record.spec), folder=record.folder
        )


def _set_state(name: str, storage: str, state: StudyState) -> None:
    with existing_writer(storage) as writer:
        record = get_study(writer, name)
        spec = read_stored(record).spec
        if finished(writer, record, spec):
            raise Conflict(f"study {name!r} is already finished")
        if record.state == "failed":
            raise Conflict(
                f"study {name!r} has failed; remove the cause, then: sweeper retry {name}"
            )
        set_state(writer, record, state)


@contextmanager
def existing_writer(storage: str, wait_seconds: float = 0.0) -> Iterator[Store]:
    """Open an existing database for writing; never create one.

    Waits up to `wait_seconds` for a server that does not respond.
    """
    open_reader(storage, wait_seconds).close()
    writer = open_writer(storage, wait_seconds)
    try:
        yield writer
    finally:
        writer.close()


def prepare(storage: str = DEFAULT_STORAGE) -> None:
    """Create the tables of a database, or upgrade them to this version if necessary."""
    check_sqlite_path(storage)
    open_writer(storage).close()


def backup(file: str | Path, storage: str = DEFAULT_STORAGE, *, force: bool = False) -> Path:
    """Copy an SQLite database to a file; workers may be using it. Return the file.

    The copy contains the whole database. It does not contain the results folder (checkpoints,
    weights, reports) or the files of studies. With `force`, an existing file is replaced. Raises
    `SweeperError` if the file exists and `force` is false, if it cannot be written, or if the
    database is on a server.
    """
    copy_database(storage, Path(file), force=force)
    return Path(file)


def check_not_newer(storage: str = DEFAULT_STORAGE) -> None:
    """Raise `SweeperError` if a newer version of sweeper created the tables of a database.

    A missing or unreachable database is not an error here, because it may become available later.
    """
    try:
        is_older(storage)
    except NewerSchema:
        raise
    except DatabaseFailed:
        pass


def run_worker(
    options: WorkerOptions,
    storage: str = DEFAULT_STORAGE,
    *,
    parent: int | None = None,
    timeout: float | None = None,
    grace: float = GRACE_SECONDS,
) -> tuple[str, int]:
    """Run a worker; return the reason why it ended and its exit status.

    It runs until the conditions in `options` are met or it is stopped. The exit status is 0, or 128
    + the signal's number if a signal stopped it, so that a supervisor starts another worker.
    `parent` is the process id of the launch that started this worker: the worker ends with it, and
    the launch writes the results. `timeout` and `grace` are in seconds. Call this only in a process
    that may be killed, because the process ends if a trial hangs.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    stop = StopRequest(deadline=deadline, parent=parent, grace=grace)
    stop.listen()
    # A launch would treat a worker that cannot start as one that refuses the study, and end.
    wait = 0.0 if parent is None else OUTAGE_SECONDS
    with existing_writer(storage, wait) as writer:

        def write_results(name: str) -> None:
            from sweeper.api.write_results import (
                write_results,  # imported late, because it imports plotly
            )

            write_results(writer, name)

        # A launch writes the results of its workers itself.
        reason = work(writer, options, stop, write_results if parent is None else None)
    return reason.value, 0 if stop.signal is None else 128 + stop.signal
