"""A study in a database, to read."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pandas as pd

from sweeper.api.trial import Trial
from sweeper.confirmation.design import (
    check_confirmable,
    finished,
    read_evidence,
    search_ended,
)
from sweeper.confirmation.diagnostics import health
from sweeper.confirmation.evidence import Evidence
from sweeper.confirmation.verdict import Verdict, verdict
from sweeper.errors import SweeperError, UnknownName, nearest
from sweeper.export import Format, StudyFacts, best_document, render, write_text
from sweeper.report import Page, ReportInput, write_report
from sweeper.report.figures.registry import figures
from sweeper.report.figures.schedules import drawn
from sweeper.store.confirmations import last_confirmation
from sweeper.store.database import Store, open_reader
from sweeper.store.records import Result, read_environment, read_epochs_of, read_result
from sweeper.store.studies import StudyRecord, all_studies, get_study
from sweeper.store.trials import TrialQuery, find_number, page_of_trials
from sweeper.store.urls import DEFAULT_STORAGE
from sweeper.study.frames import (
    STATE_WORDS,
    epochs_frame,
    epochs_of,
    some_trials,
    trials_frame,
)
from sweeper.study.importance import importance
from sweeper.study.load import StoredStudy, read_stored
from sweeper.study.progress import Progress, read_progress
from sweeper.study.results import SCORES, baseline, best
from sweeper.study.spec import StudySpec
from sweeper.study.trials import open_optuna_study
from sweeper.training.checkpoints import export_weights
from sweeper.worker.presence import WorkerState, read_workers
from sweeper.worker.trial_files import files_of

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


State = Literal["finished", "running", "unfinished", "paused", "stopped"]


class TrialPage(NamedTuple):
    """A part of a study's trials, in the order asked for, and how many there are of such."""

    frame: pd.DataFrame
    total: int


@dataclass(frozen=True)
class Study:
    """A study in a database, to read: every method looks at it as it is now."""

    name: str
    storage: str = DEFAULT_STORAGE
    # Shared with other studies where it is given.
    _reader: Store | None = field(default=None, repr=False, compare=False)

    @cached_property
    def _store(self) -> Store:
        return self._reader or open_reader(self.storage)

    def close(self) -> None:
        """Close the connections to the database. They are opened again when they are needed."""
        store = self.__dict__.pop("_store", None)
        if store is not None and store is not self._reader:
            store.close()

    @property
    def _record(self) -> StudyRecord:
        return get_study(self._store, self.name)

    @property
    def spec(self) -> StudySpec:
        """The study file as it was launched last."""
        return self._stored.spec

    @property
    def _stored(self) -> StoredStudy:
        return read_stored(self._record.spec)

    def frame(self) -> pd.DataFrame:
        """Return one row a trial: its smoothing, state, scores and times."""
        return trials_frame(self._store, self._record)

    def epochs(self) -> pd.DataFrame:
        """Return one row an evaluation of every trial."""
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
    ) -> TrialPage:
        """Return a part of `frame()`, which the database has sorted and filtered.

        `sort` is a column, one that `frame()` gives a number or a word for. Trials without a
        value come last. Raises `SweeperError` for a column, state or schedule that there is not.
        """
        space, states = self.spec.space, sorted(set(STATE_WORDS.values()))
        schedules = [*space.schedule, *([] if "fixed" in space.schedule else ["fixed"])]
        _check_known("sort", sort, self.sortable)
        _check_known("state", state, states)
        _check_known("schedule", schedule, schedules)
        query = TrialQuery(
            sort=sort,
            descending=descending,
            states=None
            if state is None
            else [s for s, word in STATE_WORDS.items() if word == state],
            schedules=None if schedule is None else _places(schedule, space.schedule),
            at_zero=schedule == "fixed",
            offset=offset,
            limit=limit,
        )
        found, total = page_of_trials(self._store, self._record, query)
        return TrialPage(some_trials(self._store, self._record, found), total)

    @property
    def sortable(self) -> tuple[str, ...]:
        """The columns that a page of trials can be sorted by."""
        return (*_SORTABLE, *SCORES, *(f"hp_{name}" for name in self.spec.space.extras))

    def trial(self, number: int) -> Trial:
        """Return one trial with its evaluations; raises `UnknownName` where there is none."""
        store, record = self._store, self._record
        found = find_number(store, self.name, number)
        if found is None:
            counts = self.progress()
            raise UnknownName(
                f"study {self.name!r} has no trial {number}; it has "
                f"{counts.trials - counts.waiting}, from 0"
            )
        ticket = found[1]
        return Trial(
            row=some_trials(store, record, [found]).iloc[0],
            epochs=epochs_of(read_epochs_of(store, record, ticket), number),
            result=read_result(store, record, ticket) or Result(),
        )

    @property
    def state(self) -> State:
        """Where the study stands, in one word; unfinished: nobody is at it."""
        return self.state_at(self.progress())

    def state_at(self, progress: Progress) -> State:
        """Return where the study stands, given how far it is."""
        if self.finished:
            return "finished"
        asked = self._record.state
        if asked != "running":
            return asked
        return "running" if progress.running else "unfinished"

    @property
    def finished(self) -> bool:
        """Whether nothing of the study will be run any more, its confirmation included."""
        spec = self.spec
        return finished(self._store, self._record, spec, open_optuna_study(self._store, spec))

    def evidence(self) -> Evidence | None:
        """Return what the latest confirmation has found so far, or None without one."""
        stored = self._stored
        return read_evidence(self._store, self._record, stored.spec, stored.label_source)

    def verdict(self) -> Verdict | None:
        """Return what the latest confirmation says of the pick; None until it is finished."""
        found = self.evidence()
        return verdict(found) if found is not None and found.complete else None

    def check_confirmable(self) -> None:
        """Raise `SweeperError` where the search is not over, or gives nothing to confirm."""
        counts, spec = self.progress(), self.spec
        if not search_ended(self._store, self._record, spec, open_optuna_study(self._store, spec)):
            raise SweeperError(
                f"study {self.name!r} is at {counts.ended} of {counts.trials} trials; launch it "
                "to its end first (--trials lowers its budget)"
            )
        try:
            check_confirmable(self._store, self._record, spec)
        except SweeperError as error:
            raise SweeperError(f"study {self.name!r} cannot be confirmed: {error}") from None

    def health(self) -> tuple[str, ...]:
        """Return a sentence for each thing that makes the study's answer doubtful."""
        return health(self.frame(), self.spec.space, self.evidence(), self.verdict())

    @property
    def unconfirmed(self) -> str:
        """Why the search gave nothing to confirm; "" where it did, or is not over."""
        last = last_confirmation(self._store, self._record)
        return "" if last is None else last.reason

    def progress(self) -> Progress:
        """Count the trials that are done, running, pruned, failed and waiting."""
        return read_progress(self._store, self._record, self.spec.budget.trials)

    def workers(self) -> list[WorkerState]:
        """Return the workers that are at a trial now, also those that have fallen silent."""
        return read_workers(self._store, self._record)

    def figures(self) -> "dict[str, Figure]":
        """Return the report's figures by name."""
        return figures(self.report_input())

    def report(self, path: str | Path, page: Page | None = None) -> Path:
        """Write a page, the trade-offs if none is given, as one HTML file that opens offline."""
        ready = self.report_input()
        try:
            return write_report(Path(path), ready, page)
        except OSError as error:
            raise SweeperError(f"{path} cannot be written: {error.strerror}") from error

    def document(self) -> dict[str, Any]:
        """Return what to use as plain data; raises `SweeperError` where no trial has finished.

        The pick where the verdict is that it helps, ε = 0 where it is not, the trial with the
        lowest metric where nothing is confirmed.
        """
        found = self.evidence()
        return best_document(self._facts(), self.frame(), found, self.verdict())

    def export(self, path: str | Path, form: Format = "json") -> Path:
        """Write the best configuration; raises `SweeperError` where no trial has finished."""
        return write_text(Path(path), render(self.document(), form))

    def export_model(self, path: str | Path, results: str | Path = "results") -> Path:
        """Write the best trial's weights, for `torch.load(path, weights_only=True)`.

        Raises `SweeperError` where they are not in the folder that its workers wrote to.
        """
        row = self.best
        if row is None:
            raise SweeperError(f"study {self.name!r} has no finished trial to export yet")
        files = files_of(self._record, Path(results))
        weights = files.read_weights(int(row["ticket"]))
        if weights is None:
            raise SweeperError(
                f"the weights of trial {row['number']} are not in {files.folder}; name the folder "
                "that its workers had for --results (a loop of one's own yields them in its state)"
            )
        try:
            export_weights(Path(path), weights)
        except OSError as error:
            raise SweeperError(f"{path} cannot be written: {error.strerror or error}") from error
        return Path(path)

    def log(self, number: int) -> str:
        """Return what one trial did: its epochs, what it printed, and why it failed."""
        return self.trial(number).log

    def _facts(self) -> StudyFacts:
        record, spec = self._record, self.spec
        classes, versions = read_environment(self._store, record)
        return StudyFacts(
            name=self.name,
            spec_hash=record.spec_hash,
            metric=spec.objective.metric,
            seed=spec.study.seed,
            classes=classes,
            versions=versions,
            created=_moment(time.time()),
        )

    def report_input(self) -> ReportInput:
        """Return what the report is made from."""
        facts, trials = self._facts(), self.frame()
        chosen = {int(row["ticket"]): int(row["number"]) for _, row in drawn(trials)}
        return ReportInput(
            name=self.name,
            metric=self.spec.objective.metric,
            classes=facts.classes,
            label_source=self._stored.label_source,
            trials=trials,
            epochs=epochs_frame(self._store, self._record, chosen),
            importance=importance(self._store, self.name),
            facts=_footer(facts, self._record),
            space=self.spec.space,
            evidence=self.evidence(),
            verdict=self.verdict(),
            unconfirmed=self.unconfirmed,
        )


# Columns of the frame beside the scores that the database can sort by.
_SORTABLE = ("number", "state", "value", "epsilon", "schedule", "rate", "epochs", "seconds")


def _check_known(what: str, given: str | None, allowed: Sequence[str]) -> None:
    if given is not None and given not in allowed:
        raise SweeperError(
            f"{what}: {given!r}{nearest(given, allowed)}; allowed: {', '.join(allowed)}"
        )


def _places(schedule: str, choices: Sequence[str]) -> list[int]:
    return [choices.index(schedule)] if schedule in choices else []


def open_study(name: str, storage: str = DEFAULT_STORAGE) -> Study:
    """Open a study to read; raises `SweeperError` where the database does not hold it."""
    study = Study(name, storage)
    get_study(study._store, name)
    return study


def studies(storage: str = DEFAULT_STORAGE) -> list[Study]:
    """Return every study of a database, newest first."""
    reader = open_reader(storage)
    try:
        return [Study(record.name, storage) for record in all_studies(reader)]
    finally:
        reader.close()


def _footer(facts: StudyFacts, record: StudyRecord) -> Mapping[str, str]:
    return {
        "study": facts.name,
        "spec": record.spec_hash[:12],
        "seed": str(facts.seed),
        "launched": _moment(record.created),
        "written": facts.created,
        **facts.versions,
    }


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
