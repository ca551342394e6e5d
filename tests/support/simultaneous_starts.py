"""Workers that start at the same moment: `python -m tests.support.simultaneous_starts`.

Arguments: the study file, the folder for results, how many workers, the URL of a database to warm
up with, and the URLs of empty databases, one for each round. This process imports everything once.
Each round forks its workers, which wait for one another before they open the database.
"""

import os
import sys
from pathlib import Path

from sweeper.store.database import open_writer
from sweeper.study.load import StudyFile
from sweeper.study.registration import register
from sweeper.worker.served_studies import WorkerOptions
from sweeper.worker.stopping import StopRequest
from sweeper.worker.worker import work
from tests.support.studies import read_here


def work_once(study: StudyFile, results: Path, storage: str) -> None:
    """Register the study and run one trial of it."""
    store = open_writer(storage)
    record = register(store, study)
    work(store, WorkerOptions(record.name, results, trials=1), StopRequest())
    store.close()


def start_at_once(study: StudyFile, results: Path, workers: int, storage: str) -> list[int]:
    """Run so many workers as child processes; return their exit statuses."""
    gate, children = os.pipe(), []
    for _ in range(workers):
        child = os.fork()
        if child == 0:
            os.close(gate[1])
            os.read(gate[0], 1)  # returns when the parent closes the gate
            work_once(study, results, storage)
            os._exit(0)
        children.append(child)
    os.close(gate[0])
    os.close(gate[1])
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def main() -> None:
    file, folder, count, first, *others = sys.argv[1:]
    study, results, workers = read_here(file), Path(folder), int(count)
    work_once(study, results, first)  # fills the caches, so that the children start faster
    for number, storage in enumerate(others):
        # A folder of results is one database's.
        ends = start_at_once(study, results / str(number), workers, storage)
        assert ends == [0] * workers, (storage, ends)


if __name__ == "__main__":
    main()
