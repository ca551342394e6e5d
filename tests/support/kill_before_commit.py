"""Kill a worker before its n-th commit, for every n.

`python -m tests.support.kill_before_commit FILE RESULTS TRACE URL`.

Arguments: the study file, the folder for results, the path that traces begin with, and the URL of
the database. This process imports everything once. For each n it forks a child that works on a
study of its own and is killed, and prints the child's exit status; the first child that is not
killed had no commit left. One more child then finishes all studies.
"""

import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from sweeper.store.database import Store, open_writer
from sweeper.study.load import StudyFile
from sweeper.study.registration import register
from sweeper.study.spec import StudySection
from sweeper.training import checkpoints
from sweeper.worker.served_studies import WorkerOptions
from sweeper.worker.stopping import StopRequest
from sweeper.worker.worker import work
from sweeper.worker.worker_states import revoke_dead_leases
from tests.support.studies import read_here

KILLED: Final = 9


class Fault:
    """Ends the process before a commit of its main thread."""

    def __init__(self, commits: int) -> None:
        self.commits_left = commits

    def __call__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            if self.commits_left == 0:
                os._exit(KILLED)
            self.commits_left -= 1


def before_each_commit(store: Store, fault: Fault) -> None:
    """Call `fault` before each commit of this process."""
    dialect, run = store.engine.dialect, Store._run_on_driver
    commit = dialect.do_commit

    def commits(connection: Any) -> None:
        fault()
        commit(connection)

    def runs(store: Store, *args: Any) -> Any:
        fault()
        return run(store, *args)

    dialect.do_commit = commits  # type: ignore[method-assign, assignment]
    Store._run_on_driver = runs  # type: ignore[method-assign, assignment]


def in_a_child(work_on: Callable[[], None]) -> int:
    """Call a function in a child process; return its exit status."""
    child = os.fork()
    if child == 0:
        work_on()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed(storage: str, results: Path, study: StudyFile, commits: int) -> None:
    """Work on the study; end the process after so many commits."""
    store = open_writer(storage)
    register(store, study)
    before_each_commit(store, Fault(commits))
    work(store, WorkerOptions(study.name, results), StopRequest())
    store.close()


def finished(storage: str, results: Path, studies: Sequence[StudyFile]) -> None:
    """Finish the studies, as launches of them would."""
    store = open_writer(storage)
    for study in studies:
        revoke_dead_leases(store, register(store, study))
        work(store, WorkerOptions(study.name, results), StopRequest())


def renamed(study: StudyFile, number: object, trace: str) -> StudyFile:
    """Return the study under a name and with a trace of its own."""
    options = {**study.spec.task.options, "trace": f"{trace}-{number}"}
    task = study.spec.task.model_copy(update={"options": options})
    section = StudySection(name=f"killed-{number}")
    return replace(study, spec=study.spec.model_copy(update={"study": section, "task": task}))


def main() -> None:
    checkpoints.SECONDS, checkpoints.TIMES = 0.0, 0  # checkpoint each epoch
    file, results, trace, storage = sys.argv[1:]
    # Imports and caches are filled once, for all children.
    undisturbed = renamed(read_here(file), "never", trace)
    killed(storage, Path(results), undisturbed, commits=sys.maxsize)
    studies, status = list[StudyFile](), KILLED
    while status == KILLED:  # a worker that ends by itself had no commit left
        commits = len(studies)
        studies.append(renamed(read_here(file), commits, trace))
        status = in_a_child(partial(killed, storage, Path(results), studies[-1], commits))
        print(status, flush=True)
    assert in_a_child(partial(finished, storage, Path(results), studies)) == 0


if __name__ == "__main__":
    main()
