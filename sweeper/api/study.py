"""Reading studies from a database."""

import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from sweeper.api.trial import Trial
from sweeper.confirmation.candidate import Candidate
from sweeper.confirmation.design import finished
from sweeper.confirmation.evidence import Evidence
from sweeper.confirmation.verdict import Verdict
from sweeper.errors import SweeperError, UnknownName, suggestion
from sweeper.export import Format, document_of, render
from sweeper.files import write_text
from sweeper.report import Page, ReportInput, write_report
from sweeper.report.figures.registry import Figures, figures
from sweeper.report.read_input import read_report_input
from sweeper.snapshot import (
    State,
    StudySnapshot,
    read_earlier,
    read_recommended,
    read_snapshot,
    snapshot_html,
    state_of,
)
from sweeper.store.damage import check_intact, damage_as_error
from sweeper.store.database import Store, open_reader
from sweeper.store.outputs import read_outputs
from sweeper.store.records import Result, read_epochs_of, read_result
from sweeper.store.studies import StudyRecord, all_studies, get_study
from sweeper.store.trials import Requirement, TrialQuery, find_number, page_of_trials
from sweeper.store.urls import DEFAULT_STORAGE
from sweeper.study.dimensions import Space
from sweeper.study.frames import (
    STATE_WORDS,
    epochs_frame,
    epochs_of,
    trials_by_id,
    trials_frame,
)
from sweeper.study.load import StoredStudy, read_stored
from sweeper.study.progress import Progress, read_progress
from sweeper.study.results import SCORES, baseline, best
from sweeper.study.space import distributions, requirements
from sweeper.study.spec import StudySpec
from sweeper.training.checkpoints import export_weights
from sweeper.worker.trial_files import check_owner, files_of
from sweeper.worker.worker_states import WorkerState, read_trial_workers, read_workers


class TrialListing(NamedTuple):
    """One page of a study's trials, and the total number of trials that match its filters."""

    frame: pd.DataFrame
    total: int


@dataclass(frozen=True)
class Study:
    """A study in a database, for reading. Every method reads its current state."""

    name: str
    storage: str = DEFAULT_STORAGE
    # If given, a connection that is shared with other studies and not closed here.
    _reader: Store | None = field(default=None, repr=False, compare=False)

    @cached_property
    def _store(self) -> Store:
        if self._reader is not None:
            return self._reader
        store = open_reader(self.storage)
        weakref.finalize(self, store.close)
        return store

    def close(self) -> None:
        """Close the connections to the database; they are reopened when needed.

        They are also closed when the study object is no longer referenced.
        """
        store = self.__dict__.pop("_store", None)
        if store is not None and store is not self._reader:
            store.close()

    def _repr_html_(self) -> str:
        try:
            return snapshot_html(self.snapshot())
        except SweeperError as error:
            return f"<div>{escape(str(error))}</div>"

    @property
    def _record(self) -> StudyRecord:
        return get_study(self._store, self.name)

    @property
    def spec(self) -> StudySpec:
        """The study file of the latest launch."""
        return self._stored.spec

    @property
    def _stored(self) -> StoredStudy:
        return read_stored(self._record)

    def snapshot(self) -> StudySnapshot:
        """Read the study once: trials, progress, evidence, verdict and health notes."""
        with damage_as_error(self._store, self.name):
            return read_snapshot(self._store, self.name)

    def frame(self) -> pd.DataFrame:
        """Return a frame with one row per trial: smoothing, state, scores and times."""
        return trials_frame(self._store, self._record)

    def earlier(self) -> pd.DataFrame:
        """Return a frame with one row per trial of an earlier study that informs the sampler.

        They come from the study in `study.extends` of the study file, are not in `frame()` and do
        not count in the budget.
        """
        return read_earlier(self._store, self._record, self.spec)

    def epochs(self) -> pd.DataFrame:
        """Return a frame with one row per evaluation of every trial."""
        return epochs_frame(self._store, self._record)

    @property
    def best(self) -> pd.Series | None:
        """The row of the finished trial with the lowest metric, or None."""
        return best(self.frame())

    @property
    def baseline(self) -> pd.Series | None:
        """The row of ε = 0, or None until it has finished."""
        return baseline(self.frame())

    def page(
        self,
        *,
        sort: str = "number",
        descending: bool = False,
        state: str | None = None,
        schedule: str | None = None,
        offset: int = 0,
        limit: int = 50,
    ) -> TrialListing:
        """Return one page of `frame()`, sorted and filtered by the database.

        `sort` is one of the columns in `sortable`; trials without a value are last. `state` and
        `schedule` filter the trials; None means all. Raises `SweeperError` for an unknown column,
        state or schedule.
        """
        space, states = self.spec.space, sorted(set(STATE_WORDS.values()))
        schedules = [*space.schedule, *([] if "fixed" in space.schedule else ["fixed"])]
        _check_known("sort", sort, self.sortable)
        _check_known("state", state, states)
        _check_known("schedule", schedule, schedules)
        query = TrialQuery(
            sort=sort,
            descending=descending,
            state=next((s.name for s, word in STATE_WORDS.items() if word == state), None),
            schedules=None if schedule is None else _places(schedule, space.schedule),
            at_zero=schedule == "fixed",
            requirements=list(_requirements(space, sort.removeprefix("hp_"))),
            offset=offset,
            limit=limit,
        )
        trials, total = page_of_trials(self._store, self._record, query)
        return TrialListing(trials_by_id(self._store, self._record, trials), total)

    @property
    def sortable(self) -> tuple[str, ...]:
        """The columns by which `page` can sort."""
        return (*_SORTABLE, *SCORES, *(f"hp_{name}" for name in self.spec.space.extras))

    def has_trial(self, number: int) -> bool:
        """Return whether a trial with this number exists."""
        return find_number(self._store, self.name, number) is not None

    def trial(self, number: int) -> Trial:
        """Return one trial with its evaluations; raises `UnknownName` if it does not exist."""
        store, record = self._store, self._record
        trial_and_ticket = find_number(store, self.name, number)
        if trial_and_ticket is None:
            counts = self.progress()
            count = counts.trials - counts.waiting
            existing = f"trials 0-{count - 1}" if count else "no trials yet"
            raise UnknownName(f"study {self.name!r}: trial {number} does not exist ({existing})")
        ticket = trial_and_ticket[1]
        with damage_as_error(store, self.name):
            return Trial(
                row=trials_by_id(store, record, [trial_and_ticket]).iloc[0],
                epochs=epochs_of(read_epochs_of(store, record, ticket), number),
                result=read_result(store, record, ticket) or Result(),
                outputs=read_outputs(store, record, ticket),
            )

    @property
    def state(self) -> State:
        """The state of the study in one word; "unfinished" if no worker is active."""
        return self.state_at(self.progress())

    def state_at(self, progress: Progress) -> State:
        """Return the state of the study for a given progress."""
        return state_of(self._record, progress, finished=self.finished)

    def check(self) -> None:
        """Raise `StudyDamaged` if the stored study cannot be used."""
        check_intact(self._store, self._record)

    @property
    def finished(self) -> bool:
        """Whether the study has nothing left to run, including its confirmation."""
        return finished(self._store, self._record, self.spec)

    def evidence(self) -> Evidence | None:
        """Return the results of the latest confirmation so far, or None without one."""
        return self.snapshot().evidence

    def recommended(self) -> Candidate | None:
        """Return the configuration to use, or None without a verdict."""
        with damage_as_error(self._store, self.name):
            return read_recommended(self._store, self.name)

    def verdict(self) -> Verdict | None:
        """Return the verdict of the latest confirmation, or None until it is finished."""
        return self.snapshot().verdict

    def progress(self) -> Progress:
        """Return the numbers of trials that are done, running, pruned, failed and waiting."""
        return read_progress(self._store, self._record, self.spec.budget.trials)

    def workers(self) -> list[WorkerState]:
        """Return the workers that hold a trial, including those that do not respond."""
        return read_workers(self._store, self._record)

    def trial_workers(self) -> dict[int, str]:
        """Return the worker that ran or runs each trial as HOST:PID, by trial number."""
        return read_trial_workers(self._store, self._record)

    def figures(self) -> Figures:
        """Return the report's figures by name; a notebook displays them."""
        return figures(self.report_input())

    def results(self, folder: Path) -> Path:
        """Return FOLDER/NAME; raises `SweeperError` if it belongs to another database's study."""
        check_owner(self.name, self._record.created, self._store.location, folder)
        return folder / self.name

    def report(self, path: str | Path, page: Page | None = None) -> Path:
        """Write a page, by default the overview, as one HTML file that opens offline."""
        with damage_as_error(self._store, self.name):  # damaged values may fail only when drawn
            return write_report(path, self.report_input(), page)

    def document(self) -> dict[str, Any]:
        """Return the configuration to use as plain data, as in best.json.

        It is `recommended()`; without a verdict, it is the trial with the lowest metric, and
        `recommended` is false in it. Raises `SweeperError` if no trial has finished.
        """
        return document_of(self.snapshot())

    def export(self, path: str | Path, form: Format = "json") -> Path:
        """Write `document` to a file; raises `SweeperError` if no trial has finished."""
        return write_text(Path(path), render(self.document(), form))

    def export_model(self, path: str | Path, results: str | Path = "results") -> Path:
        """Write the best trial's weights, for `torch.load(path, weights_only=True)`.

        `results` is the results folder of the study's workers. Raises `SweeperError` if the
        weights are not there or no trial has finished.
        """
        row = self.best
        if row is None:
            raise SweeperError(f"study {self.name!r} has no finished trial to export yet")
        files = files_of(self._record, Path(results))
        weights = files.read_weights(int(row["ticket"]))
        if weights is None:
            raise SweeperError(
                f"the weights of trial {row['number']} are not in {files.folder}; give the results "
                "folder of its workers with --results (a custom training function has to yield its "
                "weights in `state`)"
            )
        try:
            export_weights(Path(path), weights)
        except OSError as error:
            raise SweeperError(f"{path} cannot be written: {error.strerror or error}") from error
        return Path(path)

    def log(self, number: int) -> str:
        """Return a text with one trial's epochs, notes, output and failure."""
        return self.trial(number).log

    def follow_log(self, number: int, seconds: float = 1.0) -> Iterator[str]:
        """Yield the log of a trial, then its new output until it ends.

        `seconds` is the time between two reads.
        """
        trial = self.trial(number)
        yield trial.log + "\n"
        seen = {output.claim: output.size for output in trial.outputs}
        while trial.row["state"] in ("running", "waiting"):
            time.sleep(seconds)
            trial = self.trial(number)
            for output in trial.outputs:
                new = output.size - seen.get(output.claim, 0)
                if new > 0:
                    seen[output.claim] = output.size
                    yield output.text.encode()[-new:].decode(errors="replace")
        if trial.result.failure:
            yield f"failure: {trial.result.failure}\n"

    def report_input(self) -> ReportInput:
        snapshot = self.snapshot()
        with damage_as_error(self._store, self.name):
            return read_report_input(self._store, snapshot)


# Columns of the frame, in addition to the scores, by which the database can sort.
_SORTABLE = ("number", "state", "value", "epsilon", "schedule", "rate", "epochs", "seconds")


def _check_known(key: str, value: str | None, allowed: Sequence[str]) -> None:
    if value is not None and value not in allowed:
        raise SweeperError(
            f"{key}: unknown value {value!r}{suggestion(value, allowed)}; "
            f"allowed: {', '.join(allowed)}"
        )


def _requirements(space: Space, name: str) -> Iterator[Requirement]:
    for parent, allowed in requirements(space, name):
        to_internal = distributions(space)[parent].to_internal_repr
        at_zero = "fixed" in allowed if parent == "schedule" else None
        yield Requirement(parent, [to_internal(value) for value in allowed], at_zero)


def _places(schedule: str, choices: Sequence[str]) -> list[int]:
    return [choices.index(schedule)] if schedule in choices else []


def open_study(name: str, storage: str = DEFAULT_STORAGE) -> Study:
    """Open a study for reading; raises `SweeperError` if it is not in the database.

    If the study is damaged, its methods raise `StudyDamaged`.
    """
    with closing(open_reader(storage)) as reader:
        get_study(reader, name, damaged=True)
    return Study(name, storage)


def studies(storage: str = DEFAULT_STORAGE) -> list[Study]:
    """Return all studies in a database, newest first."""
    reader = open_reader(storage)
    try:
        return [Study(record.name, storage) for record in all_studies(reader)]
    finally:
        reader.close()
