"""Launching a study: plan it, check it before anything is written, and run it."""

import gc
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sweeper import limits
from sweeper.api.checking import checked_before_launch
from sweeper.api.given_study import split_keywords, with_keywords
from sweeper.api.notebook import progress_display
from sweeper.api.problems import problems
from sweeper.api.worker_pool import RunOptions, WorkerPool, worker_pool
from sweeper.confirmation.design import check_confirmable, finished
from sweeper.errors import SweeperError
from sweeper.executors import JobSpec
from sweeper.store.code import read_revisions
from sweeper.store.database import (
    SchemaMissing,
    Store,
    is_older,
    open_reader,
    open_writer,
)
from sweeper.store.studies import StudyRecord, find_study, get_study
from sweeper.store.urls import DEFAULT_STORAGE, check_sqlite_path, location_of, parse_url
from sweeper.study.extension import Extension, find_extension, stored_extension
from sweeper.study.load import (
    StudyFile,
    read_stored,
    read_study,
    study_of,
    submitted_study,
)
from sweeper.study.patience import early_end
from sweeper.study.progress import Progress, read_progress
from sweeper.study.registration import check_same, register
from sweeper.study.schema_errors import toml_value
from sweeper.study.sources import check_sources
from sweeper.study.space import Point
from sweeper.study.spec import StudySpec
from sweeper.tasks.given import given_again, given_object, keep
from sweeper.worker.launcher import RunningLaunch, run_launch, with_time_limit
from sweeper.worker.trial_files import check_owner, claim_folder

if TYPE_CHECKING:
    from sweeper.api.study import Study
    from sweeper.snapshot import StudySnapshot
    from sweeper.training.task import Task

_log = logging.getLogger(__name__)

OnProgress = Callable[[Progress], None]

# Modules that the end of a launch needs, including their own late imports.
_FINAL_MODULES: Final = (
    "sweeper.api.write_results",
    "sweeper.scoring.calibration",
    "sweeper.scoring.selective",
    "sklearn.ensemble",
    "sklearn.gaussian_process",
    "optuna_dashboard",
    "plotly.colors",
    "plotly.graph_objs._deprecations",
    "plotly.graph_objs._layout",
    "plotly.graph_objs.bar",
    "plotly.graph_objs.layout._template",
    "plotly.graph_objs.layout._xaxis",
    "plotly.graph_objs.layout._yaxis",
    "plotly.graph_objs.layout.shape",
    "plotly.graph_objs.scatter",
    "plotly.io._json",
)


@dataclass(frozen=True)
class LaunchOptions(RunOptions):
    """Options for a launch.

    `trials`, `pack` ("auto", "off" or a number), `confirm` and `timeout` override the study file
    unless they are None. With `detach`, the launch returns at once and leaves the work to Slurm or
    Kubernetes, or to workers that are started separately. `accept_code` continues a study although
    its code has changed. With `check`, training code is checked first with three short runs, unless
    it was checked before; see `check`.
    """

    trials: int | None = None
    pack: str | int | None = None
    confirm: bool | None = None
    detach: bool = False
    accept_code: bool = False
    check: bool = True


@dataclass(frozen=True)
class LaunchPlan:
    """A launch that has been checked and not yet started.

    Before it, the study has `planned` trials, of which `ended` have ended. `over` tells whether the
    study is finished with these trials, and `stopped_by` is the key of [budget] that ended its
    search early, "" if none. `extension` has the trials of an earlier study that it uses, None if
    it extends none.
    """

    options: LaunchOptions
    file: StudyFile = field(repr=False)
    planned: int
    ended: int
    over: bool
    stopped_by: str
    extension: Extension | None
    pool: WorkerPool = field(repr=False)

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def spec(self) -> StudySpec:
        """The study file with the overrides of the launch."""
        return self.file.spec

    @cached_property
    def spec_hash(self) -> str:
        """The hash that identifies the study."""
        return self.file.hash()

    @property
    def points(self) -> Sequence[Point | None]:
        """The points to try, one per trial; None if the sampler proposes the point."""
        return list(self._points)

    @cached_property
    def sampled(self) -> int:
        """The number of points that the sampler proposes."""
        return sum(point is None for point in self._points)

    @cached_property
    def trials(self) -> int:
        """The total number of trials."""
        # A grid may be smaller than the budget.
        grid = self.spec.sampler.name == "grid"
        return sum(1 for _ in self._points) if grid else self.spec.budget.trials

    @property
    def _points(self) -> Iterator[Point | None]:
        earlier = 0 if self.extension is None else len(self.extension.trials)
        return self.file.points(earlier=earlier)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.over and self.planned == self.trials

    @cached_property
    def job(self) -> JobSpec:
        """The specification of the job that starts one worker."""
        return self.pool.job(self.name, self.spec, self.options)

    @property
    def submission(self) -> str:
        """A text that shows what would be submitted to the executor."""
        return self.pool.executor.preview(self.job, self.pool.workers)


def plan_launch(
    study: "str | Path | Callable[..., Any] | Task",
    /,
    options: LaunchOptions | Mapping[str, Any] | None = None,
    *,
    upgrade: bool = False,
    **keywords: Any,
) -> LaunchPlan:
    """Check a study and return the plan of its launch; write nothing.

    `study` and `keywords` are those of `launch`. With `upgrade`, the tables of an older version of
    sweeper are upgraded, and nothing else is written. Raises `SweeperError` for errors in the study
    or the executor.
    """
    read = read_given(study, options, keywords)
    options, file = read.options, read.file
    check_sqlite_path(options.storage)
    if upgrade and is_older(options.storage):
        open_writer(options.storage).close()
    return LaunchPlan(options, file, *_progress_before(file, options), read.pool)


class GivenStudy(NamedTuple):
    """A study as given to `launch` or `check`, with its options and workers."""

    options: LaunchOptions
    file: StudyFile
    pool: WorkerPool


def read_given(
    study: "str | Path | Callable[..., Any] | Task",
    options: LaunchOptions | Mapping[str, Any] | None,
    keywords: Mapping[str, Any],
) -> GivenStudy:
    """Read and check a study; the arguments are those of `launch`. Write nothing."""
    given, tables = None, dict[str, Any]()
    if options is not None and not isinstance(options, LaunchOptions):
        options, keywords = None, {**keywords, "options": options}
    if not isinstance(study, str | Path):
        given = given_object(study)
        keywords, tables = split_keywords(keywords, LaunchOptions)
        _check_named(tables, given.name)
        tables = {**tables, "task": {**_task_of(tables), "use": given.use}}
    options = with_keywords(options or LaunchOptions(), keywords)
    pool = worker_pool(options, given, detach=options.detach)
    _check_run(options)
    overrides: dict[str, Any] = {
        "trials": options.trials,
        "pack": options.pack,
        "confirm": options.confirm,
    }
    if isinstance(study, str | Path):
        file = read_study(study, **overrides, inspect=pool.inspect)
    else:
        assert given is not None
        file = study_of(tables, given.folder, **overrides, inspect=pool.inspect)
    return GivenStudy(options, file, pool)


def _check_named(tables: Mapping[str, Any], name: str) -> None:
    study = tables.get("study", {})
    if isinstance(study, Mapping) and "name" not in study:
        raise SweeperError(f'name: missing; give the study a name, for example name="{name}"')


def _task_of(tables: Mapping[str, Any]) -> Mapping[str, Any]:
    task = tables.get("task", {})
    if not isinstance(task, Mapping):
        raise SweeperError(
            f"launch: task must be a dict of the keys of [task], for example "
            f'task={{"threads": 2}}, got {toml_value(task)}; the function itself is the first '
            "argument"
        )
    return task


def launch(
    study: "str | Path | Callable[..., Any] | Task",
    /,
    options: LaunchOptions | Mapping[str, Any] | None = None,
    *,
    on_progress: OnProgress | None = None,
    **keywords: Any,
) -> "Study":
    """Run or resume a study, and write its report and best.json.

    `study` is a study file, the name of an example study, a training function, a function that
    returns a `Task`, or a `Task`. `keywords` are fields of `LaunchOptions`, such as `workers=4`.
    With a function or a task, they are also the settings of a study file: its tables as dicts, or
    single keys that only one table has, as in `launch(train, name="mine", space={"lr": [0.1, 1]},
    options={"depth": 3})`; `options` are then those of the function. A function of a notebook or a
    script is sent to workers on this machine and is not stored. Finished trials are not run again.
    `on_progress` is called with the progress; a notebook displays it by default.

    If trials fail, a warning of the logger `sweeper` has the first failure, and the study is
    returned all the same: `study.state` is "failed" if no trial has completed.

    Raises `SweeperError` for errors in the study or the executor, before anything is written.
    Raises KeyboardInterrupt if Ctrl-C or a notebook's stop button ends the launch, after running
    trials are released and the results so far are written.
    """
    planned = plan_launch(study, options, upgrade=True, **keywords)
    display = on_progress or progress_display(planned.name, planned.spec.objective.metric)
    _warn(run_plan(planned, display))
    return _study(planned.name, planned.options.storage)


def run_plan(planned: LaunchPlan, on_progress: OnProgress = lambda _: None) -> "StudySnapshot":
    """Run a planned launch; return a snapshot of the study at its end."""
    options, pool = planned.options, planned.pool
    keep(pool.given)
    with closing(pool.executor):
        pool.executor.check(planned.job, pool.workers)
        file = checked_before_launch(planned)
        with closing(open_writer(options.storage)) as store:
            record = register(store, file, accept_changed=options.accept_code)
            seconds = options.timeout or planned.spec.budget.timeout
            if not options.detach:
                run = replace(options, timeout=seconds)
                return _finish_study(store, record, planned.spec, pool, run, on_progress)
            if pool.executor.traits.outlives_parent and not planned.finished:
                pool.executor.start(with_time_limit(planned.job, seconds), pool.workers)
            from sweeper.snapshot import read_snapshot

            return read_snapshot(store, record.name)


def submit(
    tables: Mapping[str, Any], folders: Sequence[Path], *, storage: str = DEFAULT_STORAGE
) -> "Study":
    """Launch a study from the tables of a study file; existing workers run it.

    Its code must be in one of `folders`, and its first points may not come from an export. Raises
    `SweeperError` with one line per invalid key, before anything is written, and `Conflict` if
    another study has its name.
    """
    file = submitted_study(tables, folders)
    with closing(open_writer(storage)) as store:
        register(store, file)
    return _study(file.name, storage)


def confirm(
    name: str,
    options: RunOptions | None = None,
    *,
    on_progress: OnProgress | None = None,
    **keywords: Any,
) -> "Study":
    """Confirm a study whose search has ended, and write its report and best.json again.

    Completed confirmation runs are not repeated. `keywords` are fields of `RunOptions`. Raises
    `SweeperError`, before anything is written, if the search has not ended or there is nothing to
    confirm.
    """
    options = with_keywords(options or RunOptions(), keywords)
    _warn(run_confirmation(name, options, on_progress or progress_display(name)))
    return _study(name, options.storage)


def retry(
    name: str,
    options: RunOptions | None = None,
    *,
    on_progress: OnProgress | None = None,
    **keywords: Any,
) -> "Study":
    """Run failed and lost trials of a study again, then the rest of the study.

    Each trial keeps its number, configuration and seeds, and counts once in the budget. `keywords`
    are fields of `RunOptions`. Raises `SweeperError`, before anything is written, if there are no
    such trials or if the code of the study has changed.
    """
    options = with_keywords(options or RunOptions(), keywords)
    _warn(run_retry(name, options, on_progress or progress_display(name)))
    return _study(name, options.storage)


def run_retry(
    name: str, options: RunOptions, on_progress: OnProgress = lambda _: None
) -> "StudySnapshot":
    """Run failed and lost trials like `retry`; return a snapshot of the study at the end."""
    from sweeper.api.control import reopen  # late: a launch does not need the worker's modules

    return _run_stored(name, options, on_progress, _check_code, reopen)


def run_confirmation(
    name: str, options: RunOptions, on_progress: OnProgress = lambda _: None
) -> "StudySnapshot":
    """Confirm a study like `confirm`; return a snapshot of the study at the end."""
    from sweeper.api.control import request_confirmation

    return _run_stored(name, options, on_progress, check_confirmable, request_confirmation)


def _check_code(reader: Store, record: StudyRecord, _: StudySpec) -> None:
    """Raise `SweeperError` if the code of a study has changed since it was launched."""
    known = read_revisions(reader, record)[-1].sources
    check_sources(record.name, known, Path(record.folder))


def _run_stored(
    name: str,
    options: RunOptions,
    on_progress: OnProgress,
    check: Callable[[Store, StudyRecord, StudySpec], None],
    prepare: Callable[[str, str], object],
) -> "StudySnapshot":
    """Run the rest of a stored study; return a snapshot at the end.

    `check` raises `SweeperError` before anything is written. `prepare` changes what there is to
    run; its arguments are the name of the study and the storage.
    """
    pool = worker_pool(options)
    _check_run(options)
    with closing(open_reader(options.storage)) as reader:
        record = get_study(reader, name)
        spec = read_stored(record).spec
        given = given_again(spec.task.use, read_revisions(reader, record)[-1].sources)
        if given is not None:
            pool = worker_pool(options, given)
        check(reader, record, spec)
        _check_folder(name, record, options)
    with closing(pool.executor):
        pool.executor.check(pool.job(name, spec, options), pool.workers)
        prepare(name, options.storage)
        with closing(open_writer(options.storage)) as store:
            record = get_study(store, name)
            spec = read_stored(record).spec
            return _finish_study(store, record, spec, pool, options, on_progress)


def _finish_study(
    store: Store,
    record: StudyRecord,
    spec: StudySpec,
    pool: WorkerPool,
    options: RunOptions,
    on_progress: OnProgress,
) -> "StudySnapshot":
    """Run the rest of a study, write its results, and return a snapshot.

    If KeyboardInterrupt ends the run, it is raised again after the results are written.
    """
    interrupt = None
    claim_folder(record, store.location, Path(options.results))
    if not finished(store, record, spec):
        seconds = options.timeout
        run = RunningLaunch(
            store=store,
            record=record,
            trials=spec.budget.trials,
            workers=pool.workers,
            executor=pool.executor,
            job=pool.job(record.name, spec, options),
            deadline=None if seconds is None else time.monotonic() + seconds,
        )
        try:
            with _preload_imports(on_progress) as on_progress_and_import:
                run_launch(run, on_progress_and_import)
        except KeyboardInterrupt as error:
            interrupt = error
    from sweeper.api.write_results import write_results

    with _no_full_collection():
        snapshot = write_results(store, record.name, Path(options.results))
    if interrupt is not None:
        raise interrupt
    return snapshot


@contextmanager
def _preload_imports(on_progress: OnProgress) -> Iterator[OnProgress]:
    """Import the modules for the end of a launch while trials run, once the first has ended.

    The import runs in a thread, so that Ctrl-C cannot interrupt it. The context waits for the
    thread on exit, because two threads that import the same modules may see a partially imported
    one.
    """
    thread = Thread(target=lambda: [import_module(name) for name in _FINAL_MODULES], daemon=True)

    def on_progress_and_import(progress: Progress) -> None:
        if progress.ended and progress.running and thread.ident is None:
            thread.start()
        on_progress(progress)

    try:
        yield on_progress_and_import
    finally:
        if thread.ident is not None:
            thread.join()


@contextmanager
def _no_full_collection() -> Iterator[None]:
    """Collect only new garbage: examining the objects of all imported modules takes 0.2 s."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _warn(study: "StudySnapshot") -> None:
    """Log what went wrong in a run; Python writes warnings to stderr unless logging is set up."""
    for problem in problems(study):
        _log.warning("study %s: %s", study.name, problem)


def _study(name: str, storage: str) -> "Study":
    from sweeper.api.study import Study

    return Study(name, storage)


def _check_run(options: RunOptions) -> None:
    timeout, results = options.timeout, Path(options.results)
    if timeout is not None and not 0 < timeout <= limits.SECONDS:
        raise SweeperError(
            f"timeout: must be a number of seconds above 0 and at most {limits.SECONDS:,}, "
            f"got {timeout:g}"
        )
    parents = (results, *results.absolute().parents)
    existing = next(folder for folder in parents if folder.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        raise SweeperError(
            f"results: {existing} is not a writable directory; choose another with --results"
        )


def _check_folder(name: str, record: StudyRecord | None, options: RunOptions) -> None:
    """Raise `SweeperError` if the results folder belongs to a study in another database."""
    created = None if record is None else record.created
    check_owner(name, created, location_of(parse_url(options.storage)), Path(options.results))


def _progress_before(
    file: StudyFile, options: LaunchOptions
) -> tuple[int, int, bool, str, Extension | None]:
    """Return `planned`, `ended`, `over`, `stopped_by` and `extension` of a plan."""
    extends = file.spec.study.extends
    try:
        reader = open_reader(options.storage)
    except SchemaMissing:
        _check_folder(file.name, None, options)
        if extends is not None:
            raise SweeperError(
                f"study.extends: no study {extends!r} in {options.storage}, which has no studies"
            ) from None
        return 0, 0, False, "", None
    try:
        record = find_study(reader, file.name)
        _check_folder(file.name, record, options)
        if record is None:
            return 0, 0, False, "", find_extension(reader, file)
        check_same(reader, record, file, accept_changed=options.accept_code)
        counts = read_progress(reader, record, file.spec.budget.trials)
        over = finished(reader, record, file.spec)
        stopped_by = early_end(reader, record, file.spec.budget) if over else ""
        extension = stored_extension(reader, record, file.spec)
        return counts.trials, counts.ended, over, stopped_by, extension
    finally:
        reader.close()
