"""Kill a worker before its n-th commit, for every n.

`python -m tests.support.kill_before_commit FILE RESULTS TRACE URL`.

Arguments: the study file, the folder for results, the path that traces begin with, and the URL of
the database. This process imports everything once and forks two children for each n: one that is
killed, and one that finishes the study. It prints the exit status of each that was to be killed.
"""

import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from sweeper.store.database import Store, open_writer
from sweeper.study.load import StudyFile, read_study
from sweeper.study.registration import register
from sweeper.study.spec import StudySection
from sweeper.worker import trial_files
from sweeper.worker.presence import free_dead
from sweeper.worker.stopping import StopRequest
from sweeper.worker.worker import Terms, work

KILLED: Final = 9


class Fault:
    """Ends the process at a call: before the n-th commit of its main thread."""

    def __init__(self, fatal: int) -> None:
        self.left = fatal

    def __call__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            if self.left == 0:
                os._exit(KILLED)
            self.left -= 1


def before_each_commit(store: Store, fault: Fault) -> None:
    """Call `fault` before each commit of this process."""
    dialect, run = store.engine.dialect, Store._run_on_own
    commit = dialect.do_commit

    def commits(connection: Any) -> None:
        fault()
        commit(connection)

    def runs(store: Store, *args: Any) -> Any:
        fault()
        return run(store, *args)

    dialect.do_commit = commits  # type: ignore[method-assign, assignment]
    Store._run_on_own = runs  # type: ignore[method-assign, assignment]


def in_a_child(storage: str, results: Path, study: StudyFile, fatal: int | None) -> int:
    """Work on the study in a child process; return its exit status."""
    child = os.fork()
    if child == 0:
        store = open_writer(storage)
        if fatal is None:
            free_dead(store, register(store, study))  # as a launch does
        else:
            before_each_commit(store, Fault(fatal))
        work(store, Terms(study.name, results), StopRequest())
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def renamed(study: StudyFile, name: str, trace: str) -> StudyFile:
    """Return the study under another name and with another trace."""
    task = study.spec.task.model_copy(update={"options": {"trace": trace}})
    section = StudySection(name=name)
    return replace(study, spec=study.spec.model_copy(update={"study": section, "task": task}))


def killed_at_each_commit(file: str, results: Path, trace: str, storage: str) -> Iterator[int]:
    """Yield exit statuses until a worker was not killed, because it had no commit left."""
    for fatal in range(500):
        study = renamed(read_study(file), f"killed-{fatal}", f"{trace}-{fatal}")
        store = open_writer(storage)
        register(store, study)
        store.close()
        status = in_a_child(storage, results, study, fatal)
        yield status
        assert in_a_child(storage, results, study, None) == 0
        if status != KILLED:
            return


def main() -> None:
    trial_files.SECONDS, trial_files.TIMES = 0.0, 0  # type: ignore[misc]  # checkpoint each epoch
    file, results, trace, storage = sys.argv[1:]
    for status in killed_at_each_commit(file, Path(results), trace, storage):
        print(status, flush=True)


if __name__ == "__main__":
    main()
