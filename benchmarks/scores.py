"""What the scores of one evaluation cost, beside torchmetrics doing what it has of them.

Claim     Of 10,000 × 1,000 logits, all scores in full, three fitted temperatures among them, take
          less time than torchmetrics needs for the four that it has; those of an epoch (nll,
          accuracy, brier, ece) take less than a fifth of that.
Method    One process, one thread. The sides take turns, since a machine's speed drifts, and the
          median of each is compared: only ratios within one run mean something. torchmetrics
          works out accuracy, accuracy_top5 and ece, torch the NLL; what it has no more of
          (brier, temperature, what is scaled, other errors, aurc, entropy) is ours alone. It
          gets float32 logits, as a model gives them, and float64, which is what ours computes in.
Needs     torchmetrics, which the package does not: pip install -c constraints.txt torchmetrics
Run       python benchmarks/scores.py [--samples 10000] [--classes 1000] [--rounds 7]
"""

import argparse
import importlib
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sweeper.scoring import score
from sweeper.scoring.calibration import BINS, add_class_gaps
from sweeper.scoring.ranking import ranking
from sweeper.scoring.samples import judged, spread
from sweeper.scoring.score_inputs import blocks
from sweeper.scoring.selective import ranked_area
from sweeper.scoring.temperature import cross_fitted, fitted_beta, halved

SMALL = (360, 10)


def evaluation(samples: int, classes: int) -> tuple[Tensor, Tensor]:
    """Return float32 logits that are right about two times in three, too sure, and labels."""
    source = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (samples,), generator=source)
    logits = torch.randn(samples, classes, generator=source)
    logits[torch.arange(samples), labels] += 3.5 if classes > 100 else 2.0
    return 3 * logits, labels


def theirs(logits: Tensor, labels: Tensor) -> Callable[[], list[Tensor]]:
    """Return what works out the scores that torchmetrics and torch have."""
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
    """Return the median seconds of each side, after one turn that does not count."""
    spent: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, side in sides.items():
            began = time.perf_counter()
            side()
            spent[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds[1:]) for name, seconds in spent.items()}


def whole(logits: Tensor, labels: Tensor) -> dict[str, Callable[[], object]]:
    """Return the sides: all of ours, an epoch's, and theirs in both precisions."""
    return {
        "ours, in full": lambda: score(logits, labels),
        "ours, of an epoch": lambda: score(logits, labels, full=False),
        "torchmetrics, float32": theirs(logits, labels),
        "torchmetrics, float64": theirs(logits.double(), labels),
    }


def phases(logits: Tensor, labels: Tensor) -> dict[str, Callable[[], object]]:
    """Return the parts of the scores in full, each from the start or from what went before."""
    halves = halved(logits, labels)
    beta = fitted_beta(halves.all)
    gaps = torch.zeros(logits.shape[1], BINS, dtype=torch.float64)
    parts = [judged(*block) for block in blocks(logits, labels)]
    confidence = torch.cat([samples.confidence for samples, _ in parts])
    hits = torch.cat([samples.correct for samples, _ in parts]).double()

    def judge() -> None:
        for block in blocks(logits, labels):
            judged(*block)

    def spread_again() -> None:
        for samples, shares in parts:
            copied = shares._replace(log_p=shares.log_p.clone())
            spread(samples, copied, gaps)

    def class_gaps() -> None:
        for samples, (_, p, own) in parts:
            add_class_gaps(gaps, p, samples.nll.neg().exp(), own)

    return {
        "softmax, max, nll, brier": judge,
        "top 5, entropy, class gaps": spread_again,
        "of these, class gaps": class_gaps,
        "sort and aurc": lambda: ranked_area(ranking(confidence), hits),
        "halves and margins": lambda: halved(logits, labels),
        "temperature of all": lambda: fitted_beta(halves.all),
        "temperatures of the halves": lambda: cross_fitted(halves, beta),
    }


def show(title: str, seconds: Mapping[str, float], unit: float) -> None:
    """Print seconds in milliseconds and in parts of `unit`."""
    print(title)
    for name, spent in seconds.items():
        print(f"  {name:28} {1000 * spent:9.2f} ms   {spent / unit:6.2f}")


def main() -> None:
    """Measure one large evaluation, its phases, and one as small as a digits trial's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    large = evaluation(arguments.samples, arguments.classes)
    for logits, labels in (large, evaluation(*SMALL)):
        size = "{:,} × {:,}".format(*logits.shape)
        seconds = timed(whole(logits, labels), arguments.rounds)
        unit = seconds["torchmetrics, float64"]
        show(f"{size}, in parts of torchmetrics' float64:", seconds, unit)
        unit = seconds["ours, in full"]
        spent = timed(phases(logits, labels), arguments.rounds)
        show("phases, in parts of the whole:", spent, unit)


if __name__ == "__main__":
    main()
