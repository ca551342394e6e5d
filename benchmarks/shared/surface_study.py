"""The study of scale.py, launched on an empty database, and whether it came to an exact end."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import optuna
import pandas as pd

from benchmarks.shared.databases import empty_database
from benchmarks.shared.finished_trials import fill
from benchmarks.shared.tasks import surface
from sweeper.api import Study
from sweeper.store.database import Store, open_writer
from sweeper.store.studies import StudyRecord
from sweeper.store.tickets import ticket_states
from sweeper.study.load import read_study
from sweeper.study.registration import register
from sweeper.worker.worker import Terms

NAME: Final = "scale"
STUDY: Final = """
[study]
name = "{name}"
[task]
use = "surface.py:train"
[budget]
trials = {trials}
[task.options]
epochs = {epochs}
"""


class Backend(NamedTuple):
    """A kind of database; `server` is None where it is a file."""

    name: str
    server: str | None


class Scene(NamedTuple):
    """A study just launched, in a database and a folder of its own."""

    storage: str
    folder: Path
    trials: int

    def terms(self, trials: int | None = None) -> Terms:
        """Return the terms of its workers."""
        return Terms(NAME, self.folder, trials=trials)


@contextmanager
def launched(backend: Backend, trials: int, finished: int = 0, epochs: int = 4) -> Iterator[Scene]:
    """Launch the study on an empty database, and bring it to so many finished trials."""
    with empty_database(backend.server) as (storage, folder):
        (folder / "surface.py").write_bytes(Path(surface.__file__).read_bytes())
        file = folder / "study.toml"
        file.write_text(STUDY.format(name=NAME, trials=trials, epochs=epochs))
        store = open_writer(storage)
        try:
            record = register(store, read_study(file))
            if finished:
                fill(store, record, finished, folder)
        finally:
            store.close()
        yield Scene(storage, folder, trials)


def faults(scene: Scene) -> list[str]:
    """Return what is not exact in a study that should be finished."""
    study = Study(NAME, scene.storage)
    store = study._store
    try:
        tickets = _ticket_faults(store, study._record, scene.trials)
        return [*tickets, *_trial_faults(store, study.frame(), scene.trials)]
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
