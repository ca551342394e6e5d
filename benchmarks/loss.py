"""The loss beside torch's own, and beside what people write: time and memory of a step.

Claim     With glibc's thresholds raised: at most 1.05 times torch's smoothed loss from 25,000
          logits on; at most 1.3 times hard cross-entropy from 1000 classes on, and below that at
          most 45 µs above it; memory no more than hard cross-entropy's.
Method    Forward and backward on one batch, all methods in turn in each repetition; medians.
          Memory is the peak of what torch's operations hold beside logits and labels, counted
          operation by operation on the CPU and by CUDA's allocator on a GPU. On a GPU times are
          CUDA events over several steps, and beside them stands how long the bytes that have to
          be moved (read logits, write gradients, and read logits again between: 12 a logit in
          float32, 6 in bfloat16) take at the speed of a copy on the same device.
Run       python benchmarks/loss.py [--device cuda] [--quick] [--compiled]
          On the CPU it runs itself twice, with glibc's thresholds at their default and raised.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from sweeper.smoothing import smoothing_loss

EPSILON = 0.1
ROWS, CLASSES = (64, 256, 1024, 4096), (2, 10, 100, 1000, 32_000)
DTYPES = (torch.float32, torch.bfloat16)
MOST_LOGITS = {"cpu": 2**25, "cuda": 2**28}
RAISED = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**33)}
MARK = "SWEEPER_LOSS_THRESHOLDS"

Loss = Callable[[Tensor, Tensor], Tensor]


def timm(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the smoothed loss as timm writes it."""
    log_p = F.log_softmax(logits, dim=-1)
    own = -log_p.gather(-1, labels.unsqueeze(1)).squeeze(1)
    return ((1 - EPSILON) * own + EPSILON * -log_p.mean(-1)).mean()


def soft(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the smoothed loss by soft targets, made for each batch."""
    targets = torch.full_like(logits, EPSILON / logits.shape[1])
    targets.scatter_(1, labels.unsqueeze(1), 1 - EPSILON + EPSILON / logits.shape[1])
    return F.cross_entropy(logits, targets)


def ours(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of this package, in torch's convention."""
    return smoothing_loss(logits, labels, EPSILON, convention="uniform")


def methods(compiled: bool) -> dict[str, Loss]:
    """Return the losses by name."""
    found: dict[str, Loss] = {
        "hard": F.cross_entropy,
        "torch": lambda x, y: F.cross_entropy(x, y, label_smoothing=EPSILON),
        "timm": timm,
        "soft": soft,
        "ours": ours,
    }
    if compiled:
        for name in ("hard", "torch", "ours"):
            found[f"{name} compiled"] = torch.compile(found[name], dynamic=False)
    return found


def batch(rows: int, classes: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """Return logits that want a gradient, and labels."""
    torch.manual_seed(rows + classes)
    logits = torch.randn(rows, classes, device=device).mul_(2).to(dtype).requires_grad_()
    return logits, torch.randint(classes, (rows,), device=device)


def step(loss: Loss, logits: Tensor, labels: Tensor) -> None:
    """Make a forward and a backward pass."""
    logits.grad = None
    loss(logits, labels).backward()  # type: ignore[no-untyped-call]


def _events() -> list[Any]:
    kind: Any = torch.cuda.Event
    return [kind(enable_timing=True) for _ in range(2)]


def seconds_of(loss: Loss, logits: Tensor, labels: Tensor, steps: int) -> float:
    """Return the seconds of a step, as the mean of a few."""
    if logits.is_cuda:
        begin, end = _events()
        begin.record()
        for _ in range(steps):
            step(loss, logits, labels)
        end.record()
        torch.cuda.synchronize()
        return float(begin.elapsed_time(end)) / 1000 / steps
    began = time.perf_counter()
    for _ in range(steps):
        step(loss, logits, labels)
    return (time.perf_counter() - began) / steps


class _Held(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that operations make, for as long as they live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known = set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self._take(tensor)
        return out

    def _take(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known or not storage.nbytes():
            return
        self._known.add(key)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key, storage.nbytes())

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def peak_of(loss: Loss, logits: Tensor, labels: Tensor) -> int:
    """Return the peak of the bytes that a step holds beside logits and labels."""
    logits.grad = None
    if logits.is_cuda:
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step(loss, logits, labels)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    held = _Held()
    held._known.update(t.untyped_storage()._cdata for t in (logits, labels))
    with held:
        step(loss, logits, labels)
    return held.peak


def shapes(quick: bool, device: str) -> Iterator[tuple[torch.dtype, int, int]]:
    """Yield what is measured: type, rows and classes."""
    rows = (64, 1024) if quick else ROWS
    classes = (10, 1000) if quick else CLASSES
    for dtype, n, k in product(DTYPES, rows, classes):
        if n * k <= MOST_LOGITS[device]:
            yield dtype, n, k


def copy_speed() -> float:
    """Return the bytes a second, read and written, of a copy on the GPU."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    begin, end = _events()
    target.copy_(source)
    begin.record()
    for _ in range(10):
        target.copy_(source)
    end.record()
    torch.cuda.synchronize()
    return 2 * source.nbytes * 10 / (float(begin.elapsed_time(end)) / 1000)


def measure(arguments: argparse.Namespace) -> None:
    """Print a line for each shape: microseconds by method, ratios and memory."""
    losses = methods(arguments.compiled)
    speed = copy_speed() if arguments.device == "cuda" else 0.0
    where = torch.cuda.get_device_name() if speed else f"CPU, {torch.get_num_threads()} thread"
    print(f"{where}, torch {torch.__version__}, µs a step (quartiles of ours)", flush=True)
    names = [*losses, "ours/hard", "ours/torch", "memory ours/hard"]
    print("| type | N | K | " + " | ".join(names) + (" | bytes moved |" if speed else " |"))
    print("| --- " * (3 + len(names) + bool(speed)) + "|", flush=True)
    for dtype, rows, classes in shapes(arguments.quick, arguments.device):
        print(_line(losses, dtype, rows, classes, arguments, speed), flush=True)


def _line(
    losses: dict[str, Loss],
    dtype: torch.dtype,
    rows: int,
    classes: int,
    arguments: argparse.Namespace,
    speed: float,
) -> str:
    logits, labels = batch(rows, classes, dtype, arguments.device)
    # As many steps as fit a few milliseconds, so that a small one is not the clock's noise.
    steps = max(1, min(50, 400_000 // (rows * classes)))
    found: dict[str, list[float]] = {name: [] for name in losses}
    for loss in losses.values():
        step(loss, logits, labels)
    for _ in range(arguments.repeats):
        for name, loss in losses.items():
            found[name].append(1e6 * seconds_of(loss, logits, labels, steps))
    median = {name: statistics.median(of) for name, of in found.items()}
    low, _, high = statistics.quantiles(found["ours"], n=4)
    memory = peak_of(ours, logits, labels) / peak_of(F.cross_entropy, logits, labels)
    cells = [f"{median[name]:,.0f}" for name in losses]
    cells[list(losses).index("ours")] += f" ({low:,.0f}-{high:,.0f})"
    cells += [
        f"{median['ours'] / median['hard']:.2f}",
        f"{median['ours'] / median['torch']:.2f}",
        f"{memory:.2f}",
    ]
    if speed:
        cells.append(f"{1e6 * rows * classes * 3 * dtype.itemsize / speed:,.0f}")
    name = str(dtype).removeprefix("torch.")
    return f"| {name} | {rows} | {classes} | " + " | ".join(cells) + " |"


def main() -> None:
    """Measure on a GPU, or on the CPU with glibc's thresholds at their default and raised."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--compiled", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.device != "cpu" or MARK in os.environ:
        measure(arguments)
        return
    for name, thresholds in (("default", {}), ("raised", RAISED)):
        print(f"\nglibc's thresholds: {name}", flush=True)
        env = {**os.environ, **thresholds, MARK: name}
        subprocess.run([sys.executable, *sys.argv], env=env, check=True)


if __name__ == "__main__":
    main()
