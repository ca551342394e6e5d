"""Training loops that do something unusual to their process, each by the name of what it is.

The first trial of a study does it; the others train as usual. `options.mark` is a file that
children write their process id to.
"""

import atexit
import ctypes
import faulthandler
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn.functional import one_hot
from torch.utils.data import DataLoader, Dataset

import sweeper
from sweeper import Evaluation, TrainingRun

LABELS = torch.arange(30) % 3
EPOCHS = 4
METHODS = ("fork", "spawn", "forkserver")


def usual(run: TrainingRun) -> Iterator[Evaluation]:
    """Train a linear model; its bits depend on the default dtype and the gradient mode."""
    return trained(run, EPOCHS)


def trained(run: TrainingRun, epochs: int) -> Iterator[Evaluation]:
    """Train a linear model for so many epochs."""
    torch.manual_seed(run.seed)
    model, loss = torch.nn.Linear(3, 3), run.loss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    inputs = one_hot(LABELS, 3).to(model.weight.dtype)
    for epoch in range(1, epochs + 1):
        loss.progress = (epoch - 1) / epochs
        value = loss(model(inputs), LABELS)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        yield Evaluation(model(inputs).detach(), LABELS, epoch / epochs)


def first(run: TrainingRun) -> bool:
    """Return whether this is the trial with epsilon 0."""
    return run.smoothing.epsilon == 0


def mark(run: TrainingRun) -> Path:
    """Return the file for process ids."""
    return Path(run.options["mark"])


# ---- streams -------------------------------------------------------------------------------


def streams(run: TrainingRun) -> Iterator[Evaluation]:
    """Uses the descriptors of its streams."""
    subprocess.run(["echo", "from a child"], stdout=sys.stdout, check=True)
    faulthandler.enable()
    sys.stdout.buffer.write(b"through the buffer\n")
    print("to stderr", file=sys.stderr)
    os.write(1, b"to the descriptor\n")
    ctypes.CDLL(None).puts(b"from C")
    yield from usual(run)


def closes_stdout(run: TrainingRun) -> Iterator[Evaluation]:
    """Closes its standard output."""
    print("before", flush=True)
    sys.stdout.close()
    os.close(1)
    yield from usual(run)


def prints_much(run: TrainingRun) -> Iterator[Evaluation]:
    """Prints 24 MB."""
    for evaluation in usual(run):
        for _ in range(6):
            print("\n".join(["x" * 1023] * 1024))
            time.sleep(0.2)
        print("the last line")
        yield evaluation


def prints_last(run: TrainingRun) -> Iterator[Evaluation]:
    """Prints 12 MB, and a line after that was shortened."""
    evaluations = usual(run)
    print("\n".join(["x" * 1023] * 12 * 1024))
    yield next(evaluations)
    time.sleep(1.2)
    print("the last line")
    yield from evaluations


def removes_output(run: TrainingRun) -> Iterator[Evaluation]:
    """Removes the file of its output after the first epoch."""
    for epoch, evaluation in enumerate(usual(run), start=1):
        print(f"line of epoch {epoch}")
        yield evaluation
        if epoch == 1:
            Path(f"/proc/self/fd/{sys.stdout.fileno()}").readlink().unlink()


def prints_threads(run: TrainingRun) -> Iterator[Evaluation]:
    """Prints how many threads it is to use, as its environment says."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "SWEEPER_THREADS_SET")
    print([os.environ.get(name) for name in names], torch.get_num_threads())
    yield from usual(run)


def prints_and_waits(run: TrainingRun) -> Iterator[Evaluation]:
    """Prints a line in each epoch; waits for the mark after the first."""
    for epoch, evaluation in enumerate(usual(run), start=1):
        print(f"line of epoch {epoch}")
        yield evaluation
        while not mark(run).exists():
            time.sleep(0.02)


# ---- processes and threads -----------------------------------------------------------------


def square(number: int) -> int:
    """Compute in a child process."""
    return number * number


def pool(run: TrainingRun) -> Iterator[Evaluation]:
    """Uses a pool of processes."""
    for method in METHODS if first(run) else ():
        with multiprocessing.get_context(method).Pool(2) as processes:
            print(method, processes.map(square, range(4)))
    yield from usual(run)


class Rows(Dataset[torch.Tensor]):
    """A data set whose class lives in the task file."""

    def __init__(self, bad: bool = False) -> None:
        self.bad = bad

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        if self.bad:
            raise ValueError(f"row {index} is not readable")
        return torch.tensor(float(index))


def loader(run: TrainingRun) -> Iterator[Evaluation]:
    """Loads its data in processes, started in every way there is."""
    for method in METHODS if first(run) else ():
        rows = DataLoader(Rows(), num_workers=1, multiprocessing_context=method)
        print(method, sum(float(row) for row in rows))
    yield from usual(run)


def bad_loader(run: TrainingRun) -> Iterator[Evaluation]:
    """Fails in a process that loads its data."""
    list(DataLoader(Rows(bad=True), num_workers=1))
    yield from usual(run)


def leaves_processes(run: TrainingRun) -> Iterator[Evaluation]:
    """Leaves a child, a daemon in a session of its own and a thread behind."""
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    child = subprocess.Popen(sleeper)
    daemon = os.fork()
    if daemon == 0:
        os.setsid()
        grandchild = subprocess.Popen(sleeper, start_new_session=True)
        with mark(run).open("a") as stream:
            stream.write(f"{grandchild.pid}\n")
        os._exit(0)
    os.waitpid(daemon, 0)
    with mark(run).open("a") as stream:
        stream.write(f"{child.pid}\n")
    threading.Thread(target=time.sleep, args=(0.2,)).start()
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    yield from usual(run)


def forks(run: TrainingRun) -> Iterator[Evaluation]:
    """Forks a child that goes on with the loop as if it were the trial."""
    os.fork()
    yield from usual(run)


# ---- what a process has one of -------------------------------------------------------------


def no_gradients(run: TrainingRun) -> Iterator[Evaluation]:
    """Leaves another default dtype and no gradients behind."""
    yield from usual(run)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)


def changes_folder(run: TrainingRun) -> Iterator[Evaluation]:
    """Changes its working directory."""
    os.chdir("/")
    os.environ.clear()
    yield from usual(run)


def handles_signals(run: TrainingRun) -> Iterator[Evaluation]:
    """Installs handlers for all signals."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1):
        signal.signal(number, lambda *_: None)
    signal.alarm(60)
    yield from usual(run)


def exits_late(run: TrainingRun) -> Iterator[Evaluation]:
    """Has functions that are called at its end."""
    atexit.register(lambda: mark(run).write_text("called at the end"))
    yield from usual(run)


# ---- ends ----------------------------------------------------------------------------------


def exits_0(run: TrainingRun) -> Iterator[Evaluation]:
    """Ends its process with status 0."""
    for evaluation in usual(run):
        yield evaluation
        if first(run):
            print("leaving", flush=True)
            os._exit(0)


def exits_1(run: TrainingRun) -> Iterator[Evaluation]:
    """Ends its process with status 1."""
    for evaluation in usual(run):
        yield evaluation
        if first(run):
            os._exit(1)


def sys_exits(run: TrainingRun) -> Iterator[Evaluation]:
    """Calls sys.exit."""
    for evaluation in usual(run):
        yield evaluation
        if first(run):
            sys.exit("no more")


def interrupts(run: TrainingRun) -> Iterator[Evaluation]:
    """Raises KeyboardInterrupt."""
    for evaluation in usual(run):
        yield evaluation
        if first(run):
            raise KeyboardInterrupt


def crashes(run: TrainingRun) -> Iterator[Evaluation]:
    """Crashes with a segmentation fault, after it has said so."""
    for evaluation in usual(run):
        yield evaluation
        if first(run):
            print("error: device lost", file=sys.stderr)
            ctypes.string_at(0)


def is_killed(run: TrainingRun) -> Iterator[Evaluation]:
    """Is killed, in each attempt."""
    for evaluation in usual(run):
        yield evaluation
        if first(run):
            print("error: device lost", file=sys.stderr)
            os.kill(os.getpid(), signal.SIGKILL)


def is_terminated(run: TrainingRun) -> Iterator[Evaluation]:
    """Is told to end by somebody, in its first attempt."""
    for evaluation in usual(run):
        yield evaluation
        if first(run) and not mark(run).exists():
            mark(run).touch()
            os.kill(os.getpid(), signal.SIGTERM)


def uses_memory(run: TrainingRun) -> Iterator[Evaluation]:
    """Uses a gigabyte of memory, in a child."""
    for evaluation in usual(run):
        yield evaluation
        if first(run):
            code = "import time; held = b'x' * 2**30; time.sleep(600)"
            subprocess.run([sys.executable, "-c", code], check=True)


def never_reports(run: TrainingRun) -> Iterator[Evaluation]:
    """Does not come to its second report."""
    for evaluation in usual(run):
        yield evaluation
        if first(run):
            time.sleep(600)


# ---- reports -------------------------------------------------------------------------------


def pushes(run: TrainingRun) -> None:
    """Calls run.report instead of yielding."""
    assert sweeper.current_run() is run
    for evaluation in usual(run):
        run.report(
            evaluation.logits.numpy(),
            evaluation.labels.numpy(),
            progress=evaluation.progress,
            train_loss=torch.tensor(0.5),
            extra={"half": 0.5},
        )


def returns_something(run: TrainingRun) -> dict[str, float]:
    """Returns a value that nobody asked for."""
    pushes(run)
    return {"loss": 0.1}


def ignores_stop(run: TrainingRun) -> None:
    """Reports for ever, whatever it is told."""
    evaluation = next(usual(run))
    for number in range(10_000_000):
        try:
            progress = min(0.9, (number + 1) / 100)
            run.report(evaluation.logits, evaluation.labels, progress=progress)
        except Exception as error:
            with mark(run).open("a") as stream:
                stream.write(f"{type(error).__name__}\n")
            time.sleep(0.05)


# ---- to be killed --------------------------------------------------------------------------


def with_child(run: TrainingRun) -> Iterator[Evaluation]:
    """Trains for seconds, with a child in a session of its own beside it."""
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    subprocess.Popen(sleeper, start_new_session=True)
    for number, evaluation in enumerate(trained(run, epochs=10)):
        time.sleep(0.05)
        yield evaluation
        if number == 1:
            mark(run).touch()


def slowly(run: TrainingRun) -> Iterator[Evaluation]:
    """Trains for a second."""
    for evaluation in trained(run, epochs=20):
        time.sleep(0.05)
        yield evaluation


def waits_for_child(run: TrainingRun) -> Iterator[Evaluation]:
    """Waits for a child in its third epoch, until the mark says that it need not."""
    for number, evaluation in enumerate(usual(run)):
        yield evaluation
        if number == 1 and not mark(run).exists():
            mark(run).touch()
            subprocess.run(["sleep", "600"], check=True)


def killed_in_report(run: TrainingRun) -> Iterator[Evaluation]:
    """Is killed at some moment of a report, in its first attempts."""
    tries = len(mark(run).read_text()) if mark(run).exists() else 0
    if first(run) and tries < 3:
        mark(run).write_text("x" * (tries + 1))
        threading.Timer(0.002 * tries, os.kill, (os.getpid(), signal.SIGKILL)).start()
        for number in range(10_000):
            for evaluation in usual(run):
                if number == 0 or evaluation.progress < 1:
                    yield evaluation
    yield from usual(run)
