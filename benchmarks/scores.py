"""The time of the scores of one evaluation, compared with the scores that torchmetrics has.

Claim     For 10,000 × 1,000 logits, all scores in full, including three fitted temperatures, take
          less time than torchmetrics needs for the four that it has. The scores of an epoch (nll,
          accuracy, brier, ece) take less than a fifth of that.
Method    One process, one thread. The sides run in turn, because a machine's speed drifts, and
          their medians are compared: only ratios within one run are meaningful. torchmetrics
          computes accuracy, accuracy_top5 and ece, and torch the NLL. The others (brier,
          temperature, scaled scores, other errors, aurc, entropy) only this package computes.
          torchmetrics gets float32 logits, the type of a model's output, and float64, the type
          that this package computes in.
Needs     torchmetrics, which the package does not: pip install -c constraints.txt torchmetrics
Run       python -m benchmarks.scores [--samples 10000] [--classes 1000] [--rounds 7] [--quick]
"""

import importlib
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.shared.arguments import parse, parser
from benchmarks.shared.tables import markdown_table
from benchmarks.shared.timing import alternate, seconds_of
from sweeper.scoring import score
from sweeper.scoring.calibration import BINS, add_class_gaps
from sweeper.scoring.ranking import ranking
from sweeper.scoring.samples import class_values, sample_values
from sweeper.scoring.score_inputs import blocks
from sweeper.scoring.selective import aurc_of_ranking
from sweeper.scoring.temperature import cross_fit, fit_beta, split_in_halves

SMALL = (360, 10)
HAS_TORCHMETRICS = find_spec("torchmetrics") is not None


def evaluation(samples: int, classes: int) -> tuple[Tensor, Tensor]:
    """Return overconfident float32 logits that are right about two times in three, and labels."""
    source = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (samples,), generator=source)
    logits = torch.randn(samples, classes, generator=source)
    logits[torch.arange(samples), labels] += 3.5 if classes > 100 else 2.0
    return 3 * logits, labels


def theirs(logits: Tensor, labels: Tensor) -> Callable[[], list[Tensor]]:
    """Return a function that computes the scores of torchmetrics and torch."""
    metrics: Any = importlib.import_module("torchmetrics.functional.classification")
    classes = logits.shape[1]

    def run() -> list[Tensor]:
        return [
            functional.cross_entropy(logits, labels),
            metrics.multiclass_accuracy(logits, labels, classes, average="micro"),
            metrics.multiclass_accuracy(logits, labels, classes, average="micro", top_k=5),
            metrics.multiclass_calibration_error(logits, labels, classes, n_bins=BINS),
        ]

    return run


def timed(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each side, after one round that does not count."""
    spent = alternate({name: partial(seconds_of, side) for name, side in sides.items()}, rounds + 1)
    return {name: statistics.median(seconds[1:]) for name, seconds in spent.items()}


def sides(logits: Tensor, labels: Tensor) -> dict[str, Callable[[], object]]:
    """Return the sides: all scores, those of an epoch, and torchmetrics in both precisions."""
    found: dict[str, Callable[[], object]] = {
        "ours, in full": lambda: score(logits, labels),
        "ours, of an epoch": lambda: score(logits, labels, full=False),
    }
    if HAS_TORCHMETRICS:
        found["torchmetrics, float32"] = theirs(logits, labels)
        found["torchmetrics, float64"] = theirs(logits.double(), labels)
    return found


def phases(logits: Tensor, labels: Tensor) -> dict[str, Callable[[], object]]:
    """Return the phases of the scores in full."""
    halves = split_in_halves(logits, labels)
    beta = fit_beta(halves.all)
    gaps = torch.zeros(logits.shape[1], BINS, dtype=torch.float64)
    parts = [sample_values(*block) for block in blocks(logits, labels)]
    confidence = torch.cat([samples.confidence for samples, _ in parts])
    hits = torch.cat([samples.correct for samples, _ in parts]).double()

    def judge() -> None:
        for block in blocks(logits, labels):
            sample_values(*block)

    def spread_again() -> None:
        for samples, shares in parts:
            copied = shares._replace(log_p=shares.log_p.clone())
            class_values(samples, copied, gaps)

    def class_gaps() -> None:
        for samples, (_, p, own) in parts:
            add_class_gaps(gaps, p, samples.nll.neg().exp(), own)

    return {
        "softmax, max, nll, brier": judge,
        "top 5, entropy, class gaps": spread_again,
        "of these, class gaps": class_gaps,
        "sort and aurc": lambda: aurc_of_ranking(ranking(confidence), hits),
        "halves and margins": lambda: split_in_halves(logits, labels),
        "temperature of all": lambda: fit_beta(halves.all),
        "temperatures of the halves": lambda: cross_fit(halves, beta),
    }


def show(seconds: Mapping[str, float], unit: str) -> None:
    """Print milliseconds and ratios to one of the sides."""
    rows = [
        [name, f"{1000 * spent:.2f}", f"{spent / seconds[unit]:.2f}"]
        for name, spent in seconds.items()
    ]
    print(markdown_table(["", "ms", f"ratio to {unit}"], rows), end="\n\n", flush=True)


def main() -> None:
    """Measure one large evaluation, its phases, and one as small as that of a digits trial."""
    arguments = parser(__doc__)
    arguments.add_argument("--samples", type=int, default=10_000)
    arguments.add_argument("--classes", type=int, default=1_000)
    arguments.add_argument("--rounds", type=int, default=7)
    given = parse(arguments, samples=1_000, classes=100, rounds=1)
    if not HAS_TORCHMETRICS:
        if not given.quick:
            arguments.error("torchmetrics is not installed")
        print("skipped: torchmetrics is not installed")
    torch.set_num_threads(1)
    large = evaluation(given.samples, given.classes)
    for logits, labels in (large, evaluation(*SMALL)):
        print("{:,} × {:,}\n".format(*logits.shape))
        whole = "ours, in full"
        base = "torchmetrics, float64" if HAS_TORCHMETRICS else whole
        seconds = timed(sides(logits, labels), given.rounds)
        show(seconds, base)
        parts = timed(phases(logits, labels), given.rounds)
        show({whole: seconds[whole], **parts}, whole)


if __name__ == "__main__":
    main()
