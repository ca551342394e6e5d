"""One sweep as three programs: this one, a plain Optuna script, and Ray Tune with OptunaSearch.

Claim     On two cores `sweeper launch` is through the study "digits" sooner than a plain script of
          two processes on one SQLite file, and far sooner than Ray Tune, for no worse a pick; where
          training is all arithmetic, as `--task cnn`, all take the same time.
Method    Every program is a command: start-up is in it, confirmation is not. Same task, epochs,
          budget, space and two processes of one thread; each prunes by its own rule as it comes
          (Ray: ASHA), or not at all. The programs take turns; a ratio is to the plain script of the
          same turn, and the study's seed, so split and start, is the turn's number. CPU time is
          that of all descendants; memory is the sum of their resident sets, pages that they share
          counted for each, five times a second. The NLL is of the test split, the best point of
          each trained again from ten seeds that no search used.
Run       python -m benchmarks.peers [--task digits] [--trials 64] [--runs 3] [--only sweeper,plain]
          [--no-pruning]; Linux; Ray Tune needs the extra `bench`
"""

import argparse
import ctypes
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from multiprocessing import Process
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import packs
from sweeper.smoothing import SCHEDULES, Smoothing
from sweeper.training import Task, TrainingRun, train

TASKS = {"digits": "digits MLP", "cnn": "small CNN"}
STUDY = """
[study]
name = "peers"
seed = {seed}
[task]
use = "{use}"
[budget]
trials = {trials}
[pruner]
name = "{pruner}"
"""
FRESH = range(1000, 1010)
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER
Point = Mapping[str, Any]


class Job(NamedTuple):
    """What a program is to do, and the folder that it does it in."""

    task: str
    trials: int
    seed: int
    pruning: bool
    folder: Path

    @property
    def storage(self) -> str:
        """The database's URL."""
        return f"sqlite:///{self.folder}/peers.db"


class Found(NamedTuple):
    """The best point of a search, and over how many epochs its trials went."""

    point: Point
    epochs: int


class Figures(NamedTuple):
    """What one command took, in seconds and MiB, and what it found."""

    wall: float
    cpu: float
    hour: float
    memory: float
    epochs: float
    nll: float


class Program(NamedTuple):
    """A row of the table: its command, and how to read the result."""

    name: str
    command: Callable[[Job], list[str]]
    found: Callable[[Job], Found]


# ---- the training that all share ---------------------------------------------------------


def task_of(job: Job) -> Task:
    """Return the task."""
    return packs.TASKS[TASKS[job.task]]()


def nll(logits: Tensor, labels: Tensor) -> float:
    """Return the mean negative log-likelihood."""
    return functional.cross_entropy(logits, labels).item()


def losses(task: Task, point: Point, seed: int) -> Iterator[float]:
    """Train a point and yield the validation NLL of every epoch."""
    for evaluation in train(task, TrainingRun(Smoothing(**point), seed, seed)):
        yield nll(evaluation.logits, evaluation.labels)


def confirmed(task: Task, point: Point, data_seed: int) -> float:
    """Return a point's mean test NLL over the fresh seeds."""
    found = []
    for seed in FRESH:
        *_, last = train(task, TrainingRun(Smoothing(**point), seed, data_seed))
        found.append(nll(*last.splits["test"]()))
    return statistics.mean(found)


# ---- this program ------------------------------------------------------------------------


def launch(job: Job, *options: str) -> list[str]:
    """Return the one command that does all."""
    use = "digits"
    if job.task == "cnn":
        use = "task.py:images_task"
        source = Path(packs.__file__).read_text()
        task = f"\nimages_task = TASKS[{TASKS[job.task]!r}]()\n"
        (job.folder / "task.py").write_text(source + task)
    file = job.folder / "study.toml"
    pruner = "median" if job.pruning else "none"
    file.write_text(STUDY.format(seed=job.seed, use=use, trials=job.trials, pruner=pruner))
    said = ["--workers", "2", "--no-confirm", "--storage", job.storage]
    said += ["--results", str(job.folder / "results")]
    return [sys.executable, "-m", "sweeper", "launch", str(file), *said, *options]


def found_by_launch(job: Job) -> Found:
    """Read the result from the database."""
    from sweeper.api import Study

    study = Study("peers", job.storage)
    best = study.best
    assert best is not None
    return Found({key: best[key] for key in ("epsilon", "schedule", "rate")}, len(study.epochs()))


# ---- the plain script --------------------------------------------------------------------


def plain(job: Job) -> None:
    """Search in two processes, half of the trials each, as people write it."""
    import optuna

    # made before there are two: of two that make the tables at once, one dies
    optuna.create_study(study_name="peers", storage=job.storage)
    share = [job.trials // 2, job.trials - job.trials // 2]
    processes = [Process(target=optimise, args=(job, trials)) for trials in share]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        sys.exit("a process failed")


def optimise(job: Job, trials: int) -> None:
    """Run so many trials in this process."""
    import optuna

    task = task_of(job)

    def objective(trial: optuna.Trial) -> float:
        point = {
            "epsilon": trial.suggest_float("epsilon", 0.0, 0.4),
            "schedule": trial.suggest_categorical("schedule", list(SCHEDULES)),
            "rate": trial.suggest_float("rate", 0.3, 12.0, log=True),
        }
        loss = float("nan")
        for epoch, loss in enumerate(losses(task, point, job.seed)):
            trial.report(loss, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return loss

    pruner = optuna.pruners.MedianPruner() if job.pruning else optuna.pruners.NopPruner()
    study = optuna.load_study(study_name="peers", storage=job.storage, pruner=pruner)
    study.optimize(objective, trials)


def found_by_plain(job: Job) -> Found:
    """Read the result from the database."""
    import optuna

    study = optuna.load_study(study_name="peers", storage=job.storage)
    return Found(study.best_params, sum(len(trial.intermediate_values) for trial in study.trials))


# ---- Ray Tune ----------------------------------------------------------------------------


def ray(job: Job) -> None:
    """Search with Ray Tune and leave the result in a file, as its documentation has it."""
    tune = import_module("ray.tune")
    asha = import_module("ray.tune.schedulers").ASHAScheduler
    optuna_search = import_module("ray.tune.search.optuna").OptunaSearch

    def trainable(point: Point) -> None:
        for loss in losses(task_of(job), point, job.seed):
            tune.report({"nll": loss})

    import_module("ray").init(num_cpus=2)
    tuner = tune.Tuner(
        trainable,
        param_space={
            "epsilon": tune.uniform(0.0, 0.4),
            "schedule": tune.choice(list(SCHEDULES)),
            "rate": tune.loguniform(0.3, 12.0),
        },
        tune_config=tune.TuneConfig(
            metric="nll",
            mode="min",
            search_alg=optuna_search(),
            scheduler=asha(max_t=task_of(job).epochs) if job.pruning else None,
            num_samples=job.trials,
            max_concurrent_trials=2,
        ),
        run_config=tune.RunConfig(storage_path=str(job.folder), verbose=0),
    )
    results = tuner.fit()
    best = results.get_best_result()
    epochs = sum(result.metrics["training_iteration"] for result in results)
    (job.folder / "ray.json").write_text(json.dumps(Found(best.config, epochs)))


def found_by_ray(job: Job) -> Found:
    """Read the result from the file."""
    return Found(*json.loads((job.folder / "ray.json").read_text()))


# ---- measuring ---------------------------------------------------------------------------


PROGRAMS = {
    "sweeper": Program("sweeper", launch, found_by_launch),
    "off": Program("sweeper, pack off", lambda job: launch(job, "--pack", "off"), found_by_launch),
    "plain": Program("plain Optuna", lambda job: script("plain", job), found_by_plain),
    "ray": Program("Ray Tune", lambda job: script("ray", job), found_by_ray),
}
SCRIPTS = {"plain": plain, "ray": ray}


def script(name: str, job: Job) -> list[str]:
    """Return the command that runs one of the scripts in this file."""
    said = json.dumps(job._asdict() | {"folder": str(job.folder)})
    return [sys.executable, "-m", "benchmarks.peers", "--script", name, "--job", said]


def environment(folder: Path) -> dict[str, str]:
    """Return what every command runs under: one thread, and nothing left outside its folder."""
    ours = {"OMP_NUM_THREADS": "1", "RAY_TMPDIR": str(folder), "RAY_USAGE_STATS_ENABLED": "0"}
    return {**os.environ, **ours}


class Watch(threading.Thread):
    """Follows the descendants of this process: their memory at its peak, and their seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.over = threading.Event()
        self.peak = 0
        self.seconds: dict[psutil.Process, float] = {}

    def run(self) -> None:
        """Look five times a second until told to end."""
        while not self.over.wait(0.2):
            self.peak = max(self.peak, sum(map(self.look, psutil.Process().children(True))))

    def look(self, process: psutil.Process) -> int:
        """Note a process's seconds and return the bytes that it holds."""
        with suppress(psutil.NoSuchProcess), process.oneshot():
            used = process.cpu_times()
            self.seconds[process] = used.user + used.system
            return int(process.memory_info().rss)
        return 0


def reap_orphans() -> None:
    """Wait for what a command left behind: the next is not to run beside it."""
    with suppress(ChildProcessError):
        while True:
            os.wait()


def spent() -> float:
    """Return the processor seconds of all descendants that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measured(program: Program, job: Job) -> tuple[float, float, int]:
    """Run a program's command; return wall seconds, processor seconds and peak memory."""
    log, before, watch = job.folder / "log", spent(), Watch()
    command = program.command(job)
    watch.start()
    began = time.perf_counter()
    with log.open("w") as file:
        ended = subprocess.run(command, env=environment(job.folder), stdout=file, stderr=file)
    wall = time.perf_counter() - began
    watch.over.set()
    watch.join()
    reap_orphans()
    if ended.returncode:
        sys.exit(f"{program.name} failed:\n{log.read_text()[-2000:]}")
    # getrusage sees a sixth of Ray's time: no parent waits for the workers
    return wall, max(spent() - before, sum(watch.seconds.values())), watch.peak


def figures(program: Program, job: Job) -> Figures:
    """Run a program and return its figures."""
    wall, cpu, memory = measured(program, job)
    found = program.found(job)
    again = confirmed(task_of(job), found.point, job.seed) if job.task == "digits" else float("nan")
    hour = 3600 * job.trials / wall
    return Figures(wall, cpu, hour, memory / 2**20, found.epochs, again)


def turns(names: list[str], arguments: argparse.Namespace) -> Iterator[dict[str, Figures]]:
    """Yield the figures of each turn by program."""
    for seed in range(arguments.runs):
        turn = {}
        for name in names:
            with tempfile.TemporaryDirectory() as folder:
                pruning = not arguments.no_pruning
                job = Job(arguments.task, arguments.trials, seed, pruning, Path(folder))
                turn[name] = figures(PROGRAMS[name], job)
            print(name, turn[name], file=sys.stderr, flush=True)
        yield turn


# ---- printing ----------------------------------------------------------------------------

COLUMNS = ("wall, s", "CPU, s", "trials an hour", "memory, MiB", "epochs", "NLL")
FORMS = ("{:.1f}", "{:.1f}", "{:,.0f}", "{:,.0f}", "{:,.0f}", "{:.4f}")


def cell(values: Sequence[float], form: str) -> str:
    """Return the median with the lowest and the highest, "" where nothing was confirmed."""
    if any(map(math.isnan, values)):
        return ""
    middle, low, high = (form.format(f(values)) for f in (statistics.median, min, max))
    return f"{middle} ({low}–{high})"


def rows(of: Mapping[str, list[Figures]], forms: Sequence[str]) -> Iterator[str]:
    """Yield the lines of a table, each from the figures of every turn."""
    yield f"| | {' | '.join(COLUMNS)} |"
    yield f"|{' --- |' * (1 + len(COLUMNS))}"
    for name, turns in of.items():
        cells = [
            cell(each, form) for each, form in zip(zip(*turns, strict=True), forms, strict=True)
        ]
        yield f"| {PROGRAMS[name].name} | {' | '.join(cells)} |"


def table(done: list[dict[str, Figures]]) -> str:
    """Return figures, and ratios to the plain script of the same turn."""
    names = list(done[0])
    lines = list(rows({name: [turn[name] for turn in done] for name in names}, FORMS))
    if "plain" in names:
        ratios = {name: [ratio(turn[name], turn["plain"]) for turn in done] for name in names}
        del ratios["plain"]
        lines += ["", *rows(ratios, ["{:.2f}"] * len(FORMS))]
    return "\n".join(lines)


def ratio(mine: Figures, base: Figures) -> Figures:
    """Return one in parts of the other."""
    return Figures(*(a / b for a, b in zip(mine, base, strict=True)))


def main() -> None:
    """Measure and print, or be one of the scripts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=TASKS, default="digits")
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default=",".join(PROGRAMS))
    parser.add_argument("--no-pruning", action="store_true")
    parser.add_argument("--script", choices=SCRIPTS, help=argparse.SUPPRESS)
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.script:
        folder = Path(arguments.job["folder"])
        return SCRIPTS[arguments.script](Job(**arguments.job | {"folder": folder}))
    ctypes.CDLL(None).prctl(SUBREAPER, 1)
    print(table(list(turns(arguments.only.split(","), arguments))))
    return None


if __name__ == "__main__":
    main()
