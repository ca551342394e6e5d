"""A training script that uses `sweeper.current_run()`, alone or on the ranks of torchrun."""

import argparse
import os
import signal
from functools import partial

import torch
import torch.distributed as dist
from softmax import CLASSES, data  # type: ignore[import-not-found]

import sweeper


def split(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, labels = data(name)
    return torch.tensor(inputs, dtype=torch.float32), torch.tensor(labels)


def outputs(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, labels = split("test")
    return inputs @ weights, labels


def misbehave(run: sweeper.TrainingRun, then: str, rank: int) -> None:
    once = run.directory / "killed"
    match then:
        case "kill-0" | "kill-1" if then == f"kill-{rank}" and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        case "segv" if rank == 1:
            os.kill(os.getpid(), signal.SIGSEGV)
        case "files":
            (run.directory / "valid-0001.npz").touch()


def train(run: sweeper.TrainingRun, epochs: int, then: str) -> None:
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    inputs, labels = (part[rank::ranks] for part in split("train"))
    valid, valid_labels = split("valid")
    weights = torch.zeros(5, CLASSES, requires_grad=True)
    loss = run.loss()
    for epoch in range(1, epochs + 1):
        if epoch == 2 and run.smoothing.epsilon:
            misbehave(run, then, rank)
        for step in range(20):
            loss.progress = (epoch - 1 + step / 20) / epochs
            loss(inputs @ weights, labels).backward()
            assert weights.grad is not None
            if ranks > 1:
                dist.all_reduce(weights.grad)
            with torch.no_grad():
                weights -= 0.5 * weights.grad / ranks
            weights.grad = None
        with torch.no_grad():
            logits = valid @ weights * (float(then) if then in ("nan", "inf") else 1.0)
            try:
                run.report(
                    logits,
                    valid_labels,
                    progress=epoch / epochs,
                    splits={"test": partial(outputs, weights)},
                )
            except Exception:
                if not os.environ.get("CATCH"):
                    raise
                return
        print(f"rank {rank} of {ranks}: epoch {epoch}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--then", default="")
    args = parser.parse_args()
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    train(sweeper.current_run(), args.epochs, args.then)
    if dist.is_initialized():
        dist.destroy_process_group()
