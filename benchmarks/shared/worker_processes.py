"""Many workers at once: processes forked from this one, with the steps of each trial timed."""

import functools
import gc
import multiprocessing
import pickle
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from multiprocessing.context import ForkProcess
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple

import optuna
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from torch.nn import functional

from benchmarks.shared.plain_optuna import suggest_smoothing
from benchmarks.shared.tasks import surface
from sweeper.store.database import open_writer
from sweeper.training.run import TrainingRun
from sweeper.worker import attempt, search, worker
from sweeper.worker.served_studies import WorkerOptions
from sweeper.worker.stopping import StopRequest
from sweeper.worker.worker import work

# A worker that takes longer to open the database has died.
OPEN_SECONDS: Final = 10.0
LIMIT_SECONDS: Final = 300.0
# The functions that are timed, by the module that calls them, and the step each belongs to.
STEPS: Final[tuple[tuple[ModuleType, str, str], ...]] = (
    (worker, "claim", "claim"),
    (search, "_trial_of", "ask"),
    (search, "write_result", "tell"),
    (search, "tell", "tell"),
    (attempt, "close_ticket", "tell"),
)


class Timing(NamedTuple):
    """When a trial was claimed and closed (monotonic clock), and the seconds of its steps."""

    began: float
    ended: float
    claim: float
    ask: float
    tell: float

    @property
    def between(self) -> float:
        """The seconds of training, scores, epochs and pruning: neither claim nor ask nor tell."""
        return self.ended - self.began - self.claim - self.ask - self.tell


class WorkerResult(NamedTuple):
    """What one worker did; `errors` are failed calls after which it went on."""

    timings: list[Timing]
    errors: list[str]


@dataclass(frozen=True)
class WorkerResults:
    """What all workers did; `failed` counts the workers that ended with an error, by reason."""

    seconds: float
    done: list[WorkerResult]
    failed: Counter[str]

    @property
    def timings(self) -> list[Timing]:
        """The timings of all trials."""
        return [timing for done in self.done for timing in done.timings]

    @property
    def errors(self) -> Counter[str]:
        """The number of failed calls, by reason."""
        return Counter(error for done in self.done for error in done.errors)

    @property
    def rate(self) -> float:
        """Trials per second, from the first claim to the last close."""
        timings = self.timings
        if not timings:
            return 0.0
        return len(timings) / (max(t.ended for t in timings) - min(t.began for t in timings))


# Opens the database, calls its argument to wait for the other workers, and works.
Job = Callable[[Callable[[], None]], WorkerResult]


def run_workers(
    workers: int, job: Job, folder: Path, limit: float = LIMIT_SECONDS
) -> WorkerResults:
    """Run a job in processes that are forked from this one and begin together.

    Those that take longer than `limit` seconds hang, and are killed. Their reports are written to
    `folder`. For a worker that dies without a report, its exit status is the reason.
    """
    context = multiprocessing.get_context("fork")
    opened, begin = context.Semaphore(0), context.Event()

    def meet() -> None:
        opened.release()
        begin.wait()

    reports = [folder / f"worker-{number}.pickle" for number in range(workers)]
    gc.collect()
    gc.freeze()  # so that the children share these pages
    processes = [context.Process(target=_reported, args=(job, meet, path)) for path in reports]
    for process in processes:
        process.start()
    for _ in processes:
        opened.acquire(timeout=OPEN_SECONDS)
    began = time.monotonic()
    begin.set()
    ends = [_end(process, began + limit) for process in processes]
    seconds = time.monotonic() - began
    gc.unfreeze()
    told = [_read(path, end) for path, end in zip(reports, ends, strict=True)]
    return WorkerResults(
        seconds,
        [done for done in told if isinstance(done, WorkerResult)],
        Counter(reason for reason in told if isinstance(reason, str)),
    )


def _reported(job: Job, meet: Callable[[], None], path: Path) -> None:
    told: WorkerResult | str
    try:
        told = job(meet)
    except Exception as error:
        told = _reason(error)
    path.write_bytes(pickle.dumps(told))


def _end(process: ForkProcess, deadline: float) -> str:
    """Wait for a worker; return how it ended."""
    process.join(max(0.0, deadline - time.monotonic()))
    if process.is_alive():
        process.kill()
        process.join()
        return "killed: it took too long"
    return f"exit status {process.exitcode}"


def _read(path: Path, end: str) -> WorkerResult | str:
    told: WorkerResult | str = pickle.loads(path.read_bytes()) if path.exists() else end
    path.unlink(missing_ok=True)
    return told


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def sweeper_worker(storage: str, options: WorkerOptions) -> Job:
    def job(meet: Callable[[], None]) -> WorkerResult:
        store, watch = open_writer(storage), _Stopwatch()
        meet()
        work(store, options, StopRequest())
        store.close()
        return WorkerResult(watch.timings(), [])

    return job


class _Stopwatch:
    """Wraps the functions in `STEPS` in this process until it ends."""

    def __init__(self) -> None:
        self._trials: list[dict[str, float]] = []
        for module, name, step in STEPS:
            setattr(module, name, self._timed(getattr(module, name), step))

    def timings(self) -> list[Timing]:
        """Return the timings of the trials that ended."""
        return [
            Timing(t["began"], t["ended"], t["claim"], t["ask"], t["tell"])
            for t in self._trials
            if t["tell"]
        ]

    def _timed(self, function: Callable[..., Any], step: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.monotonic()
            if step == "claim":
                self._trials.append(defaultdict(float, began=began))
            result = function(*args, **kwargs)
            ended = time.monotonic()
            trial = self._trials[-1]
            trial[step] += ended - began
            trial["ended"] = ended
            return result

        return timed


def create_plain(storage: str) -> None:
    """Create the tables and the study of plain workers, before they start."""
    optuna.create_study(study_name="plain", storage=_plain_storage(storage))


def plain_worker(storage: str, trials: int) -> Job:
    """Return the job of one process of a plain Optuna script: ask, suggest, tell.

    It stores no epochs and prunes nothing. A failed call ends its trial, but not the process.
    """

    def job(meet: Callable[[], None]) -> WorkerResult:
        opened = _plain_storage(storage)
        sampler = TPESampler(multivariate=True)
        study = optuna.load_study(study_name="plain", storage=opened, sampler=sampler)
        meet()
        done = WorkerResult([], [])
        for _ in range(trials):
            try:
                done.timings.append(_plain_trial(study))
            except Exception as error:
                done.errors.append(_reason(error))
                opened.remove_session()
        return done

    return job


def _plain_storage(storage: str) -> RDBStorage:
    sqlite = storage.startswith("sqlite")
    return RDBStorage(storage, {"connect_args": {"timeout": 60}} if sqlite else None)


def _plain_trial(study: optuna.Study) -> Timing:
    began = time.monotonic()
    trial = study.ask()
    smoothing = suggest_smoothing(trial)
    asked = time.monotonic()
    with redirect_stdout(StringIO()):
        *_, last = surface.train(TrainingRun(smoothing, 0, 0))
    nll = functional.cross_entropy(last.logits, last.labels).item()
    trained = time.monotonic()
    study.tell(trial, nll)
    ended = time.monotonic()
    return Timing(began, ended, 0.0, asked - began, ended - trained)
