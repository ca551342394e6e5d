"""How good a model is on held-out data, whatever it was trained with."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace

import torch
from torch import Tensor

from sweeper.scoring.calibration import (
    BINS,
    bin_of,
    binned,
    class_error,
    debiased_error,
    diagram,
    ece_of,
    equal_mass_error,
)
from sweeper.scoring.ranking import ranking
from sweeper.scoring.samples import FEWEST_CLASSES_FOR_TOP, Samples, Spread, joined, judged, spread
from sweeper.scoring.score_inputs import blocks, checked
from sweeper.scoring.selective import least_area, ranked_area
from sweeper.scoring.temperature import cross_fitted, fitted_beta, halved


@dataclass(frozen=True)
class Scores:
    """The unsmoothed scores of one evaluation, against hard labels.

    `nll` in nats; `accuracy` and `accuracy_top5` in [0, 1], the latter None below 10 classes;
    `brier` in [0, 2], the squared error summed over classes; `ece` in [0, 1], 15 equal bins.
    `temperature` is fitted on all samples; `nll_calibrated` and `ece_calibrated` are the NLL and
    ECE after scaling with a temperature fitted on the other half.

    The ECE in other ways, in [0, 1]: `ece_adaptive` with 15 bins of equal count; `ece_classwise`,
    the mean over classes of the error of p_k against 1[y = k]; `ece_debiased`, the root of the
    debiased squared error; `overconfidence` and `underconfidence`, the parts of `ece` from bins
    whose confidence is above and below their accuracy. `aurc` is the area under the
    risk-coverage curve, `eaurc` what it is above the least one at this accuracy, both in [0, 1];
    `entropy` the mean entropy of the predictions, in nats.

    What is not asked for is None. Every number is NaN when the logits hold NaN or +inf.
    """

    nll: float
    accuracy: float
    brier: float
    ece: float
    accuracy_top5: float | None = None
    temperature: float | None = None
    nll_calibrated: float | None = None
    ece_adaptive: float | None = None
    ece_classwise: float | None = None
    ece_debiased: float | None = None
    overconfidence: float | None = None
    underconfidence: float | None = None
    aurc: float | None = None
    eaurc: float | None = None
    entropy: float | None = None
    ece_calibrated: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        """Return the fields as plain data."""
        return asdict(self)


def score(logits: Tensor, labels: Tensor, *, full: bool = True) -> Scores:
    """Return the scores of logits (N, K) against hard labels (N,).

    Any float type and device; computed in float64 on the CPU. Without `full` they are nll,
    accuracy, brier and ece alone. A logit of -inf masks its class. Ties go to the lower class.
    Raises ValueError for other shapes and types, no samples, and labels outside [0, K); NaN and
    +inf give NaN.
    """
    logits, labels = checked(logits, labels)
    if full:
        return _in_full(logits, labels)
    return _scores(joined([judged(*block)[0] for block in blocks(logits, labels)]))


def _scores(samples: Samples) -> Scores:
    # Runs every epoch, where each operation costs more than its arithmetic: few of them.
    count = samples.nll.numel()
    nll = samples.nll.sum().item() / count
    if math.isnan(nll):
        return Scores(math.nan, math.nan, math.nan, math.nan)
    hits = samples.correct.double()
    gaps = binned(samples.confidence - hits, bin_of(samples.confidence))
    return Scores(
        nll=nll,
        accuracy=hits.sum().item() / count,
        brier=samples.brier.sum().item() / count,
        ece=gaps.abs().sum().item() / count,
    )


def _in_full(logits: Tensor, labels: Tensor) -> Scores:
    parts, spreads = [], []
    gaps = torch.zeros(logits.shape[1], BINS, dtype=torch.float64)
    for block in blocks(logits, labels):
        samples, shares = judged(*block)
        if samples.nll.isnan().any():
            return _diverged(logits.shape[1])
        parts.append(samples)
        spreads.append(spread(samples, shares, gaps))
    samples = joined(parts)
    return replace(
        _scores(samples),
        accuracy_top5=_top_accuracy(spreads),
        entropy=_mean([each.entropy for each in spreads]),
        ece_classwise=class_error(gaps, logits),
        **_of_confidence(samples),
        **_calibrated(logits, labels, samples.correct),
    )


def _diverged(classes: int) -> Scores:
    names = [field.name for field in fields(Scores)]
    if classes < FEWEST_CLASSES_FOR_TOP:
        names.remove("accuracy_top5")
    return Scores(**dict.fromkeys(names, math.nan))


def _top_accuracy(spreads: Sequence[Spread]) -> float | None:
    found = [each.top for each in spreads if each.top is not None]
    return _mean(found) if found else None


def _mean(parts: Sequence[Tensor]) -> float:
    return torch.cat(list(parts)).double().mean().item()


def _of_confidence(samples: Samples) -> dict[str, float]:
    confidence, hits = samples.confidence, samples.correct.double()
    sums, ranked = diagram(confidence, hits), ranking(confidence)
    gaps = (sums[1] - sums[2]) / len(hits)
    area = ranked_area(ranked, hits).item()
    return {
        "ece_adaptive": equal_mass_error(ranked, hits),
        "ece_debiased": debiased_error(sums),
        "overconfidence": gaps.clamp(min=0).sum().item(),
        "underconfidence": (-gaps).clamp(min=0).sum().item(),
        "aurc": area,
        # Rounding can leave less than nothing.
        "eaurc": max(area - least_area(hits), 0.0),
    }


def _calibrated(logits: Tensor, labels: Tensor, correct: Tensor) -> dict[str, float]:
    halves = halved(logits, labels)
    beta = fitted_beta(halves.all)
    nll, confidence = cross_fitted(halves, beta)
    return {
        "temperature": 1 / beta,
        "nll_calibrated": nll.mean().item(),
        "ece_calibrated": ece_of(confidence, correct),
    }
