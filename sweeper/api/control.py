"""What is done to a study from outside: paused, stopped, deleted, worked on."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sweeper.api.launching import show_in_dashboard
from sweeper.api.study import Study
from sweeper.confirmation.design import finished
from sweeper.errors import Conflict
from sweeper.store.database import OUTAGE_SECONDS, Store, open_reader, open_writer
from sweeper.store.studies import StudyState, delete_study, get_study, set_state
from sweeper.store.urls import DEFAULT_STORAGE, check_place
from sweeper.study.load import read_stored
from sweeper.study.trials import delete_optuna_study, open_optuna_study
from sweeper.worker.stopping import StopRequest
from sweeper.worker.worker import Terms, work

# Between the first SIGTERM and the end of a worker: less than what pre-emptible machines give.
GRACE_SECONDS: Final = 20.0


def delete(name: str, storage: str = DEFAULT_STORAGE) -> None:
    """Remove a study with all that it found; raises `SweeperError` where there is none."""
    with writer_of(storage) as writer, writer.exclusive():
        record = get_study(writer, name)
        delete_study(writer, record)
        delete_optuna_study(writer, name)


def pause(name: str, storage: str = DEFAULT_STORAGE) -> None:
    """Let nothing of a study be trained until it is resumed; its workers wait.

    Running trials go back to the queue at the end of their epoch, with their checkpoints.
    Raises `Conflict`, as stop and resume do, where the study is finished.
    """
    _set_state(name, storage, "paused")


def stop(name: str, storage: str = DEFAULT_STORAGE) -> None:
    """Let nothing of a study be trained until it is resumed or launched; its workers leave.

    Running trials go back to the queue at the end of their epoch, with their checkpoints.
    """
    _set_state(name, storage, "stopped")


def resume(name: str, storage: str = DEFAULT_STORAGE) -> None:
    """Let a study go on that was paused or stopped."""
    _set_state(name, storage, "running")


def _set_state(name: str, storage: str, state: StudyState) -> None:
    with writer_of(storage) as writer:
        record = get_study(writer, name)
        spec = read_stored(record.spec).spec
        if finished(writer, record, spec, open_optuna_study(writer, spec)):
            raise Conflict(f"study {name!r} is finished: nothing of it runs any more")
        set_state(writer, record, state)


@contextmanager
def writer_of(storage: str, wait_seconds: float = 0.0) -> Iterator[Store]:
    """Open a database that is there to write to; never make one.

    A server that does not answer is waited for, `wait_seconds` at most.
    """
    open_reader(storage, wait_seconds).close()
    writer = open_writer(storage)
    try:
        yield writer
    finally:
        writer.close()


def prepare(storage: str = DEFAULT_STORAGE) -> None:
    """Make the tables of a database, or bring them to this version; no-op where they are."""
    check_place(storage)
    open_writer(storage).close()


def run_worker(
    terms: Terms,
    storage: str = DEFAULT_STORAGE,
    *,
    parent: int | None = None,
    timeout: float | None = None,
    grace: float = GRACE_SECONDS,
) -> tuple[str, int]:
    """Work until the terms are met or a stop is asked for; return why it ended, and its status.

    The exit status is 0, or 128 and the signal's number where one asked: whoever keeps workers
    then starts another. `parent` is the launch that started this worker, which goes with it, and
    shows what was found; `timeout` is in seconds. The process has to be the worker's own, or its
    launch's: it is ended where a trial hangs.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    stop = StopRequest(deadline=deadline, parent=parent, own_process=True, grace=grace)
    stop.listen()
    # A launch takes a worker that cannot begin for one that refuses, and would end.
    wait = 0.0 if parent is None else OUTAGE_SECONDS
    with writer_of(storage, wait) as writer:

        def show(name: str) -> None:
            show_in_dashboard(writer, Study(name, storage, writer))

        # A launch shows what its workers found.
        ended = work(writer, terms, stop, show if parent is None else None)
    return ended.value, 0 if stop.signal is None else 128 + stop.signal
