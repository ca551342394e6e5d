"""The peak memory of one report with many logits, given in one call, in batches, and as a file.

Claim     In batches, and from an uncompressed file of a script, the memory does not grow with the
          number of examples, except for a few numbers per example.
Method    One process per way. It first scores one batch, and then prints by how much its peak
          memory (VmHWM of Linux) grows while it makes and scores the logits with all scores.
Run       python -m benchmarks.memory [--samples 32768] [--classes 5000] [--quick]
"""

import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.shared.arguments import parse, parser
from benchmarks.shared.tables import markdown_table
from sweeper.scoring import score
from sweeper.training.run import Evaluation
from sweeper.training.scripts.delivered import read_file
from sweeper.training.scripts.evidence import measure_file

BATCH = 256
WAYS = ("one call", "batches", "file")


def batches(samples: int, classes: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield random logits and labels."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(samples // BATCH):
        labels = torch.randint(classes, (BATCH,), generator=generator)
        yield torch.randn(BATCH, classes, generator=generator), labels


def evaluate(way: str, samples: int, classes: int) -> float:
    """Score the logits and return their NLL."""
    parts = batches(samples, classes)
    if way == "file":
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "valid-0001.npz")
            write(path, parts, samples, classes)
            nll = measure_file(read_file(path), None, None, full=True).scores["nll"]
            assert nll is not None
            return nll
    if way == "one call":
        logits, labels = torch.empty(samples, classes), torch.empty(samples, dtype=torch.long)
        for number, part in enumerate(parts):
            rows = slice(number * BATCH, (number + 1) * BATCH)
            logits[rows], labels[rows] = part
        return score(logits, labels).nll
    evaluation = Evaluation(parts, None, 1.0)  # type: ignore[arg-type]
    return score(evaluation.logits, evaluation.labels).nll


def write(path: Path, parts: Iterator[tuple[Tensor, Tensor]], samples: int, classes: int) -> None:
    """Write what np.savez writes, without all logits in memory."""
    labels = np.empty(samples, dtype=np.int64)  # many small arrays would fragment the memory
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("logits.npy", "w", force_zip64=True) as stream:
            header = {"descr": "<f4", "fortran_order": False, "shape": (samples, classes)}
            np.lib.format.write_array_header_1_0(stream, header)
            for number, (logits, targets) in enumerate(parts):
                stream.write(logits.numpy().tobytes())
                labels[number * BATCH : (number + 1) * BATCH] = targets
        with archive.open("labels.npy", "w") as stream:
            np.lib.format.write_array(stream, labels)


def peak_mib() -> int:
    """Return the peak memory of this process, without that of its parent."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) // 1024


def main() -> None:
    """Measure each way in a process of its own and print a table."""
    arguments = parser(__doc__)
    arguments.add_argument("--samples", type=int, default=32768)
    arguments.add_argument("--classes", type=int, default=5000)
    arguments.add_argument("--way", choices=WAYS)
    given = parse(arguments, samples=16 * BATCH, classes=1000)
    torch.set_num_threads(1)
    if given.way:
        score(*next(batches(BATCH, given.classes)))
        before = peak_mib()
        nll = evaluate(given.way, given.samples, given.classes)
        print(nll, peak_mib() - before)
        return
    rows = []
    for way in WAYS:
        sizes = ["--samples", str(given.samples), "--classes", str(given.classes)]
        command = [sys.executable, "-m", "benchmarks.memory", "--way", way, *sizes]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        scored, peak = done.stdout.split()
        rows.append([way, peak, f"{float(scored):.9f}"])
    logits = given.samples * given.classes * 4 / 2**20
    print(f"{given.samples:,} × {given.classes:,} logits, {logits:,.0f} MiB\n")
    print(markdown_table(["way", "peak memory, MiB", "NLL"], rows))


if __name__ == "__main__":
    main()
