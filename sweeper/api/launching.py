"""Launching a study: checked whole before anything is written, then run to its end."""

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sweeper.api.study import Study, open_study
from sweeper.errors import SweeperError
from sweeper.executors import Executor, JobSpec, Resources, make_executor
from sweeper.report.optuna_dashboard import note, small_figures, write_note
from sweeper.store.database import (
    OUTAGE_SECONDS,
    NothingLaunched,
    Store,
    open_reader,
    open_writer,
)
from sweeper.store.studies import StudyRecord, find_study, get_study, update_spec
from sweeper.store.urls import DEFAULT_STORAGE, absolute, check_place, parse_url, sqlite_path
from sweeper.study.load import (
    StudyFile,
    check_runs,
    find_study_file,
    offered_study,
    read_study,
    stored_to_confirm,
)
from sweeper.study.plan import plan
from sweeper.study.progress import Progress, read_progress
from sweeper.study.registration import check_same, defaults_of, register
from sweeper.study.schema_errors import found_in
from sweeper.study.space import Point
from sweeper.study.spec import StudySpec
from sweeper.worker.launcher import Launch, limited, run_launch, worker_job

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class LaunchPlan:
    """What a launch would do.

    `points` are those known before it starts; `submission` is what its executor would be given.
    """

    name: str
    spec: StudySpec
    spec_hash: str
    trials: int
    ended: int
    points: Sequence[Point | None]
    submission: str


def plan_launch(
    study: str | Path,
    *,
    trials: int | None = None,
    pack: str | int | None = None,
    confirm: bool | None = None,
    storage: str = DEFAULT_STORAGE,
    workers: int | None = None,
    executor: str | Executor = "local",
    results: str | Path = "results",
) -> LaunchPlan:
    """Check a study file and say what launching it would do; writes nothing."""
    file = _read(study, trials, pack, confirm)
    check_place(storage)
    crew = _crew(executor, workers, storage)
    points = plan(file.spec, defaults_of(file))
    ended = _ended(file, storage)
    job = crew.job(file.name, file.spec, Path(results), storage)
    submission = crew.executor.preview(job, crew.workers)
    return LaunchPlan(file.name, file.spec, file.hash(), len(points), ended, points, submission)


def launch(
    study: str | Path,
    *,
    workers: int | None = None,
    executor: str | Executor = "local",
    trials: int | None = None,
    pack: str | int | None = None,
    confirm: bool | None = None,
    storage: str = DEFAULT_STORAGE,
    timeout: float | None = None,
    results: str | Path = "results",
    detach: bool = False,
    on_progress: OnProgress = lambda _: None,
) -> Study:
    """Run a study to its end, or go on with it, and write its report and best.json.

    `study` is a file or a ready study's name; `workers` is how many, two if nothing is said and 0
    for this process alone; `executor` is where they run, its name or what `make_executor` gives;
    `trials`, `pack` ("auto", "off" or a number), `confirm` and `timeout` (seconds) replace what
    the file says; the files go to RESULTS/NAME. What is finished is not run again. `detach`
    returns at once: it leaves the work to Slurm or Kubernetes, or to workers that are started
    elsewhere. Raises `SweeperError`, before anything is written, for whatever in the study or its
    executor cannot work.
    """
    crew = _crew(executor, workers, storage, detach=detach)
    _check_launch(timeout, Path(results))
    file = _read(study, trials, pack, confirm)
    check_place(storage)
    seconds = timeout or file.spec.budget.timeout
    job = crew.job(file.name, file.spec, Path(results), storage)
    with closing(crew.executor):
        crew.executor.check(job, crew.workers)
        with closing(open_writer(storage)) as writer:
            record = register(writer, file)
            opened = Study(file.name, storage)
            if not detach:
                _to_the_end(writer, opened, record, crew, seconds, Path(results), on_progress)
            elif crew.executor.traits.survives:
                crew.executor.start(limited(job, seconds), crew.workers)
    return opened


def submit(
    tables: Mapping[str, Any], folders: Sequence[Path], *, storage: str = DEFAULT_STORAGE
) -> Study:
    """Launch the study that these tables of a study file describe; workers elsewhere take it up.

    Code that it names is taken from the folders alone, and first points from no export. Raises
    `SweeperError`, before anything is written, with a line for each wrong key, and `Conflict`
    where its name is another study's.
    """
    file = offered_study(tables, folders)
    check_runs(file)
    with closing(open_writer(storage)) as writer:
        register(writer, file)
    return Study(file.name, storage)


def confirm(
    name: str,
    *,
    workers: int | None = None,
    executor: str | Executor = "local",
    storage: str = DEFAULT_STORAGE,
    timeout: float | None = None,
    results: str | Path = "results",
    on_progress: OnProgress = lambda _: None,
) -> Study:
    """Confirm a study whose search is over, and write its report and best.json again.

    What is confirmed is not trained again. Raises `SweeperError`, before anything is written,
    where the search is not over or gives nothing to confirm.
    """
    crew = _crew(executor, workers, storage)
    _check_launch(timeout, Path(results))
    opened = open_study(name, storage)
    opened.check_confirmable()
    job = crew.job(name, opened.spec, Path(results), storage)
    with closing(crew.executor):
        crew.executor.check(job, crew.workers)
        with closing(open_writer(storage)) as writer:
            record = get_study(writer, name)
            spec = stored_to_confirm(record.spec)
            record = update_spec(writer, record, spec=spec, folder=record.folder)
            _to_the_end(writer, opened, record, crew, timeout, Path(results), on_progress)
    return opened


def _to_the_end(
    writer: Store,
    study: Study,
    record: StudyRecord,
    crew: "_Crew",
    seconds: float | None,
    results: Path,
    on_progress: OnProgress,
) -> None:
    """Run what is left of a study, and write what was found."""
    try:
        if not study.finished:
            deadline = None if seconds is None else time.monotonic() + seconds
            _run(writer, study, record, crew, deadline, results, on_progress)
        show_in_dashboard(writer, study)
        write_results(study, results)
    except BaseException:
        study._store.close()  # nobody will have the study
        raise


def show_in_dashboard(writer: Store, study: Study) -> None:
    """Put what was found so far on the study's page in optuna-dashboard."""
    found = study.report_input()
    text = note(study.spec, found.trials, found.verdict)
    write_note(writer, study.name, text, small_figures(found))


def write_results(study: Study, results: Path = Path("results")) -> None:
    """Write RESULTS/NAME/report.html, and best.json where a trial has finished."""
    study.report(results / study.name / "report.html")
    if study.best is not None:
        study.export(results / study.name / "best.json")


def _run(
    writer: Store,
    study: Study,
    record: StudyRecord,
    crew: "_Crew",
    deadline: float | None,
    results: Path,
    on_progress: OnProgress,
) -> None:
    run_launch(
        Launch(
            writer=writer,
            reader=replace(study._store, outage_seconds=OUTAGE_SECONDS),
            record=record,
            trials=study.spec.budget.trials,
            workers=crew.workers,
            executor=crew.executor,
            job=crew.job(record.name, study.spec, results, study.storage),
            deadline=deadline,
        ),
        on_progress,
    )


@dataclass(frozen=True)
class _Crew:
    """Who does the work of a launch: an executor, and how many workers of it."""

    executor: Executor
    workers: int

    def job(self, name: str, spec: StudySpec, results: Path, storage: str) -> JobSpec:
        """Return how one of them is started."""
        asked = spec.resources
        needs = Resources(asked.cpus or spec.task.threads, asked.gpus, asked.memory)
        return worker_job(
            name, self.workers, results.absolute(), self.executor, needs, absolute(storage)
        )


def _crew(
    executor: str | Executor, workers: int | None, storage: str, *, detach: bool = False
) -> _Crew:
    """Return who does the work; raises `SweeperError` where they cannot."""
    chosen = make_executor(executor) if isinstance(executor, str) else executor
    if workers == 0 and chosen.traits.name == "local":
        chosen, workers = make_executor("inline"), 1
    traits = chosen.traits
    count = min(2, traits.most) if workers is None else workers
    if not 1 <= count <= traits.most:
        least = "0 (this process alone)" if traits.name == "local" else "1"
        with_it = "" if traits.name == "local" else f" with {traits.name}"
        raise SweeperError(f"workers: {count}; allowed{with_it}: {least} to {traits.most}")
    if traits.machines and sqlite_path(parse_url(storage)) is not None:
        raise SweeperError(
            f"executor {traits.name}: workers on several machines cannot share an SQLite file; "
            "name a server with --storage, postgresql://USER@HOST/DATABASE"
        )
    # `local` starts nobody then: the workers are those that somebody starts elsewhere.
    if detach and not traits.survives and traits.name != "local":
        raise SweeperError(f"detach: what {traits.name} runs ends with the launch; leave it out")
    return _Crew(chosen, count)


def _check_launch(timeout: float | None, results: Path) -> None:
    if timeout is not None and not 0 < timeout < math.inf:
        raise SweeperError(f"timeout: {timeout:g}; allowed: a finite number of seconds above 0")
    there = next(folder for folder in (results, *results.absolute().parents) if folder.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise SweeperError(f"results: {there} is no folder that can be written to; name another")


def _read(
    study: str | Path, trials: int | None, pack: str | int | None, confirm: bool | None
) -> StudyFile:
    """Read a study file and check, before anything is written, that its trials can run."""
    file = read_study(study, trials=trials, pack=pack, confirm=confirm)
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
