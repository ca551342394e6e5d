"""Compute the scores of logits against hard labels."""

import math
from dataclasses import fields, replace

import torch
from torch import Tensor

from sweeper.scoring.calibration import (
    BINS,
    bin_of,
    classwise_ece,
    debiased_ece,
    diagram_sums,
    equal_mass_ece,
    sum_by_bin,
    weighted_ece,
)
from sweeper.scoring.logits_file import Logits
from sweeper.scoring.ranking import ranking
from sweeper.scoring.samples import (
    MIN_CLASSES_FOR_TOP5,
    Columns,
    Samples,
    class_values,
    sample_values,
)
from sweeper.scoring.score_inputs import blocks, check_inputs
from sweeper.scoring.scores import Scores
from sweeper.scoring.selective import aurc_of_ranking, lowest_aurc
from sweeper.scoring.temperature import Halves, cross_fit, fit_beta, split_in_halves


def score(
    logits: Logits, labels: Tensor, *, full: bool = True, groups: Tensor | None = None
) -> Scores:
    """Return the scores of logits (N, K) against hard labels (N,).

    The logits can have any float type and device; scores are computed in float64 on the CPU. With
    `full=False` only nll, accuracy, brier and ece are computed. `groups` (N,) are integers;
    samples of the same group, such as the words of a text, are in the same half when calibrated
    scores are computed. A logit of -inf masks its class.
    Ties are resolved in favor of the lower class. If a logit is NaN or +inf, all scores are NaN.
    Raises ValueError for other shapes and types, no samples, and labels outside [0, K).
    """
    logits, labels = check_inputs(logits, labels)
    if full:
        return _full_scores(logits, labels, groups)
    samples = Columns(len(labels))
    for block in blocks(logits, labels):
        samples.add(sample_values(*block)[0])
    return _scores(Samples(*samples.values))


def _scores(samples: Samples) -> Scores:
    # This runs after every epoch. The overhead per operation dominates, so use few operations.
    count = samples.nll.numel()
    nll = samples.nll.sum().item() / count
    if math.isnan(nll):
        return Scores(math.nan, math.nan, math.nan, math.nan)
    hits = samples.correct.double()
    gaps = sum_by_bin(samples.confidence - hits, bin_of(samples.confidence))
    return Scores(
        nll=nll,
        accuracy=hits.sum().item() / count,
        brier=samples.brier.sum().item() / count,
        ece=gaps.abs().sum().item() / count,
    )


def _full_scores(logits: Logits, labels: Tensor, groups: Tensor | None) -> Scores:
    columns, top, entropy = (Columns(len(labels)) for _ in range(3))
    gaps = torch.zeros(logits.shape[1], BINS, dtype=torch.float64)
    for block in blocks(logits, labels):
        samples, probabilities = sample_values(*block)
        if samples.nll.isnan().any():
            return _nan_scores(logits.shape[1])
        columns.add(samples)
        others = class_values(samples, probabilities, gaps)
        entropy.add([others.entropy])
        if others.top is not None:
            top.add([others.top])
    samples = Samples(*columns.values)
    return replace(
        _scores(samples),
        accuracy_top5=_mean(*top.values) if top.values else None,
        entropy=_mean(*entropy.values),
        ece_classwise=classwise_ece(gaps, logits),
        **_confidence_scores(samples),
        **_calibrated_scores(split_in_halves(logits, labels, groups), samples.correct),
    )


def _nan_scores(classes: int) -> Scores:
    names = [field.name for field in fields(Scores)]
    if classes < MIN_CLASSES_FOR_TOP5:
        names.remove("accuracy_top5")
    return Scores(**dict.fromkeys(names, math.nan))


def _mean(values: Tensor) -> float:
    return values.double().mean().item()


def _confidence_scores(samples: Samples) -> dict[str, float]:
    confidence, hits = samples.confidence, samples.correct.double()
    sums, ranked = diagram_sums(confidence, hits), ranking(confidence)
    gaps = (sums[1] - sums[2]) / len(hits)
    area = aurc_of_ranking(ranked, hits).item()
    return {
        "ece_adaptive": equal_mass_ece(ranked, hits),
        "ece_debiased": debiased_ece(sums),
        "overconfidence": gaps.clamp(min=0).sum().item(),
        "underconfidence": (-gaps).clamp(min=0).sum().item(),
        "aurc": area,
        # Rounding can make the difference slightly negative.
        "eaurc": max(area - lowest_aurc(hits), 0.0),
    }


def _calibrated_scores(halves: Halves, correct: Tensor) -> dict[str, float]:
    beta = fit_beta(halves.all)
    nll, confidence = cross_fit(halves, beta)
    return {
        "temperature": 1 / beta,
        "nll_calibrated": nll.mean().item(),
        "ece_calibrated": weighted_ece(confidence, correct),
    }
