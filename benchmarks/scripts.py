"""The time of a trial of a script, compared with the script alone.

Claim     A trial takes at most 1.2 times as long as the script alone, if that takes a few seconds.
Method    The script trains an MLP on digits, writes its logits after each epoch, and does not
          import sweeper. Alone, it runs once per trial, one after another. The study runs the same
          number of trials in one slot of a worker, in this process, with an SQLite file and without
          pruning. Both sides use one thread and alternate, because a machine's speed drifts.
          `worker` includes the start of the worker's processes, once per study; `trial` is the mean
          time between the ends of two trials, so it does not. Load is the number of runnable
          processes in the last minute, before each round; ours adds one.
Run       python -m benchmarks.scripts [--trials 8] [--rounds 3] [--epochs 30] [--quick]
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.shared.arguments import parse, parser
from benchmarks.shared.timing import alternate
from sweeper.api import Study
from sweeper.store.database import open_writer
from sweeper.study.load import read_study
from sweeper.study.registration import register
from sweeper.worker.served_studies import WorkerOptions
from sweeper.worker.stopping import StopRequest
from sweeper.worker.worker import work

SCRIPT = Path(__file__).parent / "shared" / "tasks" / "script_digits.py"
STUDY = """
[study]
name = "scripts"
[task]
program = "script_digits.py"
options = {{ epochs = {epochs} }}
[budget]
trials = {trials}
[sampler]
name = "random"
[pruner]
name = "none"
[confirm]
enabled = false
"""


class Seconds(NamedTuple):
    """Seconds per trial: the whole run divided by the trials, and without the start."""

    whole: float
    trial: float
    load: float


def alone(trials: int, epochs: int) -> Seconds:
    """Run the script without sweeper."""
    load, began = os.getloadavg()[0], time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(trials):
            variables = {
                "SWEEPER_DIR": folder,
                "SWEEPER_SEED": "0",
                "SWEEPER_EPSILON": str(0.4 * number / trials),
                "OMP_NUM_THREADS": "1",
            }
            subprocess.run(
                [sys.executable, str(SCRIPT), f"--epochs={epochs}"],
                env={**os.environ, **variables},
                check=True,
            )
    seconds = (time.perf_counter() - began) / trials
    return Seconds(seconds, seconds, load)


def study(trials: int, epochs: int) -> Seconds:
    """Run a study of the script with one worker in this process."""
    with tempfile.TemporaryDirectory() as name:
        folder, load = Path(name), os.getloadavg()[0]
        shutil.copy(SCRIPT, folder)
        file = folder / "study.toml"
        file.write_text(STUDY.format(trials=trials, epochs=epochs))
        storage = f"sqlite:///{folder}/study.db"
        store = open_writer(storage)
        record = register(store, read_study(file))
        began = time.perf_counter()
        work(store, WorkerOptions(record.name, folder, slots=1), StopRequest())
        seconds = (time.perf_counter() - began) / trials
        frame = Study(record.name, storage).frame().sort_values("finished")
        store.close()
        assert set(frame["state"]) == {"complete"}, frame["failure"].tolist()
        between = frame["finished"].diff().dt.total_seconds().dropna()
        return Seconds(seconds, float(between.mean()), load)


def main() -> None:
    """Alternate both sides and print the ratio of each round."""
    arguments = parser(__doc__)
    arguments.add_argument("--trials", type=int, default=8)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--epochs", type=int, default=30)
    given = parse(arguments, trials=2, rounds=1, epochs=2)
    sides = {"alone": alone, "study": study}
    calls = {name: partial(side, given.trials, given.epochs) for name, side in sides.items()}
    results = alternate(calls, given.rounds)
    print(f"seconds per trial, {given.trials} trials, {os.cpu_count()} cores:")
    ratios = []
    for script, ours in zip(results["alone"], results["study"], strict=True):
        ratios.append(ours.trial / script.trial)
        print(
            f"alone {script.trial:5.2f}, worker {ours.whole:5.2f}, trial {ours.trial:5.2f}: ratio "
            f"{ours.whole / script.trial:.2f} and {ratios[-1]:.2f}, difference "
            f"{ours.trial - script.trial:+.2f} s, load {script.load:.1f} and {ours.load:.1f}"
        )
    print(f"median ratio of a trial: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
