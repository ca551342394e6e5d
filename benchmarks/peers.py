"""One sweep by three programs: sweeper, a plain Optuna script, and Ray Tune with OptunaSearch.

Claim     On two cores `sweeper launch` finishes the study "digits" sooner than a plain script of
          two processes on one SQLite file, and far sooner than Ray Tune, and its pick is no worse.
          Where training is all arithmetic, as with `--task cnn`, all take the same time.
Method    Every program is a command, so start-up is included; confirmation is not. All have the
          same task, epochs, budget and space, and two processes of one thread. Each prunes by its
          own default rule (Ray: ASHA), or not at all. The programs run in turn. A ratio is to the
          plain script of the same turn, and the study's seed (split and initial weights) is the
          number of the turn. CPU time is that of all descendants; memory is the peak of the sum of
          their PSS, sampled five times per second. The NLL is that of the test split: the best
          point of each program is trained again from ten seeds that no search used.
Run       python -m benchmarks.peers [--task digits] [--trials 64] [--runs 3] [--only sweeper,plain]
          [--no-pruning] [--quick]; Linux; Ray Tune needs the extra `bench`
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from multiprocessing import Process
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.shared.arguments import names_among, parse, parser
from benchmarks.shared.plain_optuna import suggest_smoothing
from benchmarks.shared.processes import run_measured
from benchmarks.shared.tables import markdown_table, median_range
from benchmarks.shared.tasks import small_cnn
from sweeper.smoothing import SCHEDULES, Smoothing
from sweeper.tasks.digits import digits
from sweeper.training import Task, TrainingRun, train

# Each task, and its name in a study file.
TASKS: dict[str, tuple[Callable[[], Task], str]] = {
    "digits": (digits, "digits"),
    "cnn": (small_cnn.small_cnn, f"{small_cnn.__file__}:small_cnn"),
}
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
FIRST_FRESH = 1000
Point = Mapping[str, Any]


class Job(NamedTuple):
    """The sweep that a program runs, and the folder that it runs in."""

    task: str
    trials: int
    seed: int
    pruning: bool
    folder: Path

    @property
    def storage(self) -> str:
        """The URL of the database."""
        return f"sqlite:///{self.folder}/peers.db"


class Found(NamedTuple):
    """The best point of a search, and the number of epochs of all its trials."""

    point: Point
    epochs: int


class Figures(NamedTuple):
    """What one command took (seconds, trials per hour, MiB) and what it found."""

    wall: float
    cpu: float
    hour: float
    memory: float
    epochs: float
    nll: float


class Program(NamedTuple):
    """A row of the table: its command, and the function that reads the result."""

    name: str
    command: Callable[[Job], list[str]]
    found: Callable[[Job], Found]


# ---- the training that all programs share ------------------------------------------------


def task_of(job: Job) -> Task:
    return TASKS[job.task][0]()


def nll(logits: Tensor, labels: Tensor) -> float:
    """Return the mean negative log-likelihood."""
    return functional.cross_entropy(logits, labels).item()


def losses(task: Task, smoothing: Smoothing, seed: int) -> Iterator[float]:
    """Train a configuration and yield the validation NLL of every epoch."""
    for evaluation in train(task, TrainingRun(smoothing, seed, seed)):
        yield nll(evaluation.logits, evaluation.labels)


def confirmed(task: Task, point: Point, data_seed: int, seeds: int) -> float:
    """Return the mean test NLL of a point over fresh seeds."""
    found = []
    for seed in range(FIRST_FRESH, FIRST_FRESH + seeds):
        *_, last = train(task, TrainingRun(Smoothing(**point), seed, data_seed))
        found.append(nll(*last.splits["test"]()))
    return statistics.mean(found)


# ---- sweeper -----------------------------------------------------------------------------


def launch(job: Job, *options: str) -> list[str]:
    """Write the study file; return the command that runs it."""
    use = TASKS[job.task][1]
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
    """Search in two processes with half of the trials each."""
    import optuna

    # Created before the processes start: of two that create the tables at once, one fails.
    optuna.create_study(study_name="peers", storage=job.storage)
    share = [job.trials // 2, job.trials - job.trials // 2]
    processes = [Process(target=optimize, args=(job, trials)) for trials in share]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        sys.exit("a process failed")


def optimize(job: Job, trials: int) -> None:
    """Run so many trials in this process."""
    import optuna

    task = task_of(job)

    def objective(trial: optuna.Trial) -> float:
        smoothing, loss = suggest_smoothing(trial), float("nan")
        for epoch, loss in enumerate(losses(task, smoothing, job.seed)):
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
    """Search with Ray Tune as in its documentation, and write the result to a file."""
    tune = import_module("ray.tune")
    asha = import_module("ray.tune.schedulers").ASHAScheduler
    optuna_search = import_module("ray.tune.search.optuna").OptunaSearch

    def trainable(point: Point) -> None:
        for loss in losses(task_of(job), Smoothing(**point), job.seed):
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
    """Return the environment of a command: one thread, and temporary files in its folder."""
    ours = {"OMP_NUM_THREADS": "1", "RAY_TMPDIR": str(folder), "RAY_USAGE_STATS_ENABLED": "0"}
    return {**os.environ, **ours}


def figures(program: Program, job: Job, seeds: int) -> Figures:
    """Run a program and return its figures; the NLL is a mean over so many fresh seeds."""
    command, env = program.command(job), environment(job.folder)
    used = run_measured(command, job.folder / "log", env=env)
    found = program.found(job)
    nll = math.nan
    if job.task == "digits":
        nll = confirmed(task_of(job), found.point, job.seed, seeds)
    hour = 3600 * job.trials / used.wall
    return Figures(used.wall, used.cpu, hour, used.memory, found.epochs, nll)


def turns(given: argparse.Namespace) -> Iterator[dict[str, Figures]]:
    """Yield the figures of each turn by program."""
    for seed in range(given.runs):
        turn = {}
        for name in given.only:
            with tempfile.TemporaryDirectory() as folder:
                job = Job(given.task, given.trials, seed, not given.no_pruning, Path(folder))
                turn[name] = figures(PROGRAMS[name], job, given.fresh_seeds)
            print(name, turn[name], file=sys.stderr, flush=True)
        yield turn


# ---- printing ----------------------------------------------------------------------------

COLUMNS = ("wall, s", "CPU, s", "trials per hour", "PSS, MiB", "epochs", "NLL")
FORMS = ("{:.1f}", "{:.1f}", "{:,.0f}", "{:,.0f}", "{:,.0f}", "{:.4f}")


def rows(of: Mapping[str, list[Figures]], forms: Sequence[str]) -> str:
    """Return a table with one row per program, from its figures in every turn."""
    return markdown_table(
        ["", *COLUMNS],
        [
            [
                PROGRAMS[name].name,
                *(
                    "" if any(map(math.isnan, values)) else median_range(values, form)
                    for values, form in zip(zip(*turns, strict=True), forms, strict=True)
                ),
            ]
            for name, turns in of.items()
        ],
    )


def table(done: list[dict[str, Figures]]) -> str:
    """Return the figures, and their ratios to the plain script of the same turn."""
    names = list(done[0])
    text = rows({name: [turn[name] for turn in done] for name in names}, FORMS)
    if "plain" in names and len(names) > 1:
        ratios = {name: [ratio(turn[name], turn["plain"]) for turn in done] for name in names}
        del ratios["plain"]
        text += "\n\n" + rows(ratios, ["{:.2f}"] * len(FORMS))
    return text


def ratio(mine: Figures, base: Figures) -> Figures:
    return Figures(*(a / b for a, b in zip(mine, base, strict=True)))


def without_missing(names: list[str]) -> list[str]:
    """Return the names without Ray Tune if it is not installed, and print that it is skipped."""
    try:
        import_module("ray.tune")
    except ImportError:
        if "ray" in names:
            print("skipped: Ray Tune is not installed")
        return [name for name in names if name != "ray"]
    return names


def main() -> None:
    """Measure and print the tables, or run one of the scripts."""
    arguments = parser(__doc__)
    arguments.add_argument("--task", choices=TASKS, default="digits")
    arguments.add_argument("--trials", type=int, default=64)
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("--only", type=names_among(list(PROGRAMS)), default=list(PROGRAMS))
    arguments.add_argument("--no-pruning", action="store_true")
    arguments.add_argument("--fresh-seeds", type=int, default=10, help="for the NLL of a pick")
    arguments.add_argument("--script", choices=SCRIPTS, help=argparse.SUPPRESS)
    arguments.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    given = parse(arguments, trials=2, runs=1, only=["sweeper", "plain", "ray"], fresh_seeds=1)
    torch.set_num_threads(1)
    if given.script:
        folder = Path(given.job["folder"])
        SCRIPTS[given.script](Job(**given.job | {"folder": folder}))
        return
    if given.quick:
        given.only = without_missing(given.only)
    print(table(list(turns(given))))


if __name__ == "__main__":
    main()
