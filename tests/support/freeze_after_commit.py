"""Freeze a worker after its n-th commit, for every n or some, until its lease has passed on.

`python -m tests.support.freeze_after_commit FILE RESULTS TRACE URL STEP`.

The other arguments are those of `kill_before_commit`. For each n, STEP apart, a child works on a
study of its own and stops itself; its lease is ended, another child works on the study to its end,
and the first one is thawed. The name of the study and the exit status of both are printed; the
first child that was not stopped had no commit left.
"""

import os
import signal
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import update

from sweeper.store.database import Store, open_writer
from sweeper.store.schema import now, tickets
from sweeper.study.load import StudyFile
from sweeper.study.registration import register
from sweeper.training import checkpoints
from sweeper.worker.served_studies import WorkerOptions
from sweeper.worker.stopping import StopRequest
from sweeper.worker.worker import work
from tests.support.kill_before_commit import in_a_child, killed, renamed
from tests.support.studies import read_here


def frozen(storage: str, results: Path, study: StudyFile, commits: int) -> None:
    """Work on the study; stop this process after so many commits of its main thread."""
    store = open_writer(storage)
    register(store, study)
    dialect, run, left = store.engine.dialect, Store._run_on_driver, commits
    commit = dialect.do_commit

    def count() -> None:
        nonlocal left
        if threading.current_thread() is threading.main_thread():
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGSTOP)

    def commits_and_counts(connection: Any) -> None:
        commit(connection)
        count()

    def runs_and_counts(store: Store, *args: Any) -> Any:
        found = run(store, *args)
        count()
        return found

    dialect.do_commit = commits_and_counts  # type: ignore[method-assign, assignment]
    Store._run_on_driver = runs_and_counts  # type: ignore[method-assign, assignment]
    work(store, WorkerOptions(study.name, results), StopRequest())
    store.close()


def taken_over(storage: str, results: Path, study: StudyFile) -> None:
    """End the leases of the study, and work on it to its end."""
    store = open_writer(storage)
    held = update(tickets).where(tickets.c.worker.is_not(None), tickets.c.state == "open")
    store.transact(lambda connection: connection.execute(held.values(lease_until=now() - 1)))
    work(store, WorkerOptions(study.name, results), StopRequest())
    store.close()


def main() -> None:
    checkpoints.SECONDS, checkpoints.TIMES = 0.0, 0  # checkpoint each epoch
    file, results, trace, storage, step = sys.argv[1:]
    killed(storage, Path(results), renamed(read_here(file), "never", trace), commits=sys.maxsize)
    commits, stopped = max(1, int(step) - 1) - int(step), True
    while stopped:
        commits += int(step)
        study = renamed(read_here(file), commits, trace)
        child = os.fork()
        if child == 0:
            frozen(storage, Path(results), study, commits)
            os._exit(0)
        status = os.waitpid(child, os.WUNTRACED)[1]
        stopped = os.WIFSTOPPED(status)
        other = 0
        if stopped:
            other = in_a_child(partial(taken_over, storage, Path(results), study))
            os.kill(child, signal.SIGCONT)
            status = os.waitpid(child, 0)[1]
        print(study.name, os.waitstatus_to_exitcode(status), other, flush=True)


if __name__ == "__main__":
    main()
