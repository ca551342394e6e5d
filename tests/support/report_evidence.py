"""A made-up confirmation, for the tests of the report."""

from typing import Any

import numpy as np

from sweeper.confirmation.candidate import Candidate
from sweeper.confirmation.evidence import Evidence, Replicate
from sweeper.confirmation.verdict import verdict
from sweeper.report import ReportInput
from sweeper.study.spec import ConfirmSection
from tests.support.report_frames import make_report

SEEDS, EXAMPLES = 6, 300
LABELS = {"valid": "drawn by hand", "test": "checked twice", "train": "20 % replaced"}
POINTS: dict[str, dict[str, Any]] = {
    "baseline": {"epsilon": 0.0, "schedule": "fixed", "rate": 1.0},
    "pick": {"epsilon": 0.2, "schedule": "cosine", "rate": 2.0},
    "runner-up": {"epsilon": 0.3, "schedule": "linear", "rate": 1.5},
    "default": {"epsilon": 0.09, "schedule": "fixed", "rate": 1.0},
}


def make_evidence(
    shifts: tuple[float, ...] = (-0.04, -0.03, 0.06),
    searched: float | None = 0.08,
    seed_sd: float = 0.0,
    **changes: Any,
) -> Evidence:
    """Return a confirmation in which candidates differ from ε = 0 by `shifts`, the pick first.

    `seed_sd` is the noise that a seed gives to all candidates alike.
    """
    settings = {"replicates": SEEDS, **changes.pop("settings", {})}
    roles = list(POINTS)[: len(shifts) + 1]
    chosen = [Candidate(role, POINTS[role], 3, searched) for role in roles]  # type: ignore[arg-type]
    chosen[0] = Candidate("baseline", POINTS["baseline"], 0, 0.126)
    replicates = [
        make_replicate(index, number, shift, seed_sd)
        for number in range(settings["replicates"])
        for index, shift in enumerate((0.0, *shifts))
    ]
    fields: dict[str, Any] = {"number": 1, "metric": "nll", "labels": LABELS}
    fields |= {
        "candidates": chosen,
        "replicates": replicates,
        "settings": ConfirmSection(**settings),
    }
    return Evidence(**fields | changes)


def make_replicate(candidate: int, number: int, shift: float, seed_sd: float) -> Replicate:
    """Return a training whose examples are those of ε = 0 moved by a shift."""
    example = np.random.default_rng(0)
    seed = np.random.default_rng([candidate, number])
    shared = np.random.default_rng(number).normal(0, seed_sd)
    nll = example.exponential(0.2, EXAMPLES) + shift + shared + seed.normal(0, 0.003)
    confidence = example.uniform(0.3, 1.0, EXAMPLES)
    correct = (example.uniform(0, 1, EXAMPLES) < confidence - 0.1).astype(float)
    examples = {"nll": nll, "nll_calibrated": nll - 0.01, "brier": nll, "correct": correct}
    examples |= {"confidence": confidence, "confidence_calibrated": confidence - 0.1}
    valid = 0.12 + shift + seed.normal(0, 0.003)
    scores = {"valid": {"nll": valid, "nll_calibrated": valid - 0.01, "accuracy": 0.97}}
    scores |= {"train": {"nll": 0.01 + shift / 10, "accuracy": 0.999}}
    scores |= {"test": {"nll": float(nll.mean()), "accuracy": float(correct.mean())}}
    rows = {"valid": 200, "test": EXAMPLES, "train": 900}
    return Replicate(candidate, number, number, scores, rows, examples)


def confirmed_report(evidence: Evidence, **changes: Any) -> ReportInput:
    """Return the made-up study with a confirmation, and with its verdict where it is complete."""
    found = verdict(evidence) if evidence.complete else None
    return make_report(evidence=evidence, verdict=found, label_source=LABELS, **changes)
