"""A study on a surface in closed form: its launch on an empty database, and a check of its end."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import optuna
import pandas as pd

from benchmarks.shared.databases import Backend, empty_database
from benchmarks.shared.finished_trials import fill
from benchmarks.shared.tasks import surface
from sweeper.api import Study
from sweeper.store.database import Store, open_writer
from sweeper.store.studies import StudyRecord
from sweeper.store.tickets import ticket_states
from sweeper.study.load import read_study
from sweeper.study.registration import register
from sweeper.worker.served_studies import WorkerOptions

NAME: Final = "scale"
STUDY: Final = """
[study]
name = "{name}"
[task]
use = "{task}:train"
[budget]
trials = {trials}
[task.options]
epochs = {epochs}
work = {work}
"""


class LaunchedStudy(NamedTuple):
    """A launched study with its own database and folder."""

    storage: str
    folder: Path
    trials: int

    def options(self, trials: int | None = None) -> WorkerOptions:
        """Return the terms of a worker that leaves after so many trials."""
        return WorkerOptions(NAME, self.folder, trials=trials)


@contextmanager
def launched(
    backend: Backend, trials: int, finished: int = 0, epochs: int = 4, work: float = 0.0
) -> Iterator[LaunchedStudy]:
    """Launch the study on an empty database with a number of finished trials in it.

    Each epoch takes `work` seconds of CPU time.
    """
    with empty_database(backend.server) as (storage, folder):
        file = folder / "study.toml"
        file.write_text(
            STUDY.format(name=NAME, task=surface.__file__, trials=trials, epochs=epochs, work=work)
        )
        store = open_writer(storage)
        try:
            record = register(store, read_study(file))
            if finished:
                fill(store, record, finished, folder)
        finally:
            store.close()
        yield LaunchedStudy(storage, folder, trials)


def faults(launch: LaunchedStudy) -> list[str]:
    """Return the errors in a study that should be finished: numbers, tickets, states, twins."""
    study = Study(NAME, launch.storage)
    store = study._store
    try:
        tickets = _ticket_faults(store, study._record, launch.trials)
        return [*tickets, *_trial_faults(store, study.frame(), launch.trials)]
    finally:
        store.close()


def _ticket_faults(store: Store, record: StudyRecord, trials: int) -> Iterator[str]:
    tickets = ticket_states(store, record)
    if [ticket.number for ticket in tickets] != list(range(trials)):
        yield f"{len(tickets)} tickets"
    still_open = sum(not ticket.closed for ticket in tickets)
    if still_open:
        yield f"{still_open} tickets open"


def _trial_faults(store: Store, frame: pd.DataFrame, trials: int) -> Iterator[str]:
    stored = optuna.load_study(study_name=NAME, storage=store.storage)
    numbers = sorted(trial.number for trial in stored.get_trials(deepcopy=False))
    if numbers != list(range(trials)):
        yield f"{len(numbers)} trials, numbers to {max(numbers, default=-1)}"
    if sorted(frame["ticket"]) != list(range(trials)):
        yield f"{frame['ticket'].nunique()} tickets with a trial, {len(frame)} trials with a ticket"
    for state, count in Counter(frame["state"]).items():
        if state not in ("complete", "pruned"):
            yield f"{count} {state}"
    trained = frame[(frame["state"] == "complete") & frame["copied_from"].isna()]
    twice = trained.duplicated(["epsilon", "schedule", "rate"]).sum()
    if twice:
        yield f"{twice} trained twice"
