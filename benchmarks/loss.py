"""Time and memory of a step of the loss, compared with torch's own loss and common alternatives.

Claim     With glibc's malloc thresholds raised: at most 1.05 times torch's smoothed loss from
          25,000 logits; at most 1.3 times hard cross-entropy from 1000 classes, and with fewer
          classes at most 45 µs more; no more memory than hard cross-entropy.
Method    Forward and backward on one batch, all methods in turn in each repetition; medians.
          Memory is the peak of what torch's operations hold in addition to logits and labels,
          counted for each operation on the CPU, and by CUDA's allocator on a GPU. On a GPU, times
          are CUDA events over several steps. A further column has the time that moving the bytes
          takes at the speed of a copy on the same device: read logits, read them again, write
          gradients; 12 bytes per logit in float32, 6 in bfloat16.
Run       python -m benchmarks.loss [--device cuda] [--compiled] [--quick]
          On the CPU it runs itself twice, with glibc's thresholds at their default and raised.
"""

import argparse
import os
import statistics
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.shared.arguments import parse, parser
from benchmarks.shared.tables import markdown_table
from benchmarks.shared.timing import alternate, seconds_of
from sweeper.smoothing import smoothing_loss

EPSILON = 0.1
ROWS, CLASSES = (64, 256, 1024, 4096), (2, 10, 100, 1000, 32_000)
DTYPES = (torch.float32, torch.bfloat16)
MAX_LOGITS = {"cpu": 2**25, "cuda": 2**28}
RAISED = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**33)}
MARK = "SWEEPER_LOSS_THRESHOLDS"

Loss = Callable[[Tensor, Tensor], Tensor]


def timm(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the smoothed loss with the formula of timm."""
    log_p = F.log_softmax(logits, dim=-1)
    own = -log_p.gather(-1, labels.unsqueeze(1)).squeeze(1)
    return ((1 - EPSILON) * own + EPSILON * -log_p.mean(-1)).mean()


def soft(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the smoothed loss with soft targets that are made for each batch."""
    targets = torch.full_like(logits, EPSILON / logits.shape[1])
    targets.scatter_(1, labels.unsqueeze(1), 1 - EPSILON + EPSILON / logits.shape[1])
    return F.cross_entropy(logits, targets)


def ours(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of this package in torch's convention."""
    return smoothing_loss(logits, labels, EPSILON, convention="uniform")


def methods(compiled: bool) -> dict[str, Loss]:
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
    """Return logits that require a gradient, and labels."""
    torch.manual_seed(rows + classes)
    logits = torch.randn(rows, classes, device=device).mul_(2).to(dtype).requires_grad_()
    return logits, torch.randint(classes, (rows,), device=device)


def step(loss: Loss, logits: Tensor, labels: Tensor) -> None:
    """Run a forward and a backward pass."""
    logits.grad = None
    loss(logits, labels).backward()  # type: ignore[no-untyped-call]


def _events() -> list[Any]:
    kind: Any = torch.cuda.Event
    return [kind(enable_timing=True) for _ in range(2)]


def step_microseconds(loss: Loss, logits: Tensor, labels: Tensor, steps: int) -> float:
    """Return the mean time of a few steps."""

    def work() -> None:
        for _ in range(steps):
            step(loss, logits, labels)

    if logits.is_cuda:
        begin, end = _events()
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return 1e3 * float(begin.elapsed_time(end)) / steps
    return 1e6 * seconds_of(work) / steps


class _Held(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that operations allocate and that are still alive."""

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
    """Return the peak of the bytes that a step holds in addition to logits and labels."""
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
    """Yield the shapes that are measured: type, rows and classes."""
    rows = (64, 1024) if quick else ROWS
    classes = (10, 1000) if quick else CLASSES
    for dtype, n, k in product(DTYPES, rows, classes):
        if n * k <= MAX_LOGITS[device]:
            yield dtype, n, k


def copy_speed() -> float:
    """Return the bytes per second, read and written, of a copy on the GPU."""
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


def measure(given: argparse.Namespace) -> None:
    """Print a table with one row per shape: microseconds by method, ratios and memory."""
    losses = methods(given.compiled)
    speed = copy_speed() if given.device == "cuda" else None
    where = torch.cuda.get_device_name() if speed else f"CPU, {torch.get_num_threads()} thread"
    print(f"{where}, torch {torch.__version__}, µs per step (quartiles of ours)", flush=True)
    headings = ["type", "N", "K", *losses, "ours/hard", "ours/torch", "memory ours/hard"]
    rows = []
    for dtype, n, k in shapes(given.quick, given.device):
        logits, labels = batch(n, k, dtype, given.device)
        cells = [str(dtype).removeprefix("torch."), str(n), str(k)]
        cells += measured(losses, logits, labels, given.repeats)
        if speed:
            cells.append(f"{1e6 * 3 * logits.nbytes / speed:,.0f}")
        print(*cells, file=sys.stderr, flush=True)
        rows.append(cells)
    print(markdown_table([*headings, "bytes moved"] if speed else headings, rows), flush=True)


def measured(losses: dict[str, Loss], logits: Tensor, labels: Tensor, repeats: int) -> list[str]:
    """Return the cells of one shape."""
    # Enough steps for a few milliseconds; the clock is too coarse for a single small step.
    steps = max(1, min(50, 400_000 // logits.numel()))
    for loss in losses.values():
        step(loss, logits, labels)
    sides = {
        name: partial(step_microseconds, loss, logits, labels, steps)
        for name, loss in losses.items()
    }
    found = alternate(sides, repeats)
    median = {name: statistics.median(times) for name, times in found.items()}
    low, _, high = statistics.quantiles(found["ours"], n=4)
    memory = peak_of(ours, logits, labels) / peak_of(F.cross_entropy, logits, labels)
    cells = {name: f"{time:,.0f}" for name, time in median.items()}
    cells["ours"] += f" ({low:,.0f} to {high:,.0f})"
    ratios = (median["ours"] / median["hard"], median["ours"] / median["torch"], memory)
    return [*cells.values(), *(f"{ratio:.2f}" for ratio in ratios)]


def main() -> None:
    """Measure on a GPU, or on the CPU with glibc's thresholds at their default and raised."""
    arguments = parser(__doc__)
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--repeats", type=int, default=15)
    arguments.add_argument("--compiled", action="store_true")
    given = parse(arguments, repeats=3)
    torch.set_num_threads(given.threads)
    if given.device != "cpu" or MARK in os.environ:
        measure(given)
        return
    for name, thresholds in (("default", {}), ("raised", RAISED)):
        print(f"\nglibc's thresholds: {name}", flush=True)
        env = {**os.environ, **thresholds, MARK: name}
        command = [sys.executable, "-m", "benchmarks.loss", *sys.argv[1:]]
        subprocess.run(command, env=env, check=True)


if __name__ == "__main__":
    main()
