"""Study files of one loop, and workers that run them in this process."""

from pathlib import Path

import sweeper
from sweeper.api import Study
from sweeper.store.database import Store, open_writer
from sweeper.store.studies import StudyRecord
from sweeper.study.registration import register
from sweeper.worker.served_studies import EndReason, WorkerOptions
from sweeper.worker.stopping import StopRequest
from sweeper.worker.worker import work as work_on
from tests.support.studies import read_here

QUICK = """
[study]
name = "quick"
[task]
use = "{use}"
{options}
[budget]
trials = {trials}
{rest}
"""


def text(function: str = "train", options: str = "", trials: int = 12, rest: str = "") -> str:
    """Return a study file; `function` is one of tests/tasks/quick.py, or `FILE:FUNCTION`."""
    use = function if ":" in function else f"quick.py:{function}"
    return QUICK.format(use=use, options=options, trials=trials, rest=rest)


def run(study: Path, storage: str) -> Study:
    return sweeper.launch(study, workers=0, storage=storage, results=study.parent / "results")


def registered(study: Path, storage: str) -> tuple[Store, StudyRecord]:
    store = open_writer(storage)
    return store, register(store, read_here(study))


def work(store: Store, record: StudyRecord, stop: StopRequest) -> EndReason:
    return work_on(store, WorkerOptions(record.name, Path(record.folder) / "results"), stop)


class StopAfter(StopRequest):
    """Asks for a stop at the n-th look: in the middle of a trial, exactly."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def __bool__(self) -> bool:
        self.looks -= 1
        return self.looks < 0
