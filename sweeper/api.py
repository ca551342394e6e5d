"""What a notebook imports: launch a study, or open one, and read what it found."""

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import pandas as pd

from sweeper.errors import SweeperError
from sweeper.execution.executors.local import LocalExecutor
from sweeper.execution.files import files_of
from sweeper.execution.launcher import Launch, run_launch
from sweeper.execution.presence import WorkerState, free_dead, read_workers
from sweeper.execution.stopping import StopRequest
from sweeper.execution.worker import Terms as Terms
from sweeper.execution.worker import work
from sweeper.export import Format, StudyFacts, best_document, render, write_text
from sweeper.report import ReportInput, figures, write_report
from sweeper.store.database import (
    OUTAGE_SECONDS,
    NothingLaunched,
    Store,
    open_reader,
    open_writer,
)
from sweeper.store.records import Result, read_result, read_results
from sweeper.store.studies import (
    StudyRecord,
    StudyState,
    all_studies,
    delete_study,
    find_study,
    get_study,
    set_state,
)
from sweeper.store.urls import DEFAULT_STORAGE, absolute, parse_url, sqlite_path
from sweeper.study.frames import epochs_frame, trials_frame
from sweeper.study.importance import importance
from sweeper.study.load import (
    StoredStudy,
    StudyFile,
    check_runs,
    find_study_file,
    read_stored,
    read_study,
)
from sweeper.study.note import write_note
from sweeper.study.patience import out_of_patience
from sweeper.study.plan import plan
from sweeper.study.problems import found_in
from sweeper.study.progress import Progress, read_progress
from sweeper.study.registration import check_same, defaults_of, register
from sweeper.study.results import baseline, best
from sweeper.study.space import Point
from sweeper.study.spec import StudySpec
from sweeper.study.trials import delete_optuna_study, open_optuna_study
from sweeper.training.checkpoints import export_weights

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

OnProgress = Callable[[Progress], None]

# Between the first SIGTERM and the end of a worker: less than what pre-emptible machines give.
GRACE_SECONDS: Final = 20.0


@dataclass(frozen=True)
class Study:
    """A study in a database, to read: every method looks at it as it is now."""

    name: str
    storage: str = DEFAULT_STORAGE

    @cached_property
    def _store(self) -> Store:
        return open_reader(self.storage)

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

    @property
    def state(self) -> Literal["finished", "running", "unfinished", "paused", "stopped"]:
        """Where the study stands, in one word; unfinished: nobody is at it."""
        if self.finished:
            return "finished"
        asked = self._record.state
        if asked != "running":
            return asked
        return "running" if self.progress().running else "unfinished"

    @property
    def finished(self) -> bool:
        """Whether no trial of the study will be run any more under its budget."""
        progress, spec = self.progress(), self.spec
        if progress.ended >= progress.trials:
            return True
        return out_of_patience(open_optuna_study(self._store, spec), spec.budget.patience)

    def progress(self) -> Progress:
        """Count the trials that are done, running, pruned, failed and waiting."""
        return read_progress(self._store, self._record, self.spec.budget.trials)

    def workers(self) -> list[WorkerState]:
        """Return the workers that are at a trial now, also those that have fallen silent."""
        return read_workers(self._store, self._record)

    def figures(self) -> "dict[str, Figure]":
        """Return the report's figures by name."""
        return figures(self._report_input())

    def report(self, path: str | Path) -> Path:
        """Write the report as one HTML file that opens offline; return its path."""
        ready = self._report_input()
        try:
            return write_report(Path(path), ready)
        except OSError as error:
            raise SweeperError(f"{path} cannot be written: {error.strerror}") from error

    def document(self) -> dict[str, Any]:
        """Return the best configuration as plain data; raises `SweeperError` without one."""
        return best_document(self._facts(), self.frame())

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
        trials, epochs = self.frame(), self.epochs()
        rows = trials[trials["number"] == number]
        if rows.empty:
            raise SweeperError(
                f"study {self.name!r} has no trial {number}; it has {len(trials)}, from 0"
            )
        row = rows.iloc[0]
        result = read_result(self._store, self._record, int(row["ticket"])) or Result()
        return _log_text(row, epochs[epochs["number"] == number], result)

    def _facts(self) -> StudyFacts:
        record, spec = self._record, self.spec
        results = read_results(self._store, record)
        return StudyFacts(
            name=self.name,
            spec_hash=record.spec_hash,
            metric=spec.objective.metric,
            seed=spec.study.seed,
            classes=next((r.classes for r in results.values() if r.classes), None),
            versions=next((r.environment for r in results.values() if r.environment), {}),
            created=_moment(time.time()),
        )

    def _report_input(self) -> ReportInput:
        facts = self._facts()
        return ReportInput(
            name=self.name,
            metric=self.spec.objective.metric,
            classes=facts.classes,
            label_source=self._stored.label_source,
            trials=self.frame(),
            epochs=self.epochs(),
            importance=importance(self._store, self.name),
            facts=_footer(facts, self._record),
        )


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


def delete(name: str, storage: str = DEFAULT_STORAGE) -> None:
    """Remove a study with all that it found; raises `SweeperError` where there is none."""
    with _writer_of(storage) as writer, writer.exclusive():
        record = get_study(writer, name)
        delete_study(writer, record)
        delete_optuna_study(writer, name)


def pause(name: str, storage: str = DEFAULT_STORAGE) -> None:
    """Let nothing of a study be trained until it is resumed; its workers wait.

    Running trials go back to the queue at the end of their epoch, with their checkpoints.
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
    with _writer_of(storage) as writer:
        set_state(writer, get_study(writer, name), state)


@contextmanager
def _writer_of(storage: str) -> Iterator[Store]:
    """Open a database that is there; never make one."""
    open_reader(storage).close()
    writer = open_writer(storage)
    try:
        yield writer
    finally:
        writer.close()


def prepare(storage: str = DEFAULT_STORAGE) -> None:
    """Make the tables of a database, or bring them to this version; no-op where they are."""
    _check_storage(storage)
    open_writer(storage).close()


def run_worker(
    terms: Terms,
    storage: str = DEFAULT_STORAGE,
    *,
    parent: int | None = None,
    grace: float = GRACE_SECONDS,
) -> str:
    """Work until the terms are met or a signal asks for a stop; return why it ended.

    The process has to be the worker's own: it is ended where a trial hangs.
    """
    stop = StopRequest(parent=parent, own_process=True, grace=grace)
    stop.listen()
    with _writer_of(storage) as writer:
        return work(writer, terms, stop).value


@dataclass(frozen=True)
class LaunchPlan:
    """What a launch would do; `points` are those known before it starts."""

    name: str
    spec: StudySpec
    spec_hash: str
    trials: int
    ended: int
    points: Sequence[Point | None]


def plan_launch(
    study: str | Path, *, trials: int | None = None, storage: str = DEFAULT_STORAGE
) -> LaunchPlan:
    """Check a study file and say what launching it would do; writes nothing."""
    file = _read(study, trials)
    _check_storage(storage)
    points = plan(file.spec, defaults_of(file))
    ended = _ended(file, storage)
    return LaunchPlan(file.name, file.spec, file.hash(), len(points), ended, points)


def launch(
    study: str | Path,
    *,
    workers: int = 2,
    trials: int | None = None,
    storage: str = DEFAULT_STORAGE,
    timeout: float | None = None,
    results: str | Path = "results",
    detach: bool = False,
    on_progress: OnProgress = lambda _: None,
) -> Study:
    """Run a study to its end, or go on with it, and write its report and best.json.

    `study` is a file or a ready study's name; `workers` processes, 0 for this process alone;
    `trials` and `timeout` (seconds) replace the budget's; the files go to RESULTS/NAME. What
    is finished is not run again. `detach` leaves the work to workers that run elsewhere, and
    returns at once. Raises `SweeperError`, before anything is written, for
    whatever in the study cannot work.
    """
    _check_launch(workers, timeout, Path(results))
    file = _read(study, trials)
    _check_storage(storage)
    writer = open_writer(storage)
    try:
        record = register(writer, file)
        opened = Study(file.name, storage)
        if detach:
            return opened
        if not opened.finished:
            seconds = timeout or file.spec.budget.timeout
            deadline = None if seconds is None else time.monotonic() + seconds
            _run(writer, opened, record, workers, deadline, Path(results), on_progress)
        write_note(writer, file.spec, opened.frame())
    finally:
        writer.close()
    write_results(opened, Path(results))
    return opened


def write_results(study: Study, results: Path = Path("results")) -> None:
    """Write RESULTS/NAME/report.html, and best.json where a trial has finished."""
    study.report(results / study.name / "report.html")
    if study.best is not None:
        study.export(results / study.name / "best.json")


def _run(
    writer: Store,
    study: Study,
    record: StudyRecord,
    workers: int,
    deadline: float | None,
    results: Path,
    on_progress: OnProgress,
) -> None:
    if workers == 0:
        free_dead(writer, record)
        work(writer, Terms(record.name, results), StopRequest(deadline=deadline))
        on_progress(study.progress())
        return
    run_launch(
        Launch(
            writer=writer,
            reader=replace(study._store, outage_seconds=OUTAGE_SECONDS),
            record=record,
            storage=absolute(study.storage),
            trials=study.spec.budget.trials,
            workers=workers,
            executor=LocalExecutor(),
            results=results.absolute(),
            deadline=deadline,
        ),
        os.getpid(),
        on_progress,
    )


def _check_launch(workers: int, timeout: float | None, results: Path) -> None:
    if not 0 <= workers <= 256:
        raise SweeperError(f"workers: {workers}; allowed: 0 (this process alone) to 256")
    if timeout is not None and not 0 < timeout < math.inf:
        raise SweeperError(f"timeout: {timeout:g}; allowed: a finite number of seconds above 0")
    there = next(folder for folder in (results, *results.absolute().parents) if folder.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise SweeperError(f"results: {there} is no folder that can be written to; name another")


def _check_storage(storage: str) -> None:
    path = sqlite_path(parse_url(storage))
    if path is None:
        return
    if path.is_dir():
        raise SweeperError(f"storage: {path} is a folder; name a file in it")
    if not path.absolute().parent.is_dir():
        raise SweeperError(f"storage: {path}: there is no folder {path.parent}; make it first")


def _read(study: str | Path, trials: int | None) -> StudyFile:
    """Read a study file and check, before anything is written, that its trials can run."""
    file = read_study(study, trials=trials)
    with found_in(find_study_file(study)):
        check_runs(file)
    return file


def _ended(file: StudyFile, storage: str) -> int:
    try:
        reader = open_reader(storage)
    except NothingLaunched:
        return 0
    try:
        record = find_study(reader, file.name)
        if record is None:
            return 0
        check_same(record, file)
        return read_progress(reader, record, file.spec.budget.trials).ended
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


def _log_text(row: pd.Series, epochs: pd.DataFrame, result: Result) -> str:
    rate = "" if pd.isna(row["rate"]) else f", rate {row['rate']:.4g}"
    lines = [
        f"trial {row['number']}: {row['state']}, "
        f"epsilon {row['epsilon']:.4g}, {row['schedule']}{rate}"
    ]
    lines += [
        f"epoch {e.epoch:3d}  epsilon {e.epsilon:.4f}  nll {e.nll:.4f}  "
        f"accuracy {e.accuracy:.4f}  ece {e.ece:.4f}"
        for e in epochs.itertuples()
    ]
    for title, text in (("printed", result.log), ("failure", result.failure)):
        if text.strip():
            lines += ["", f"{title}:", text.rstrip()]
    return "\n".join(lines)
